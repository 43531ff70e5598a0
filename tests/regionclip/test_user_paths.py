"""From downloaded files to detections, by the commands that the recipes tell: conversion, zero-shot, any words, yaml, tools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg, instantiate
from detectron2.modeling import build_model
from torch import Tensor

from openvocab import Vocabulary, load_predictor
from openvocab.config import load_config
from openvocab.io import load_into, load_weights
from openvocab.testing.tiny import tiny_clip
from openvocab.text import load_text_embeddings
from regionclip import add_regionclip_config
from regionclip.modeling import CLIP_MEAN, CLIP_STD, RegionCLIP

from .modeling.tiny import assert_same
from .user_world import LONG, SHORT, TOWER, UserWorld, call, results, small_detector, small_tests, train_net

GIVEN, FOUND = "coco_2017_val_ovd_given", "coco_2017_val_ovd"
WORDS = "cat. remote control. stop sign."


def convert(user: UserWorld, target: str, source: str, *args: object, kind: str = "regionclip") -> Path:
    """Convert a downloaded file into the folder of the recipes."""
    path = user.files / target
    assert call("convert_weights", "--from", kind, *args, user.given / source, path) == 0
    return path


@pytest.fixture
def pretrained(user: UserWorld) -> Path:
    """As zero_shot/coco_rpn_rn50 says."""
    rpn = ("--rpn", user.given / "rpn_lvis_866.pth")
    return convert(user, "pretrained_rn50.safetensors", "regionclip_pretrained-cc_rn50.pth", *rpn)


@pytest.fixture
def demo_config(user: UserWorld, pretrained: Path, tmp_path: Path) -> Path:
    """zero_shot/custom_rn50 with the text tower out of the pretrained file."""
    convert(user, "clip_text_rn50.safetensors", "regionclip_pretrained-cc_rn50.pth", kind="clip-text")
    small = [*small_detector(), *small_tests(FOUND), f"model.text_encoder.model={tiny_clip()}"]
    path = tmp_path / "custom.py"
    path.write_text(
        "from openvocab.config import load_config\n"
        f"_cfg = load_config('regionclip/zero_shot/custom_rn50', {small!r})\n"
        "model, dataloader, train = _cfg.model, _cfg.dataloader, _cfg.train\n"
    )
    return path


def boxes_xyxy(rows: list[dict]) -> Tensor:
    boxes = torch.tensor([r["bbox"] for r in rows])
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def category_ids(user: UserWorld) -> list[int]:
    """Ids of COCO-OVD's 65 names, in their order."""
    ids = {c["name"]: c["id"] for c in user.instances()["categories"]}
    return [ids[n] for n in Vocabulary.builtin("coco_ovd_65").names]


# ---- conversion and zero-shot ---------------------------------------------------------------------------------------


