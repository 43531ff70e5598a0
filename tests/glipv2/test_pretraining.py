"""Pretraining as a whole: one loader of names, sentences and a teacher's boxes, all losses, and what the quick config learns."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from glipv2 import add_glipv2_config
from openvocab.config import instantiate, load_config
from openvocab.engine import evaluate_config, train
from openvocab.errors import TextEncoderError

from .test_contrast import with_caption

CONFIG = "glipv2/quick/shapes_grounding"
LOSSES = ("loss_alignment", "loss_box", "loss_centerness", "loss_inter", "loss_mlm")


def test_one_loader_mixes_the_three_kinds() -> None:
    cfg = load_config(CONFIG)
    batches = list(itertools.islice(instantiate(cfg.dataloader.train), 12))
    samples = [x for batch in batches for x in batch]
    kinds = {"_".join(x["dataset"].split("_")[:2]) for x in samples}
    assert kinds == {"shapes_color", "shapes_grounding", "shapes_pseudo"}
    share = sum("vocabulary" in x for x in samples) / len(samples)
    assert 0.3 < share < 0.7, "half of the samples bring names"
    assert any(len({x["dataset"] for x in batch}) > 1 for batch in batches), "and one batch may hold several kinds"
    for x in samples:
        classes = x["instances"].gt_classes
        assert len(classes) and int(classes.max()) < len(x["caption"] if "caption" in x else x["vocabulary"])


@pytest.mark.slow
def test_all_losses_fall_and_new_pictures_profit(tmp_path: Path) -> None:
    """The quick config, which starts from the shipped detector; its figures are printed."""
    options = [f"train.output_dir={tmp_path}", "train.log_period=10"]
    before = evaluate_config(load_config(CONFIG, options))["shapes"]["bbox"]["AP50"]
    after = train(load_config(CONFIG, options))["shapes"]["bbox"]["AP50"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    rows = [r for r in rows if "loss_mlm" in r]
    print(f"AP50 {before:.1f} -> {after:.1f}", {n: [round(rows[0][n], 3), round(rows[-1][n], 3)] for n in LOSSES})
    for name in LOSSES:
        first, last = (sum(r[name] for r in part) / len(part) for part in (rows[:3], rows[-3:]))
        assert last < first, name
    assert after > before + 2


def test_yaml_switches_the_losses_on() -> None:
    cfg = get_cfg()
    add_glipv2_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE, cfg.MODEL.GLIPV2.TEXT_SOURCE = "GLIPv2", "cpu", "minilm"
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.TIMM.NAME = "build_timm_fpn_backbone", 32, "test_efficientnet"
    options = {"NUM_BLOCKS": 1, "OFFICIAL": False, "DEFORMABLE": False, "TEXT_FROZEN": True, "LANGUAGE_HEADS": 2}
    for key, value in {**options, "LANGUAGE_FFN": 32, "ATTENTION_DIM": 32, "CONTRAST": True, "MLM": True}.items():
        setattr(cfg.MODEL.GLIPV2, key, value)
    losses = build_model(cfg).train()([with_caption("a red hat beside the old dog", ["red hat", "the old dog"])])
    assert set(losses) == set(LOSSES)
    cfg.MODEL.GLIPV2.TEXT_ENCODER = "hashed"
    with pytest.raises(TextEncoderError, match="no word embeddings"):
        build_model(cfg)
