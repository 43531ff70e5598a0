"""RegionCLIP's ROI heads behind another backbone, and stock heads behind CLIP's: ten lines each, in Lazy configs and in yaml.

The README shows these lines; here they run as they stand, made small afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.config import LazyCall as L
from detectron2.modeling import GeneralizedRCNN, ResNet, build_model
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.modeling.roi_heads import Res5ROIHeads, StandardROIHeads
from detectron2.utils.events import EventStorage
from torch import nn

from openvocab.io import load_into
from openvocab.modeling import TimmBackbone, set_class_embeddings
from regionclip.convert import from_clip
from regionclip.modeling import ModifiedResNet, RegionCLIPROIHeads

from .modeling.tiny import DIM, NAMES, detect, sample, vectors
from .weights import clip_file, text_keys

LAZY_HEAD = """
from detectron2.config import LazyCall as L
from detectron2.model_zoo import get_config
from regionclip.modeling import AttentionPool2d, RegionCLIPOutputLayers, RegionCLIPROIHeads
from regionclip.modeling import RegionFeatures, RegionPostProcessor, clip_stage

model = get_config("common/models/mask_rcnn_c4.py").model  # detectron2's GeneralizedRCNN with its own ResNet-50
model.roi_heads = L(RegionCLIPROIHeads)(
    region_features=L(RegionFeatures)(
        pooler=model.roi_heads.pooler,  # 14 x 14
        in_features=["res4"],
        res5=L(clip_stage)(in_channels=1024, channels=512, blocks=3),  # of a map of 1024 channels
        attnpool=L(AttentionPool2d)(side=7, channels=2048, heads=32, out_channels=1024),
    ),
    box_predictor=L(RegionCLIPOutputLayers)(input_dim=1024, postprocessor=L(RegionPostProcessor)(score_threshold=0.05)),
    proposal_matcher=model.roi_heads.proposal_matcher,
)
# built, it takes names at any time: openvocab.modeling.set_class_embeddings(detector, vectors), (K, 1024)
"""
YAML_HEAD = """
from detectron2.config import get_cfg
from detectron2.model_zoo import get_config_file
from regionclip import add_regionclip_config

cfg = get_cfg()
add_regionclip_config(cfg)
cfg.merge_from_file(get_config_file("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"))  # detectron2's GeneralizedRCNN
cfg.MODEL.ROI_HEADS.NAME = "RegionCLIPROIHeads"
cfg.MODEL.REGIONCLIP.REGION_LAYERS = "own"  # CLIP's layer4 and attention pool inside the heads
cfg.MODEL.REGIONCLIP.DEPTH = "RN50"
cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 14
"""
LAZY_BACKBONE = """
from detectron2.config import LazyCall as L
from detectron2.model_zoo import get_config
from regionclip.modeling import CLIP_MEAN, CLIP_STD, ModifiedResNet

model = get_config("common/models/mask_rcnn_fpn.py").model  # detectron2's GeneralizedRCNN, its FPN and its heads
model.backbone.bottom_up = L(ModifiedResNet)(depth="RN50", out_features=["res2", "res3", "res4", "res5"], region_layers=False)
model.pixel_mean, model.pixel_std, model.input_format = list(CLIP_MEAN), list(CLIP_STD), "RGB"
"""
LAZY_BACKBONE_C4 = """
from detectron2.config import LazyCall as L
from detectron2.model_zoo import get_config
from regionclip.modeling import CLIP_MEAN, CLIP_STD, ModifiedResNet, clip_stage

model = get_config("common/models/mask_rcnn_c4.py").model  # detectron2's GeneralizedRCNN and Res5ROIHeads
model.backbone = L(ModifiedResNet)(depth="RN50", out_features=["res4"], region_layers=False)
model.roi_heads.res5 = L(clip_stage)(in_channels=1024, channels=512, blocks=3)  # CLIP's layer4
model.roi_heads.box_predictor.input_shape.channels = model.roi_heads.mask_head.input_shape.channels = 2048
model.pixel_mean, model.pixel_std, model.input_format = list(CLIP_MEAN), list(CLIP_STD), "RGB"
"""
YAML_BACKBONE = """
from detectron2.config import get_cfg
from detectron2.model_zoo import get_config_file
from regionclip import add_regionclip_config
from regionclip.modeling import CLIP_MEAN, CLIP_STD

