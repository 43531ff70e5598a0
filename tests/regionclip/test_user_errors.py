"""What goes wrong with RegionCLIP's files and names, met on the command line: exit code 2, and one line that names the cause."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from openvocab import Vocabulary
from openvocab.testing.tiny import tiny_clip
from openvocab.text import save_text_embeddings

from .user_files import text_tower
from .user_world import TOWER, UserWorld, call, small_detector, small_rpn, small_tests, small_tower, small_training

GIVEN, FOUND = "coco_2017_val_ovd_given", "coco_2017_val_ovd"
WIDE = TOWER.embed_dim + 8


@pytest.fixture
def files(user: UserWorld, tmp_path: Path) -> dict[str, object]:
    """Names that commands below speak of."""
    words = Vocabulary.builtin("coco_ovd_65")
    save_text_embeddings(tmp_path / "wide.npz", torch.randn(65, WIDE), vocabulary=words)
    torch.save({"model": {"backbone.stem.conv1.weight": torch.ones(1)}}, tmp_path / "no_rpn.pth")
    torch.save({f"lang_encoder.{k}": v for k, v in text_tower().items()}, tmp_path / "text.pth")
    tower = user.files / "tower.safetensors"
    assert call("convert_weights", "--from", "regionclip", user.given / "regionclip_pretrained-cc_rn50.pth", tower) == 0
    return {"tmp": tmp_path, "given": user.given, "root": user.root, "tower": tower, "clip": tiny_clip()}


def command(text: str, files: dict[str, object]) -> list[str]:
    return text.format(**files).split()


def said(capsys: pytest.CaptureFixture, name: str, *args: object) -> str:
    """Run a command that must fail; return its one line."""
    capsys.readouterr()
    code, message = call(name, *args), capsys.readouterr().err
    assert code == 2 and message.startswith("error: ") and message.count("\n") == 1 and "Traceback" not in message, message
    return message


ERRORS = {
    "width, region tool": (
        "extract_region_features --weights {tower} --input {root}/coco/val2017 --output {tmp}/o --embeddings {tmp}/wide.npz",
        ["40 wide and the model's regions 32", "another text encoder"],
    ),
    "an RPN without its keys": (
        "convert_weights --from regionclip-rpn {tmp}/no_rpn.pth {tmp}/o.safetensors",
        ["there is no RPN among these 1 tensors", "proposal_generator", "rpn_coco_48.pth"],
    ),
    "an RPN without its keys, put into a file": (
        "convert_weights --from regionclip --rpn {tmp}/no_rpn.pth {given}/regionclip_pretrained-cc_rn50.pth {tmp}/o.safetensors",
        ["there is no RPN among these 1 tensors"],
    ),
    "RegionCLIP's file taken for CLIP's": (
        "convert_weights --from clip {given}/regionclip_pretrained-cc_rn50.pth {tmp}/o.safetensors",
        ["This is a RegionCLIP checkpoint: use from_official (--from regionclip)"],
    ),
    "another variant": (
        "convert_weights --from clip --variant RN50 --allow-pickle {given}/RN50.pt {tmp}/o.safetensors",
        ["the model is built for RN50", "1-2-1-1 blocks, width 8", "take the file of RN50"],
    ),
    "an archive that may run code": (
        "convert_weights --from clip {given}/RN50.pt {tmp}/o.safetensors",
        ["TorchScript archive", "allow_pickle"],
    ),
    "plain GELU, embeddings": (
        "dump_text_embeddings --text cat. --model {clip} --pretrained {tmp}/text.pth --quick-gelu no --device cpu {tmp}/o.npz",
        ["has plain GELU", "QuickGELU", "quick_gelu=True"],
    ),
    "plain GELU, concepts": (
        "extract_concept_features --input {root}/coco_nouns.txt --output {tmp} --model {clip} --pretrained {tmp}/text.pth "
        "--quick-gelu no --device cpu",
        ["has plain GELU"],
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_tools(files: dict[str, object], capsys: pytest.CaptureFixture, case: str) -> None:
    text, words = ERRORS[case]
    message = said(capsys, *command(text, files))
    assert all(w in message for w in words), message
    assert not list(Path(str(files["tmp"])).glob("o.*")), "nothing is written"


# what the trainer refuses: overrides of zero_shot/coco_gt_rn50 and words of the sentence
EVALUATION = {
    "width": (["model.text_embeddings.path={tmp}/wide.npz"], ["they are 40 wide and this model's regions 32", "RN50: 1024"]),
    "another variant": (
        ["++model.backbone.width=16", "train.init_checkpoint={tower}"],
        ["width 8", "the model is built for ModifiedResNet of 1-2-1-1 blocks, width 16", "its ROI pooler and text embeddings"],
    ),
    "no embeddings": (["model.text_embeddings=null"], ["there is no way to the vectors of 65 names", "text_encoder or text_emb"]),
    "a string instead of names": (
        [f"++dataloader.test.{GIVEN}.evaluator.novel=cat"],
        ["novel='cat' is one string; give a list of names"],
    ),
    "a string that would be excluded": (
        [f"++dataloader.test.{GIVEN}.loader.mapper.exclude_names=cat"],
        ["exclude_names='cat' is a string, not a list of names"],
    ),
    "plain GELU": (
        [
            "model.text_embeddings=null",
            "model.text_encoder={{_target_: openvocab.text.CLIPTextEncoder, model: {clip}, pretrained: {tmp}/text.pth, "
            "quick_gelu: false}}",
        ],
        ["has plain GELU", "OpenAI's and RegionCLIP's weights were trained with QuickGELU"],
    ),
    "true boxes with an RPN's scores": (
        ["model.roi_heads.box_predictor.postprocessor.score_fusion=sqrt_logit"],
        ["boxes of the ground truth have no RPN score", "score_fusion='none'"],
    ),
}


@pytest.mark.parametrize("case", EVALUATION)
def test_the_trainer(files: dict[str, object], capsys: pytest.CaptureFixture, case: str) -> None:
    changes, words = EVALUATION[case]
    small = [*small_detector(rpn=False), *small_tests(GIVEN), "train.init_checkpoint=", "train.device=cpu"]
    own = [c.format(**files) for c in changes]
    config = ["--eval-only", "--config-file", "regionclip/zero_shot/coco_gt_rn50", f"train.output_dir={files['tmp']}/out"]
    message = said(capsys, "train_net", *config, *small, *own)
    assert all(w in message for w in words), message


def test_the_demo_with_vectors_of_another_clip(user: UserWorld, files: dict, capsys: pytest.CaptureFixture) -> None:
    small = [*small_detector(), *small_tests(FOUND), f"train.init_checkpoint={files['tower']}"]
    config = files["tmp"] / "own.py"
    config.write_text(
        "from openvocab.config import load_config\n"
        f"_cfg = load_config('regionclip/zero_shot/coco_rpn_rn50', {small!r})\n"
        "model, dataloader, train = _cfg.model, _cfg.dataloader, _cfg.train\n"
    )
    table = ["--embeddings", files["tmp"] / "wide.npz", "--output", files["tmp"] / "demo", "--device", "cpu"]
    message = said(capsys, "demo", "--model", config, "--input", user.pictures[0], *table)
    assert "they are 40 wide and this model's regions 32" in message


def test_pretraining_with_concepts_of_another_clip(user: UserWorld, files: dict, capsys: pytest.CaptureFixture) -> None:
    """The official run's settings with a concept file of another width, and with a plain-GELU tower."""
    text = [f"model.text_encoder.model={files['clip']}", f"model.text_encoder.pretrained={files['tmp']}/text.pth"]
    wide = [f"model.concept_embeddings={files['tmp']}/wide.npz"]
    small = ["train.init_checkpoint=", "train.eval_period=-1", "train.device=cpu", "dataloader.train.num_workers=0"]
    small += ["dataloader.train.buffer_size=2", "dataloader.train.total_batch_size=2"]
    small += [*small_tower(), *small_tower("model.teacher"), *small_rpn("model.proposals.network")]
    config = ["--config-file", "regionclip/pretrain/cc3m_rn50", f"train.output_dir={files['tmp']}/out"]
    message = said(capsys, "train_net", *config, *small, *text, *wide)
    assert "embeddings are 40 wide and the model's regions 32" in message
    plain = [f"model.concept_embeddings={user.files}/coco_65_cls_emb.pth", "model.text_encoder.quick_gelu=false"]
    assert "has plain GELU" in said(capsys, "train_net", *config, *small, *text, *plain)


def test_a_detector_of_another_width_is_not_resumed(user: UserWorld, files: dict, capsys: pytest.CaptureFixture) -> None:
    small = [*small_detector(), *small_training(1), "train.init_checkpoint=", "train.eval_period=-1", "train.device=cpu"]
    config = ["--config-file", "regionclip/transfer/coco_ovd_rn50", f"train.output_dir={files['tmp']}/run"]
    assert call("train_net", *config, *small) == 0
    message = said(capsys, "train_net", "--resume", *config, *small, "++model.backbone.width=16")
    assert "does not fit this config" in message and "width 16" in message
