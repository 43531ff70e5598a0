"""yaml: the keys, what each does, and the same model as by the constructor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead

from openvocab.errors import ConfigError, VocabularyError
from openvocab.io import load_into
from openvocab.text import save_text_embeddings
from openvocab.vocabulary import Vocabulary
from regionclip import add_regionclip_config
from regionclip.convert import VARIANTS
from regionclip.modeling import (
    CLIP_MEAN,
    CLIP_STD,
    RegionCLIP,
    RegionCLIPOutputLayers,
    RegionCLIPROIHeads,
    RegionFeatures,
    RegionPostProcessor,
    SoftNMS,
    build_offline_rpn,
)

from .modeling.tiny import CHANNELS, DIM, NAMES, SIDE, detect, pooler, proposals, sample, tiny_backbone, vectors

YAML = """
VERSION: 2
INPUT: {FORMAT: RGB}
TEST: {DETECTIONS_PER_IMAGE: 9}
MODEL:
  META_ARCHITECTURE: RegionCLIP
  PIXEL_MEAN: [122.7709383, 116.7460125, 104.09373615]
  PIXEL_STD: [68.5005327, 66.6321579, 70.32316305]
  BACKBONE: {NAME: build_regionclip_resnet_backbone}
  ROI_HEADS: {NAME: RegionCLIPROIHeads, SCORE_THRESH_TEST: 0.001, BATCH_SIZE_PER_IMAGE: 16}
  ROI_BOX_HEAD: {POOLER_RESOLUTION: 4, POOLER_SAMPLING_RATIO: 2, POOLER_TYPE: ROIAlignV2}
  REGIONCLIP: {BLOCKS: [1, 1, 1, 1], WIDTH: 8, EMBED_DIM: 16, ATTNPOOL_SIDE: 2, OFFLINE_RPN: "", TEMPERATURE: 0.1}