cfg = get_cfg()
add_regionclip_config(cfg)
cfg.merge_from_file(get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"))  # detectron2's GeneralizedRCNN and its heads
cfg.MODEL.BACKBONE.NAME = "build_regionclip_resnet_fpn_backbone"  # without FPN: "build_regionclip_resnet_backbone"
cfg.MODEL.REGIONCLIP.REGION_LAYERS, cfg.MODEL.REGIONCLIP.DEPTH = "none", "RN50"
cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT = list(CLIP_MEAN), list(CLIP_STD), "RGB"
"""


def run(snippet: str) -> dict:
    """Run the lines as a reader would."""
    names: dict = {}
    exec(snippet, names)  # noqa: S102  our own text
    return names


def small_rcnn(model: object) -> object:
    """Fewer samples; names of the tiny world."""
    model.proposal_generator.update(batch_size_per_image=32, post_nms_topk=(20, 20))
    model.roi_heads.batch_size_per_image = 16
    if "num_classes" in model.roi_heads:
        model.roi_heads.num_classes = len(NAMES)
    return model


def tiny_stages() -> list:
    """detectron2's ResNet up to res4, 128 channels wide."""
    sizes = ((8, 32, 1), (32, 64, 2), (64, 128, 2))
    return [
        ResNet.make_stage(
            BottleneckBlock, 1, stride_per_block=[s], in_channels=i, bottleneck_channels=8, out_channels=o, norm="FrozenBN"
        )
        for i, o, s in sizes
    ]


def small_head(model: object, channels: int) -> nn.Module:
    model = small_rcnn(model)
    model.proposal_generator.head.in_channels = channels
    region = model.roi_heads.region_features
    region.pooler.output_size = 4
    region.res5.update(in_channels=channels, channels=16, blocks=1)
    region.attnpool.update(side=2, channels=64, heads=2, out_channels=DIM)
    model.roi_heads.box_predictor.update(input_dim=DIM, temperature=0.1)
    return instantiate(model)


def lazy_head() -> nn.Module:
    model = run(LAZY_HEAD)["model"]
    model.backbone.stem.out_channels, model.backbone.stages = 8, L(tiny_stages)()
    return small_head(model, 128)


def lazy_head_on_timm() -> nn.Module:
    """Any backbone: here one of timm's, whose map of stride 16 is called stage3."""
    model = run(LAZY_HEAD)["model"]
    model.backbone = L(TimmBackbone)(name="resnet18", out_indices=[3])
    model.proposal_generator.in_features = model.roi_heads.region_features.in_features = ["stage3"]
    return small_head(model, 256)


def small_cfg(cfg: CfgNode) -> CfgNode:
    ours = cfg.MODEL.REGIONCLIP
    ours.BLOCKS, ours.WIDTH, ours.EMBED_DIM, ours.ATTNPOOL_SIDE, ours.TEMPERATURE = [1, 1, 1, 1], 8, DIM, 2, 0.1
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE, cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN, cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 32, 20, 20
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE, cfg.MODEL.ROI_HEADS.NUM_CLASSES = 16, len(NAMES)
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8, 32, 4
    cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.ROI_BOX_HEAD.FC_DIM, cfg.MODEL.DEVICE = 16, 32, "cpu"
    return cfg


def yaml_head() -> nn.Module:
    cfg = small_cfg(run(YAML_HEAD)["cfg"])
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
    return build_model(cfg)


def shrink_clip(backbone: object) -> None:
    backbone.update(blocks=[1, 1, 1, 1], width=8)


def lazy_backbone() -> nn.Module:
    model = small_rcnn(run(LAZY_BACKBONE)["model"])
    shrink_clip(model.backbone.bottom_up)
    model.backbone.out_channels = model.proposal_generator.head.in_channels = 16
    for mask in ("mask_in_features", "mask_pooler", "mask_head"):
        model.roi_heads.pop(mask)
    model.roi_heads.box_head.update(conv_dims=[], fc_dims=[32])
    model.roi_heads.box_head.input_shape.channels, model.roi_heads.box_predictor.input_shape.channels = 16, 32
    return instantiate(model)


def lazy_backbone_c4() -> nn.Module:
    model = small_rcnn(run(LAZY_BACKBONE_C4)["model"])
    shrink_clip(model.backbone)
    model.proposal_generator.head.in_channels = 128
    model.roi_heads.pop("mask_head")
    model.roi_heads.pooler.output_size = 4
    model.roi_heads.res5.update(in_channels=128, channels=64, blocks=1)
    model.roi_heads.box_predictor.input_shape.channels = 256
    return instantiate(model)


def yaml_backbone() -> nn.Module:
    return build_model(small_cfg(run(YAML_BACKBONE)["cfg"]))


def yaml_backbone_c4() -> nn.Module:
    cfg = small_cfg(run(YAML_BACKBONE.replace("FPN_1x", "C4_1x").replace("resnet_fpn_backbone", "resnet_backbone"))["cfg"])
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
    return build_model(cfg)


HEADS = [lazy_head, pytest.param(lazy_head_on_timm, marks=pytest.mark.slow), yaml_head]
BACKBONES = [lazy_backbone, lazy_backbone_c4, yaml_backbone, yaml_backbone_c4]


def losses_of(model: nn.Module, steps: int = 20) -> list[float]:
    """Train on two pictures; detectron2's own heads want an event storage."""
    batch = [sample(i, boxes=3) for i in range(2)]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, seen = torch.optim.AdamW(trained, lr=3e-3), []
    with EventStorage():
        for _ in range(steps):
            losses = model.train()(batch)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            assert all(p.grad is not None for p in trained), "no parameter is left over, as DDP wants it"
            torch.nn.utils.clip_grad_norm_(trained, 5.0)
            optimizer.step()
            seen.append(sum(losses.values()).item())
    return seen


def assert_trains_and_detects(model: nn.Module) -> None:
    seen = losses_of(model)
    assert sorted(seen[-5:])[2] < 0.9 * sum(seen[:3]) / 3, seen
    (found,) = detect(model, sample(height=128, width=192))
    assert found.image_size == (128, 192) and found.has("pred_boxes") and found.has("scores")
    assert len(found) and int(found.pred_classes.max()) < len(NAMES)


@pytest.mark.parametrize("build", HEADS)
def test_our_heads_in_a_stock_detector(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build()
    assert type(model) is GeneralizedRCNN and isinstance(model.roi_heads, RegionCLIPROIHeads)
    assert not isinstance(model.backbone, ModifiedResNet) and not model.roi_heads.region_features.borrows
    set_class_embeddings(model, vectors())
    assert_trains_and_detects(model)
    set_class_embeddings(model, vectors(1))
    assert set(detect(model, sample())[0].pred_classes.tolist()) <= {0}


@pytest.mark.parametrize("build", BACKBONES)
def test_stock_heads_behind_clip(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build()
    assert type(model) is GeneralizedRCNN and type(model.roi_heads) in (StandardROIHeads, Res5ROIHeads)
    clip = getattr(model.backbone, "bottom_up", model.backbone)
    assert isinstance(clip, ModifiedResNet) and clip.attnpool is None
    model.roi_heads.box_predictor.test_score_thresh = 0.01
    assert_trains_and_detects(model)


@pytest.mark.parametrize("snippet", [LAZY_HEAD, LAZY_BACKBONE, LAZY_BACKBONE_C4])
def test_the_lines_fit_at_full_size(snippet: str) -> None:
    with torch.device("meta"):
        model = instantiate(run(snippet)["model"]).eval()
        found = model.backbone(torch.zeros(1, 3, 64, 64))
        regions = torch.zeros(2, found.get("res4", found.get("p4")).shape[1], 14, 14)
        if isinstance(model.roi_heads, RegionCLIPROIHeads):
            own = model.roi_heads.region_features
            assert own.vectors(own.res5(regions)).shape == (2, model.roi_heads.box_predictor.input_dim)
        elif isinstance(model.roi_heads, Res5ROIHeads):
            assert model.roi_heads.res5(regions).shape[1:] == (2048, 7, 7)


def test_clips_weights_in_a_stock_detector() -> None:
    """As the README says: the backbone by its name, layer4 into the heads' res5."""
    model, shapes = lazy_backbone_c4(), ModifiedResNet(blocks=(1, 1, 1, 1), width=8, embed_dim=DIM).state_dict()
    given = clip_file({k: tuple(v.shape) for k, v in shapes.items()}, text_keys())
    tensors, _ = from_clip(given)
    load_into(model, tensors)
    report = load_into(model.roi_heads.res5, tensors, prefix="backbone.layer4.")
    assert report.missing == [] and torch.equal(model.backbone.conv1.weight, given["visual.conv1.weight"])
    assert torch.equal(model.roi_heads.res5[0].conv2.weight, given["visual.layer4.0.conv2.weight"])
    pyramid = lazy_backbone().backbone.bottom_up
    assert load_into(pyramid, tensors, prefix="backbone.").missing == []
