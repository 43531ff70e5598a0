"""Image towers and proposal networks of a size for coloured shapes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling import ProposalNetwork
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.structures import Boxes
from torch import Tensor, nn

from openvocab.testing import TinyBackbone
from regionclip.modeling.attention_pool import AttentionPool2d
from regionclip.modeling.clip_resnet import ModifiedResNet, clip_stage
from regionclip.modeling.region_features import RegionFeatures

SIDE = 64  # of a picture, in pixels
PIXELS = {"pixel_mean": (127.0, 127.0, 127.0), "pixel_std": (64.0, 64.0, 64.0)}
DIM, WIDTH, CELLS = 64, 24, 6


class Surroundings(nn.Module):
    """A pooler that takes regions with what is around them, cut at the picture's edge: they look more like whole pictures.

    Args:
        pooler: detectron2's.
        factor: on width and height.
    """

    def __init__(self, pooler: ROIPooler, factor: float) -> None:
        super().__init__()
        self.pooler, self.factor = pooler, factor

    def forward(self, maps: list[Tensor], boxes: Sequence[Boxes]) -> Tensor:
        return self.pooler(maps, [Boxes(self.widened(b.tensor)) for b in boxes])

    def widened(self, boxes: Tensor) -> Tensor:
        """Widen boxes (N, 4) XYXY pixels about their centres."""
        centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * self.factor
        return torch.cat([centre - half, centre + half], dim=1).clamp(0, SIDE)


def build_tower(*, freeze_at: int = 0, factor: float = 1.0) -> tuple[ModifiedResNet, RegionFeatures]:
    """Build the image tower: what runs on pictures, and what runs on regions."""
    backbone = ModifiedResNet(
        blocks=(1, 1, 1, 1), width=WIDTH, out_features=("res3",), region_layers=False, freeze_at=freeze_at
    )
    pooler: nn.Module = ROIPooler(output_size=CELLS, scales=(1 / 8,), sampling_ratio=1, pooler_type="ROIAlignV2")
    features = RegionFeatures(
        pooler=pooler if factor == 1 else Surroundings(pooler, factor),
        in_features=("res3",),
        res5=clip_stage(in_channels=8 * WIDTH, channels=4 * WIDTH, blocks=1),
        attnpool=AttentionPool2d(side=CELLS // 2, channels=16 * WIDTH, heads=WIDTH // 4, out_channels=DIM),
    )
    for module in (*backbone.modules(), *features.modules()):
        if isinstance(module, nn.Conv2d):  # norms are frozen at 1: they cannot make up for the usual small weights
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return backbone, features


def build_rpn() -> ProposalNetwork:
    """Build a class-free proposal network with anchors of the shapes' sizes."""
    backbone = TinyBackbone(channels=32, first=3, last=3, top_down=False)
    generator = RPN(
        in_features=("p3",),
        head=StandardRPNHead(in_channels=32, num_anchors=2),
        anchor_generator=DefaultAnchorGenerator(sizes=[[17, 26]], aspect_ratios=[[1.0]], strides=[8]),
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=32,
        positive_fraction=0.5,
        pre_nms_topk=(100, 100),
        post_nms_topk=(10, 10),
        nms_thresh=0.5,
    )
    return ProposalNetwork(backbone=backbone, proposal_generator=generator, **PIXELS)
