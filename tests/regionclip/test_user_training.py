"""Training by the shipped recipes: transfer to COCO-OVD and LVIS, pretraining from shards; interrupted, resumed, evaluated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from openvocab.io import load_weights
from openvocab.testing.tiny import tiny_clip

from .user_world import UserWorld, call, results, small_detector, small_rpn, small_tests, small_tower, small_training, train_net

PREDICTOR = "roi_heads.box_predictor."
COCO_SETS = ("coco_2017_val_ovd", "coco_2017_val_ovd_novel", "coco_2017_val_ovd_base")


def state(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def losses(out: Path) -> list[dict]:
    rows = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    return [row for row in rows if "total_loss" in row]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def interrupted(whole: Path, part: Path, name: str) -> Path:
    """A folder as a run leaves it that was stopped after a checkpoint of another."""
    part.mkdir()
    shutil.copy(whole / name, part / name)
    return part


# ---- transfer -------------------------------------------------------------------------------------------------------


def start_of(user: UserWorld, data: str, rpn: str) -> Path:
    path = user.files / f"{data}_start_rn50.safetensors"
    source = user.given / "regionclip_pretrained-cc_rn50.pth"
    assert call("convert_weights", "--from", "regionclip", "--rpn", user.given / f"{rpn}.pth", source, path) == 0
    return path


@pytest.mark.slow
def test_coco_from_the_start_over_a_resume_to_the_evaluation(user: UserWorld, tmp_path: Path) -> None:
    begin = load_weights(start_of(user, "coco", "rpn_coco_48")).tensors
    small = [*small_detector(), *small_training(4), *small_tests(*COCO_SETS)]
    whole, part, again = (tmp_path / n for n in ("whole", "part", "again"))
    assert train_net("transfer/coco_ovd_rn50", *small, out=whole) == 0
    end = state(whole / "model_final.pth")
    changed = {k for k, v in begin.items() if not torch.equal(end["model"][k], v)}
    assert changed and all(k.startswith("backbone.") for k in changed), "the RPN is frozen"
    frozen = ("backbone.conv", "backbone.bn", "backbone.layer1.")
    assert not any(k.startswith(frozen) or ".bn" in k or "running" in k for k in changed)
    assert {"backbone.layer2.0.conv2.weight", "backbone.attnpool.v_proj.weight"} <= changed
    table = torch.load(user.files / "coco_65_cls_emb.pth", weights_only=True)
    embeddings = end["model"][f"{PREDICTOR}class_embeddings"]
    assert embeddings.shape == (48, table.shape[1]) and all((table == row).all(1).any() for row in embeddings)
    assert len(end["vocabulary"]["names"]) == 48 and "cat" not in end["vocabulary"]["names"]
    assert {"loss_cls", "loss_box_reg"} <= set(losses(whole)[-1]) and "loss_mask" not in losses(whole)[-1]

    interrupted(whole, part, "model_0000001.pth")
    assert train_net("transfer/coco_ovd_rn50", "--resume", *small, "train.eval_period=-1", out=part) == 0
    assert [row["iteration"] for row in losses(part)] == [2, 3]
    assert same(state(part / "model_final.pth")["model"], end["model"])

    final = f"train.init_checkpoint={whole / 'model_final.pth'}"
    assert train_net("transfer/coco_ovd_rn50", "--eval-only", *small, final, out=again) == 0
    found = results(again)
    assert found == results(whole)
    assert set(found[COCO_SETS[0]]["bbox_ovd"]) >= {"AP50_novel", "AP50_base", "AP50_all"}
    assert None not in [found[COCO_SETS[0]]["bbox_ovd"][f"AP50_{k}"] for k in ("novel", "base", "all")]


@pytest.mark.slow
def test_lvis_with_masks_and_frequency_groups(user: UserWorld, tmp_path: Path) -> None:
    start_of(user, "lvis", "rpn_lvis_866_lsj")
    small = [*small_detector(mask=True), *small_training(2), *small_tests("lvis_v1_val")]
    assert train_net("transfer/lvis_rn50", *small, out=tmp_path / "run") == 0
    end = state(tmp_path / "run" / "model_final.pth")
    assert "loss_mask" in losses(tmp_path / "run")[-1] and len(end["vocabulary"]["names"]) == 866
    assert end["model"][f"{PREDICTOR}class_embeddings"].shape[0] == 866
    found = results(tmp_path / "run")["lvis_v1_val"]
    assert set(found) == {"bbox", "segm"}
    for kind in found.values():
        assert all(kind[k] is not None and 0 <= kind[k] <= 100 for k in ("AP", "APr", "APc", "APf"))


def test_lvis_fixed_of_a_fine_tuned_file(user: UserWorld, tmp_path: Path) -> None:
    """As transfer/lvis_rn50_fixed says: names from the checkpoint, results under a key of their own."""
    path = user.files / "lvis_rn50.safetensors"
    source = user.given / "regionclip_finetuned-lvis_rn50.pth"
    assert call("convert_weights", "--from", "regionclip", source, path) == 0
    own = [f"train.init_checkpoint={path}", f"model.text_embeddings.path={path}"]
    small = [*small_detector(), *small_tests("lvis_v1_val_fixed")]
    assert train_net("transfer/lvis_rn50_fixed", "--eval-only", *small, *own, out=tmp_path) == 0
    found = results(tmp_path)["lvis_v1_val_fixed"]
    assert set(found) == {"bbox_fixed"} and {"AP", "APr", "APc", "APf"} <= set(found["bbox_fixed"])


# ---- pretraining ----------------------------------------------------------------------------------------------------


@pytest.fixture
def pretraining(user: UserWorld) -> list[str]:
    """The files that pretrain/cc3m_rn50 needs, by its commands; and its overrides."""
    archive, files = user.given / "RN50.pt", user.files
    clip = ("--pretrained", archive, "--allow-pickle", "--model", tiny_clip(), "--quick-gelu", "yes", "--device", "cpu")
    assert call("convert_weights", "--from", "clip", "--allow-pickle", archive, files / "clip_rn50.safetensors") == 0
    rpn = files / "rpn_lvis_866.safetensors"
    assert call("convert_weights", "--from", "regionclip-rpn", user.given / "rpn_lvis_866.pth", rpn) == 0
    nouns = ("--concepts", user.root / "coco_nouns.txt", "--plain", files / "coco_nouns_rn50.pth")
    assert call("dump_text_embeddings", *clip, *nouns) == 0
    text = {"model": tiny_clip(), "pretrained": archive, "allow_pickle": "true"}
    size = "dataloader.train.mapper.augmentations.0"
    return [
        *small_tower(),
        *small_tower("model.teacher"),
        *small_rpn("model.proposals.network", 20),
        *(f"model.text_encoder.{k}={v}" for k, v in text.items()),
        *("dataloader.train.num_workers=0", "dataloader.train.total_batch_size=2", "dataloader.train.buffer_size=4"),
        *(f"{size}.short_edge_length=96", f"{size}.max_size=192", "model.sample_regions=6", "lr_multiplier.warmup_length=0.1"),
        *("train.max_iter=4", "train.checkpointer.period=2", "train.reference_batch_size=2"),
        *small_tests("coco_2017_val"),
    ]


def test_concepts_by_either_tool_are_the_same(user: UserWorld, pretraining: list[str], tmp_path: Path) -> None:
    names = [line.partition(",")[0] for line in (user.root / "coco_nouns.txt").read_text().splitlines()]
    (tmp_path / "concepts.txt").write_text("\n".join(names))
    clip = ("--pretrained", user.given / "RN50.pt", "--allow-pickle", "--model", tiny_clip(), "--quick-gelu", "yes")
    assert call("extract_concept_features", "--input", tmp_path, "--output", tmp_path, *clip, "--device", "cpu") == 0
    written = torch.load(tmp_path / "concept_embeds.pth", weights_only=True)
    assert torch.equal(written, torch.load(user.files / "coco_nouns_rn50.pth", weights_only=True))


def test_pretraining_from_shards_over_a_resume(user: UserWorld, pretraining: list[str], tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert train_net("pretrain/cc3m_rn50", *pretraining, "train.eval_period=-1", out=whole) == 0
    end = state(whole / "model_final.pth")
    assert {k.partition(".")[0] for k in end["model"]} == {"backbone"}, "the student alone"
    wanted = {"loss_img_txt_level", "loss_region_distill", "loss_concept_contrastive"}
    assert len(losses(whole)) == 4 and all(wanted <= set(row) for row in losses(whole)) and end["data"]["batches"] == [4]
    begin = load_weights(user.files / "clip_rn50.safetensors").tensors
    assert begin.keys() == end["model"].keys() and not same(begin, end["model"])

    interrupted(whole, part, "model_0000001.pth")
    assert train_net("pretrain/cc3m_rn50", "--resume", *pretraining, "train.eval_period=-1", out=part) == 0
    again = state(part / "model_final.pth")
    assert [row["iteration"] for row in losses(part)] == [2, 3]
    assert same(again["model"], end["model"]) and again["data"] == end["data"], "the same batches, regions and captions"


def test_pretraining_from_the_official_tsv_files(user: UserWorld, pretraining: list[str], tmp_path: Path) -> None:
    shards = {"_target_": "regionclip.pretraining.TsvShards", "images": [str(user.root / "cc3m" / "train_image_*.tsv")]}
    tsv = f"dataloader.train.shards={json.dumps(shards)}"
    assert train_net("pretrain/cc3m_rn50", *pretraining, tsv, "train.max_iter=1", "train.eval_period=-1", out=tmp_path) == 0
    assert len(losses(tmp_path)) == 1


@pytest.mark.slow
def test_a_pretrained_student_names_the_true_boxes(user: UserWorld, pretraining: list[str], tmp_path: Path) -> None:
    """The recipe's own evaluation: boxes that are given, though the model has a proposal network; and the start of transfer."""
    assert train_net("pretrain/cc3m_rn50", "--eval-only", *pretraining, out=tmp_path) == 0
    found, content = results(tmp_path)["coco_2017_val"]["regions"], user.instances()
    assert found["count"] == len(content["annotations"])
    assert "got no name" not in (tmp_path / "log.txt").read_text(), "each of them is answered"
    student, start = user.files / "clip_rn50.safetensors", tmp_path / "start.safetensors"
    assert call("convert_weights", "--from", "as-is", "--rpn", user.given / "rpn_coco_48.pth", student, start) == 0
    sets = [*small_detector(), *small_tests(*COCO_SETS), f"train.init_checkpoint={start}"]
    assert train_net("transfer/coco_ovd_rn50", "--eval-only", *sets, out=tmp_path / "transfer") == 0