def test_what_conversion_says(user: UserWorld, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    report = tmp_path / "report.json"
    path = convert(user, "told.safetensors", "regionclip_pretrained-cc_rn50.pth", "--report", report)
    said, told = capsys.readouterr().out, json.loads(report.read_text())
    written = load_weights(path).tensors
    assert set(told["matched"].values()) == set(written) and told["unexpected"] == []
    assert {k.partition(".")[0] for k in written} == {"backbone", "offline_rpn"}, "no teacher, no text tower"
    assert all("class_embeddings" in k or "bbox_pred" in k for k in told["missing"]), "a pretrained file has no box predictor"
    for part in ("matched", "missing", "text tower:", "teacher:", "offline_rpn: FPN"):
        assert part in said


def test_given_boxes_get_their_names(user: UserWorld, pretrained: Path, tmp_path: Path) -> None:
    """Class embeddings are the region tool's means: names are right only if all of the way is that of the tool."""
    small = [*small_detector(rpn=False), *small_tests(GIVEN)]
    write = f"+dataloader.test.{GIVEN}.evaluator.output_dir={tmp_path}"
    assert train_net("zero_shot/coco_gt_rn50", "--eval-only", *small, write, out=tmp_path) == 0
    found = results(tmp_path)[GIVEN]
    assert set(found["bbox_ovd"]) >= {"AP50_novel", "AP50_base", "AP50_all"} and found["bbox_ovd"]["AP50_all"] > 60
    words = ["--embeddings", user.files / "coco_65_cls_emb.pth", "--boxes", user.root / "coco/annotations/instances_val2017.json"]
    files = ["--input", user.root / "coco" / "val2017", "--output", tmp_path, "--size", SHORT, LONG, "--device", "cpu"]
    assert call("extract_region_features", "--weights", pretrained, *words, *files) == 0
    content, ids = user.instances(), category_ids(user)
    told = json.loads((tmp_path / "coco_instances_results.json").read_text())
    for image in content["images"]:
        rows = [r for r in told if r["image_id"] == image["id"]]
        saved = torch.load(tmp_path / f"{Path(image['file_name']).stem}.pth", weights_only=True)
        away = (boxes_xyxy(rows)[:, None] - saved["boxes"][None]).abs().amax(2)
        assert len(rows) and away.amin(1).max() < 0.01, "boxes are not moved"
        scores = saved["probs"][away.argmin(1), torch.tensor([ids.index(r["category_id"]) for r in rows])]
        assert torch.allclose(scores, torch.tensor([r["score"] for r in rows]), atol=2e-3)


@pytest.mark.parametrize("fusion", ["sqrt_logit", "sqrt_sigmoid"])
def test_proposals_get_names(user: UserWorld, pretrained: Path, tmp_path: Path, fusion: str) -> None:
    small = [*small_detector(), *small_tests(FOUND), f"model.roi_heads.box_predictor.postprocessor.score_fusion={fusion}"]
    write = f"+dataloader.test.{FOUND}.evaluator.output_dir={tmp_path}"
    assert train_net("zero_shot/coco_rpn_rn50", "--eval-only", *small, write, out=tmp_path) == 0
    found = results(tmp_path)[FOUND]["bbox_ovd"]
    assert all(0 <= found[f"AP50_{k}"] <= 100 for k in ("novel", "base", "all"))
    scores = [r["score"] for r in json.loads((tmp_path / "coco_instances_results.json").read_text())]
    assert scores and (fusion == "sqrt_logit" or max(scores) <= 1)


def test_a_fine_tuned_file_holds_its_names(user: UserWorld, tmp_path: Path) -> None:
    """As transfer/coco_ovd_rn50 says: its class embeddings come from the checkpoint itself."""
    path = convert(user, "coco_rn50.safetensors", "regionclip_finetuned-coco_rn50.pth")
    sets = (FOUND, f"{FOUND}_novel", f"{FOUND}_base")
    own = [f"train.init_checkpoint={path}", f"model.text_embeddings.path={path}"]
    assert train_net("transfer/coco_ovd_rn50", "--eval-only", *small_detector(), *small_tests(*sets), *own, out=tmp_path) == 0
    found = results(tmp_path)
    assert set(found[sets[1]]["bbox_ovd"]) >= {"AP50_novel_only"} and set(found[sets[2]]["bbox_ovd"]) >= {"AP50_base_only"}
    assert "AP50_novel" not in found[sets[1]]["bbox_ovd"], "an easier protocol never has the key of the harder one"
    words = Vocabulary.builtin("coco_ovd_65")
    table = load_text_embeddings(path, vocabulary=words)
    official = torch.load(user.given / "regionclip_finetuned-coco_rn50.pth", weights_only=True)["model"]
    assert torch.equal(table.vectors, official["roi_heads.box_predictor.test_cls_score.weight"])


# ---- pictures of one's own ------------------------------------------------------------------------------------------


def detections(out: Path) -> list[dict]:
    return json.loads((out / "detections.json").read_text())["results"]


def test_any_words_in_a_folder(user: UserWorld, demo_config: Path, tmp_path: Path) -> None:
    """By the text tower, and by a file of vectors that the tool made with it: the same detections."""
    clip = ["--model", tiny_clip(), "--pretrained", user.files / "clip_text_rn50.safetensors", "--quick-gelu", "yes"]
    table = tmp_path / "words.npz"
    assert call("dump_text_embeddings", "--text", WORDS, *clip, "--device", "cpu", table) == 0
    files = ["--input", user.root / "coco" / "val2017", "--device", "cpu", "--threshold", 0, "--top", 7, "--json"]
    found = []
    for name, words in (("text", ["--text", WORDS]), ("table", ["--embeddings", table])):
        assert call("demo", "--model", demo_config, *files, *words, "--output", tmp_path / name) == 0
        assert len(list((tmp_path / name).glob("*.png"))) == len(user.pictures)
        found.append(detections(tmp_path / name))
    first, second = found
    assert [r["vocabulary"] for r in first] == [["cat", "remote control", "stop sign"]] * len(user.pictures)
    assert all(r["detections"] for r in first)
    for a, b in zip(first, second, strict=True):
        assert [d["name"] for d in a["detections"]] == [d["name"] for d in b["detections"]]
        np.testing.assert_allclose([d["box"] for d in a["detections"]], [d["box"] for d in b["detections"]], atol=0.02)


def test_one_name_and_many(user: UserWorld, demo_config: Path, pretrained: Path) -> None:
    """Names of any count, set before the weights or after; each time another picture of the same network."""
    picture = user.pictures[0]
    after = load_predictor(demo_config, device="cpu", score_threshold=0)
    before = load_predictor(demo_config, device="cpu", score_threshold=0)
    for names in (["cat"], ["cat", "dog"], [f"thing {i}" for i in range(30)]):
        after.set_vocabulary(names)
        before.model.set_vocabulary(names)
        load_into(before.model, load_weights(pretrained).tensors)  # names that were set survive a file
        assert before.model.roi_heads.num_classes == len(names)
        found, again = after(picture), before(picture, names)
        assert len(found) and set(found.names) <= set(names)
        np.testing.assert_array_equal(found.boxes, again.boxes)
        np.testing.assert_array_equal(found.scores, again.scores)


def test_one_vector_of_the_official_tool(user: UserWorld, demo_config: Path, tmp_path: Path) -> None:
    """The official concept tool writes (D,) for one name; ours writes (1, D), and both can be read."""
    vector, file = torch.randn(TOWER.embed_dim), tmp_path / "concept_embeds.pth"
    (tmp_path / "names.txt").write_text("cat\n")
    shown = []
    for content in (vector, vector[None]):
        torch.save(content, file)
        words = ["--embeddings", file, "--vocabulary", tmp_path / "names.txt"]
        files = ["--input", user.pictures[0], "--device", "cpu", "--threshold", 0, "--json", "--output", tmp_path / "out"]
        assert call("demo", "--model", demo_config, *files, *words) == 0
        shown.append(detections(tmp_path / "out")[0]["detections"])
    assert shown[0] == shown[1] and {d["name"] for d in shown[0]} == {"cat"}


# ---- tools ----------------------------------------------------------------------------------------------------------


def test_regions_named_by_the_tool_are_those_of_the_detector(user: UserWorld, pretrained: Path, tmp_path: Path) -> None:
    """tools/extract_region_features.py with proposals and names, and the recipe of the same settings."""
    table = user.files / "coco_65_cls_emb.pth"
    options = ["--embeddings", table, "--size", SHORT, LONG, "--proposals", 40, "--threshold", 0.001, "--top", 100]
    files = ["--input", user.root / "coco" / "val2017", "--output", tmp_path, "--device", "cpu"]
    assert call("extract_region_features", "--weights", pretrained, *files, *options) == 0
    cfg = load_config("regionclip/zero_shot/coco_rpn_rn50", [*small_detector(), *small_tests(FOUND)])
    cfg.model.roi_heads.box_predictor.postprocessor.report = "class"
    model = instantiate(cfg.model).eval()
    load_into(model, load_weights(pretrained).tensors)
    for x in (x for batch in instantiate(cfg.dataloader.test[FOUND].loader) for x in batch):
        with torch.no_grad():
            found = model([x])[0]["instances"]
        saved = torch.load(tmp_path / f"{Path(x['file_name']).stem}.pth", weights_only=True)
        assert torch.equal(saved["classes"], found.pred_classes) and len(found)
        assert torch.allclose(saved["boxes"], found.pred_boxes.tensor, atol=0.02)
        best = saved["probs"].gather(1, saved["classes"][:, None])[:, 0]
        assert torch.allclose(best, found.scores, atol=1e-3)


# ---- yaml -----------------------------------------------------------------------------------------------------------

YAML = """
VERSION: 2
INPUT: {FORMAT: RGB}
TEST: {DETECTIONS_PER_IMAGE: 100}
MODEL:
  META_ARCHITECTURE: RegionCLIP
  BACKBONE: {NAME: build_regionclip_resnet_backbone}
  ROI_HEADS: {NAME: RegionCLIPROIHeads, SCORE_THRESH_TEST: 0.001}
  ROI_BOX_HEAD: {POOLER_RESOLUTION: 14, POOLER_SAMPLING_RATIO: 0, POOLER_TYPE: ROIAlignV2}
  REGIONCLIP: {BLOCKS: [1, 2, 1, 1], WIDTH: 8, EMBED_DIM: 32, SOFT_NMS: gaussian, OFFLINE_RPN_POST_NMS_TOPK: 40}
"""


def yaml_model(user: UserWorld, tmp_path: Path, table: Path) -> RegionCLIP:
    cfg = get_cfg()
    add_regionclip_config(cfg)
    (tmp_path / "regionclip.yaml").write_text(YAML)
    cfg.merge_from_file(str(tmp_path / "regionclip.yaml"))
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.MODEL.DEVICE = list(CLIP_MEAN), list(CLIP_STD), "cpu"
    node: CfgNode = cfg.MODEL.REGIONCLIP
    node.OFFLINE_RPN, node.TEXT_EMBEDDINGS = str(user.given / "rpn.yaml"), str(table)
    node.VOCABULARY = list(Vocabulary.builtin("coco_ovd_65").names)
    return build_model(cfg)


def test_yaml_and_the_lazy_recipe_detect_the_same(user: UserWorld, tmp_path: Path) -> None:
    """COCO's fine-tuned detector: C4 proposals, moved boxes, soft-NMS."""
    path = convert(user, "coco_rn50.safetensors", "regionclip_finetuned-coco_rn50.pth")
    cfg = load_config("regionclip/transfer/coco_ovd_rn50", [*small_detector(), *small_tests(FOUND)])
    models = [instantiate(cfg.model), yaml_model(user, tmp_path, user.files / "coco_65_cls_emb.pth")]
    for model in models:
        load_into(model.eval(), load_weights(path).tensors)
    batch = next(iter(instantiate(cfg.dataloader.test[FOUND].loader)))
    with torch.no_grad():
        (lazy,), (yaml,) = (model(batch) for model in models)
    assert len(lazy["instances"]) > 20
    assert_same(lazy["instances"], yaml["instances"], atol=1e-3)  # yaml's RPN is detectron2's own, with its rounding