"""
OURS = "MODEL.REGIONCLIP."


def base_config(text: str, *changes: object) -> CfgNode:
    cfg = get_cfg()
    add_regionclip_config(cfg)
    cfg.merge_from_other_cfg(CfgNode.load_cfg(text))
    cfg.merge_from_list(list(changes))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def config(*changes: object) -> CfgNode:
    """A small model; the inputs bring proposals."""
    return base_config(YAML, *changes)


def full_config(data: str = "coco", variant: str = "RN50") -> CfgNode:
    """A model of the official size, of COCO or LVIS transfer or of zero-shot inference."""
    cfg = base_config(
        YAML, f"{OURS}BLOCKS", [], f"{OURS}WIDTH", 0, f"{OURS}EMBED_DIM", 0, f"{OURS}ATTNPOOL_SIDE", 0, f"{OURS}DEPTH", variant
    )
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 2 * VARIANTS[variant].side
    cfg.MODEL.REGIONCLIP.OFFLINE_RPN = {"coco": "c4", "lvis": "fpn_lsj", "zero-shot": "fpn"}[data]
    cfg.MODEL.MASK_ON = data == "lvis"
    return cfg


def build(*changes: object) -> RegionCLIP:
    torch.manual_seed(0)
    model = build_model(config(*changes))
    assert isinstance(model, RegionCLIP)
    return model


def file(tmp_path: Path, names: list[str], *, plain: bool = False, seed: int = 0, dim: int = DIM) -> str:
    """Text embeddings; `plain` ones do not know their names."""
    path = tmp_path / f"{len(names)}_{dim}_emb{'.pth' if plain else '.npz'}"
    save_text_embeddings(path, vectors(len(names), dim, seed), vocabulary=Vocabulary.from_names(names), plain=plain)
    return str(path)


# ---- the same as by the constructor ---------------------------------------------------------------------------------


def by_constructor() -> RegionCLIP:
    """The LVIS-like model of `test_yaml_and_constructor_build_the_same`."""
    return RegionCLIP(
        backbone=tiny_backbone(),
        roi_heads=RegionCLIPROIHeads(
            region_features=RegionFeatures(pooler=pooler(2 * SIDE), chunk_size=3),
            box_predictor=RegionCLIPOutputLayers(
                input_dim=DIM,
                postprocessor=RegionPostProcessor(
                    score_fusion="sqrt_sigmoid",
                    score_threshold=0.02,
                    soft_nms=SoftNMS(sigma=0.3, threshold=0.4, prune=0.01),
                    max_detections=9,
                ),
                temperature=0.1,
                background_weight=0.8,
            ),
            mask_head=MaskRCNNConvUpsampleHead(ShapeSpec(channels=CHANNELS), num_classes=1, conv_dims=[4]),
            proposal_matcher=Matcher([0.5], [0, 1]),
            batch_size_per_image=16,
        ),
        pixel_mean=CLIP_MEAN,
        pixel_std=CLIP_STD,
    )


def test_yaml_and_constructor_build_the_same() -> None:
    ours, own = by_constructor(), build(
        "MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.CONV_DIM", 4, "MODEL.ROI_MASK_HEAD.NUM_CONV", 0, f"{OURS}CHUNK_SIZE", 3,
        f"{OURS}FOCAL_GAMMA", -1.0, f"{OURS}BACKGROUND_WEIGHT", 0.8, f"{OURS}SCORE_FUSION", "sqrt_sigmoid",
        f"{OURS}SOFT_NMS", "gaussian", f"{OURS}SOFT_NMS_SIGMA", 0.3, f"{OURS}SOFT_NMS_PRUNE", 0.01,
        "MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.4, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.02,
    )  # fmt: skip
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in own.state_dict().items()}
    assert {n for n, p in ours.named_parameters() if p.requires_grad} == {n for n, p in own.named_parameters() if p.requires_grad}
    load_into(own, ours.state_dict(), strict=True)
    x, losses = sample(mask=True, proposals=proposals(7)), []
    for model in (ours, own):
        model.set_vocabulary(NAMES, vectors())
        torch.manual_seed(1)
        losses.append(model.train()([x]))
    assert set(losses[0]) == {"loss_cls", "loss_box_reg", "loss_mask"}
    assert all(torch.allclose(v, losses[1][k]) for k, v in losses[0].items())
    (a,), (b,) = detect(ours, x), detect(own, x)
    assert len(a) and all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("scores", "pred_classes", "pred_masks"))


@pytest.mark.parametrize("kind", ["c4", "fpn", "fpn_lsj"])
def test_the_offline_rpn_of_yaml(kind: str) -> None:
    with torch.device("meta"):
        model = RegionCLIP(
            config(f"{OURS}OFFLINE_RPN", kind, f"{OURS}OFFLINE_RPN_NMS_THRESH", 0.9, f"{OURS}OFFLINE_RPN_POST_NMS_TOPK", 77)
        )
        wanted = build_offline_rpn(kind=kind)
    generator = model.offline_rpn.proposal_generator
    assert {k: v.shape for k, v in model.offline_rpn.state_dict().items()} == {k: v.shape for k, v in wanted.state_dict().items()}
    assert generator.nms_thresh == 0.9 and generator.post_nms_topk[False] == 77 and model.offline_rpn.flip


def test_an_rpn_of_the_users_own_yaml(tmp_path: Path) -> None:
    path = tmp_path / "rpn.yaml"
    path.write_text("MODEL: {RESNETS: {STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 8, WIDTH_PER_GROUP: 4}, DEVICE: cpu}\nVERSION: 2\n")
    model = build(f"{OURS}OFFLINE_RPN", str(path), f"{OURS}OFFLINE_RPN_POST_NMS_TOPK", 7, "INPUT.FORMAT", "BGR")
    model.set_vocabulary(NAMES, vectors())
    assert len(model.propose([sample()])[0]) <= 7 and model.offline_rpn.proposal_generator.nms_thresh == 0.7
    assert not model.offline_rpn.flip and detect(model, sample())


# ---- names ----------------------------------------------------------------------------------------------------------


def test_names_of_files_that_know_them(tmp_path: Path) -> None:
    """48 in training and 65 in evaluation."""
    few, all_names = file(tmp_path, list(NAMES)), file(tmp_path, [*NAMES, "cup"])
    model = build(f"{OURS}TEXT_EMBEDDINGS", few, f"{OURS}TEST_TEXT_EMBEDDINGS", all_names)
    assert model.vocabulary.names == NAMES and model.test_vocabulary.names == (*NAMES, "cup")
    assert model.train().roi_heads.num_classes == 3 and model.eval().roi_heads.num_classes == 4
    x = sample(proposals=proposals(5))
    assert torch.equal(detect(model, {**x, "vocabulary": [*NAMES, "cup"]})[0].scores, detect(model, x)[0].scores)


def test_names_of_files_that_do_not(tmp_path: Path) -> None:
    official = file(tmp_path, list(NAMES), plain=True)
    model = build(f"{OURS}TEXT_EMBEDDINGS", official, f"{OURS}TEST_TEXT_EMBEDDINGS", file(tmp_path, ["a", "b"], plain=True))
    assert model.vocabulary is None and model.test_vocabulary is None
    assert torch.equal(model.roi_heads.box_predictor.class_embeddings, vectors())
    assert model.eval().roi_heads.num_classes == 2
    named = build(f"{OURS}TEXT_EMBEDDINGS", official, f"{OURS}VOCABULARY", list(NAMES))
    assert named.vocabulary.names == NAMES and torch.equal(named.roi_heads.box_predictor.class_embeddings, vectors())
    with pytest.raises(VocabularyError, match="3 embeddings and 2 names"):
        build(f"{OURS}TEXT_EMBEDDINGS", official, f"{OURS}VOCABULARY", ["cat", "dog"])


def test_some_names_of_a_file(tmp_path: Path) -> None:
    model = build(f"{OURS}TEXT_EMBEDDINGS", file(tmp_path, list(NAMES)), f"{OURS}VOCABULARY", ["zebra"])
    assert model.vocabulary.names == ("zebra",)
    assert torch.equal(model.roi_heads.box_predictor.class_embeddings, vectors()[[2]])


def test_names_of_a_text_encoder() -> None:
    cfg = config(f"{OURS}TEXT_ENCODER", "hashed", f"{OURS}TEXT_RECIPE", "own", f"{OURS}VOCABULARY", ["cat", "hot dog"])
    cfg.MODEL.REGIONCLIP.TEXT_ENCODER_OPTIONS.dim = DIM
    model = build_model(cfg)
    assert model.vocabulary.names == ("cat", "hot dog") and model.roi_heads.num_classes == 2
    model.set_vocabulary("remote control")
    assert model.roi_heads.num_classes == 1


# ---- each key -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("NO_BOX_DELTA", True, lambda m: not m.roi_heads.box_predictor.regress_boxes),
        ("FOCAL_GAMMA", 2.0, lambda m: m.roi_heads.box_predictor.focal_gamma == 2.0),
        ("FOCAL_GAMMA", -1.0, lambda m: m.roi_heads.box_predictor.focal_gamma is None),
        ("BACKGROUND_WEIGHT", -1.0, lambda m: m.roi_heads.box_predictor.background_weight is None),
        ("TEMPERATURE", 0.5, lambda m: m.roi_heads.box_predictor.temperature == 0.5),
        ("SCORE_FUSION", "sqrt_logit", lambda m: m.roi_heads.box_predictor.postprocessor.score_fusion == "sqrt_logit"),
        ("REPORT", "class", lambda m: m.roi_heads.box_predictor.postprocessor.report == "class"),
        ("SOFT_NMS", "linear", lambda m: getattr(m.roi_heads.box_predictor.postprocessor.soft_nms, "method", "") == "linear"),
        ("REGION_DTYPE", "bfloat16", lambda m: m.roi_heads.region_features.dtype == "bfloat16"),
        ("REGIONS", "gt", lambda m: m.regions == "gt" and m.offline_rpn is None),
        ("REGION_LAYERS", "own", lambda m: not m.roi_heads.region_features.borrows and m.backbone.attnpool is None),
    ],
)
def test_what_a_key_does(key: str, value: object, read) -> None:
    assert read(build(OURS + key, value)) and not read(build())


def test_defaults_are_those_of_rn50_and_coco() -> None:
    with torch.device("meta"):
        model = RegionCLIP(full_config())
    backbone, predictor = model.backbone, model.roi_heads.box_predictor
    assert (backbone.depth, predictor.input_dim, predictor.focal_gamma, predictor.background_weight) == ("RN50", 1024, 0.5, 0.2)
    assert predictor.smooth_l1_beta == 0 and predictor.box2box_transform.weights == (10.0, 10.0, 5.0, 5.0)
    assert not any(p.requires_grad for p in backbone.layer1.parameters()) and backbone.layer2[0].conv1.weight.requires_grad


@pytest.mark.parametrize("layers", ["backbone", "own"])
def test_a_pyramid_lends_nothing_and_builds_nothing_in_vain(layers: str) -> None:
    features = ["res2", "res3", "res4", "res5"]
    cfg = config(
        "MODEL.BACKBONE.NAME", "build_regionclip_resnet_fpn_backbone", "MODEL.RESNETS.OUT_FEATURES", features,
        "MODEL.FPN.IN_FEATURES", features, "MODEL.FPN.OUT_CHANNELS", 8, f"{OURS}REGION_LAYERS", layers,
        "MODEL.ROI_HEADS.IN_FEATURES", ["p4"],
    )  # fmt: skip
    if layers == "backbone":
        with pytest.raises(ConfigError, match="FPN has no layer4 and attnpool to lend"):
            build_model(cfg)
        return
    model = build_model(cfg)
    assert model.backbone.bottom_up.attnpool is None and sorted(model.backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    model.set_vocabulary(NAMES, vectors())
    sum(model.train()([sample(proposals=proposals(5))]).values()).backward()


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ((f"{OURS}DEPTH", "RN51"), "'RN51' is not one of RN50, RN101, RN50x4"),
        ((f"{OURS}REGION_LAYERS", "none"), "REGION_LAYERS='none' must be 'backbone' or 'own'"),
        ((f"{OURS}OFFLINE_RPN", "lsj"), "kind='lsj' is not one of c4, fpn, fpn_lsj"),
        ((f"{OURS}REGIONS", "gt", f"{OURS}SCORE_FUSION", "sqrt_logit"), "regions='gt' with score_fusion='sqrt_logit'"),
        (("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14), "gives 14 x 14 cells; .* needs a pooler of 4"),
        (("MODEL.PIXEL_STD", [0.27, 0.26, 0.28]), "of pictures in 0-1, as in official configs"),
        ((f"{OURS}SOFT_NMS", "softer"), "method='softer' of soft-NMS is not one of"),
    ],
)
def test_errors(changes: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(*changes)


def test_embeddings_of_another_clip(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="they are 12 wide and this model's regions 16"):
        build(f"{OURS}TEXT_EMBEDDINGS", file(tmp_path, list(NAMES), dim=12))
