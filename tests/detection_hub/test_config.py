"""yaml: the keys, the parts they build, and a whole model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from detection_hub import add_detection_hub_config
from openvocab.errors import ConfigError

from .conftest import sample

YAML = """
VERSION: 2
MODEL:
  META_ARCHITECTURE: DetectionHub
  BACKBONE: {NAME: build_detection_hub_timm_fpn_backbone}
  TIMM: {NAME: test_efficientnet, OUT_INDICES: [1, 2, 3, 4]}
  FPN: {OUT_CHANNELS: 16}
  DETECTION_HUB:
    NUM_QUERIES: 5
    NUM_STAGES: 2
    DIM: 16
    NUM_HEADS: 4
    FFN_DIM: 32
    DYNAMIC_DIM: 4
    TEXT_ENCODER: hashed
    DETECTIONS_PER_IMAGE: 3
    DATASETS:
      - {name: animals, vocabulary: [cat, dog], flags: [tight], label_policy: partial}
"""


def config(tmp_path: Path, *changes: object) -> CfgNode:
    path = tmp_path / "hub.yaml"
    path.write_text(YAML)
    cfg = get_cfg()
    add_detection_hub_config(cfg)
    cfg.merge_from_file(str(path))
    cfg.merge_from_list(list(changes))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def test_a_yaml_model_trains_and_detects(tmp_path: Path) -> None:
    model = build_model(config(tmp_path))
    assert model.hub.datasets["animals"].label_policy == "partial" and model.hub.datasets["animals"].flags == (("tight", 1.0),)
    sum(model.train()([sample("animals")]).values()).backward()
    with torch.no_grad():
        assert len(model.eval()([sample("animals")])[0]["instances"]) <= 3


def test_another_decoder_from_yaml(tmp_path: Path) -> None:
    model = build_model(config(tmp_path, "MODEL.DETECTION_HUB.DECODER", "DetrDecoder"))
    assert (type(model.head).__name__, model.head.num_stages, model.head.stride) == ("DetrDecoder", 2, 32)
    sum(model.train()([sample("animals")]).values()).backward()
    assert model.head.place.weight.grad.abs().sum() > 0


def test_sparse_rcnn_from_yaml(tmp_path: Path) -> None:
    hub = "MODEL.DETECTION_HUB."
    model = build_model(config(tmp_path, f"{hub}ARM", "none", f"{hub}NUM_CLASSES", 4))
    assert model.hub is None and model.head.head_series[0].class_logits.weight.shape == (4, 16)
    with pytest.raises(ConfigError, match="NUM_CLASSES=4"):
        build_model(config(tmp_path, f"{hub}NUM_CLASSES", 4))


@pytest.mark.slow
def test_swin_from_yaml(tmp_path: Path) -> None:
    swin = "MODEL.SWIN."
    cfg = config(
        tmp_path, "MODEL.BACKBONE.NAME", "build_detection_hub_swin_fpn_backbone", f"{swin}OUT_INDICES", [0, 1, 2, 3],
        f"{swin}EMBED_DIM", 24, f"{swin}DEPTHS", [1, 1, 1, 1], "MODEL.BACKBONE.FREEZE_AT", 0,
    )  # fmt: skip
    model = build_model(cfg).eval()
    assert sorted(model.backbone.output_shape()) == ["p2", "p3", "p4", "p5"]
    with torch.no_grad():
        model([sample("animals")])
