"""Class-free proposals from a frozen detector of its own, as RegionCLIP uses them (arXiv 2112.09106; microsoft/RegionCLIP)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import FPN, ProposalNetwork, ResNet, build_backbone, build_proposal_generator
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import BasicStem
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from openvocab.errors import ConfigError

from .clip_resnet import FoldedConv

logger = logging.getLogger(__name__)
KINDS = ("c4", "fpn", "fpn_lsj")
BGR_MEAN, BGR_STD = (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)
SIZES, RATIOS = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class OfflineProposals(nn.Module):
    """A frozen backbone and proposal generator with their own preprocessing: pictures in, boxes that may hold something out.

    It never trains: it stays in evaluation mode whatever mode the model around it is in, and gives no gradients.

    Args:
        backbone: a detectron2 backbone.
        proposal_generator: such as `RPN`; its test limits count.
        image_format: channel order of the pictures it is given, "RGB" or "BGR".
        input_format: channel order that `backbone` expects.
        pixel_mean, pixel_std: per channel in `input_format`, 0-255.

    Raises:
        ConfigError: for another channel order.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        proposal_generator: nn.Module,
        image_format: str = "RGB",
        input_format: str = "BGR",
        pixel_mean: Sequence[float] = BGR_MEAN,
        pixel_std: Sequence[float] = BGR_STD,
    ) -> None:
        super().__init__()
        if not {image_format, input_format} <= {"RGB", "BGR"}:
            raise ConfigError(f"image_format='{image_format}' and input_format='{input_format}' must be RGB or BGR")
        self.backbone, self.proposal_generator = backbone, proposal_generator
        self.flip = image_format != input_format
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self._initial: Tensor | None = None
        self.requires_grad_(False)
        self.eval()

    def expect_weights(self) -> OfflineProposals:
        """Note that the weights are random as yet, so that a warning can be given if none are loaded; returns itself."""
        self._initial = next(self.parameters()).detach().clone()
        return self

    def _warn_if_random(self) -> None:
        """Say once if no weights were loaded: a checkpoint without an RPN leaves it as it was built."""
        if self._initial is not None and torch.equal(next(self.parameters()).detach().to(self._initial), self._initial):
            logger.warning("the proposal network has random weights, and so its boxes: see tools/convert_weights.py --rpn")
        self._initial = None

    def train(self, mode: bool = True) -> OfflineProposals:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor]) -> list[Instances]:
        """Propose boxes.

        Args:
            images: pictures (3, H, W) in `image_format`, 0-255.

        Returns:
            of each, best first: `proposal_boxes` (N, 4) XYXY pixels, and `objectness_logits` (N,), no sigmoid.
        """
        self._warn_if_random()
        images = [x.to(self.pixel_mean.device).float() for x in images]
        images = [((x.flip(0) if self.flip else x) - self.pixel_mean) / self.pixel_std for x in images]
        batch = ImageList.from_tensors(images, self.backbone.size_divisibility)
        maps = self.backbone(batch.tensor.contiguous(memory_format=torch.channels_last))  # a third quicker on a CPU
        return self.proposal_generator(batch, maps, None)[0]


class FrozenBottleneck(BottleneckBlock):
    """detectron2's bottleneck with frozen norms, each run inside the convolution before it; same names, same numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        y = F.relu_(_folded(self.conv1, x))
        y = _folded(self.conv3, F.relu_(_folded(self.conv2, y)))
        return F.relu_(y.add_(x if self.shortcut is None else _folded(self.shortcut, x)))


def _folded(conv: Conv2d, x: Tensor) -> Tensor:
    return FoldedConv.of(conv, conv.norm, x.dtype)(x)


def _resnet(depth: int, features: tuple[str, ...], stem: int, width_per_group: int, res2: int, norm: str) -> ResNet:
    """detectron2's MSRA ResNet: channels of the stem, of res2's bottlenecks, of res2."""
    if depth not in DEPTHS:
        raise ConfigError(f"depth={depth} is not one of {', '.join(map(str, DEPTHS))}")
    stages, before, block = [], stem, FrozenBottleneck if norm == "FrozenBN" else BottleneckBlock
    for i, count in enumerate(DEPTHS[depth][: int(features[-1][-1]) - 1]):
        stride = 1 if i == 0 else 2
        stages.append(
            ResNet.make_stage(
                block,
                count,
                stride_per_block=[stride] + [1] * (count - 1),
                in_channels=before,
                out_channels=res2 * 2**i,
                bottleneck_channels=width_per_group * 2**i,
                stride_in_1x1=True,
                norm=norm,
            )
        )
        before = res2 * 2**i
    return ResNet(BasicStem(3, stem, norm=norm), stages, out_features=list(features))


def _rpn(
    shapes: dict[str, ShapeSpec], sizes: list[list[int]], conv_dims: Sequence[int], topk: tuple[int, int], nms: float
) -> RPN:
    channels = next(iter(shapes.values())).channels
    ratios, coder = [list(RATIOS)], Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    anchors = DefaultAnchorGenerator(sizes=sizes, aspect_ratios=ratios, strides=[s.stride for s in shapes.values()], offset=0.0)
    head = StandardRPNHead(in_channels=channels, num_anchors=len(sizes[0]) * len(RATIOS), conv_dims=conv_dims)
    return RPN(
        in_features=list(shapes),
        head=head,
        anchor_generator=anchors,
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=coder,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=(topk[0], topk[0]),
        post_nms_topk=(topk[1], topk[1]),
        nms_thresh=nms,
    )


def _parts(
    kind: str,
    norm: str,
    nms: float,
    topk: int,
    *,
    depth: int = 50,
    stem_channels: int = 64,
    width_per_group: int = 64,
    res2_channels: int = 256,
    fpn_channels: int = 256,
) -> tuple[nn.Module, RPN]:
    """Backbone and proposal generator of a kind."""
    if kind not in KINDS:
        raise ConfigError(f"kind='{kind}' is not one of {', '.join(KINDS)}")
    if kind == "c4":
        backbone: nn.Module = _resnet(depth, ("res4",), stem_channels, width_per_group, res2_channels, norm)
        sizes, conv_dims, before = [list(SIZES)], (-1,), 6000
    else:
        lsj = kind == "fpn_lsj"
        stages = ("res2", "res3", "res4", "res5")
        bottom_up = _resnet(depth, stages, stem_channels, width_per_group, res2_channels, norm)
        backbone = FPN(bottom_up, list(stages), fpn_channels, norm=norm if lsj else "", top_block=LastLevelMaxPool())
        sizes, conv_dims, before = [[s] for s in SIZES], (-1, -1) if lsj else (-1,), 1000
    return backbone, _rpn(backbone.output_shape(), sizes, conv_dims, (before, topk), nms)


def build_offline_rpn(
    *,
    kind: str = "c4",
    nms_thresh: float = 0.7,
    post_nms_topk: int = 1000,
    image_format: str = "RGB",
    depth: int = 50,
    stem_channels: int = 64,
    width_per_group: int = 64,
    res2_channels: int = 256,
    fpn_channels: int = 256,
) -> OfflineProposals:
    """Build the proposal networks of the released checkpoints, without weights (see `regionclip.convert.from_rpn`).

    Args:
        kind: "c4" (COCO: one map of stride 16, 15 anchors a cell, 6000 boxes before NMS); "fpn" (LVIS and pretraining: P2-P6, 3
            anchors a cell, 1000 a level); "fpn_lsj" (LVIS transfer: norms in the FPN, two convolutions in the head; its
            synchronised norms are frozen ones here).
        nms_thresh: 0.7 in transfer, 0.9 in zero-shot inference, 0.5 in pretraining.
        post_nms_topk: boxes a picture; 1000, 300 in pretraining.
        image_format: see `OfflineProposals`.
        depth: of the ResNet.
        stem_channels, width_per_group, res2_channels, fpn_channels: smaller ones make a model for tests.

    Raises:
        ConfigError: for an unknown kind or depth.
    """
    backbone, generator = _parts(
        kind,
        "FrozenBN",
        nms_thresh,
        post_nms_topk,
        depth=depth,
        stem_channels=stem_channels,
        width_per_group=width_per_group,
        res2_channels=res2_channels,
        fpn_channels=fpn_channels,
    )
    return OfflineProposals(backbone=backbone, proposal_generator=generator, image_format=image_format).expect_weights()


def build_proposal_network(
    *, kind: str = "c4", norm: str = "BN", nms_thresh: float = 0.7, post_nms_topk: int = 1000, **sizes: int
) -> ProposalNetwork:
    """Build the same networks as a detectron2 model that trains, on boxes whose names are not read (ours: the released ones were
    trained as part of a Mask R-CNN).

    Its pictures are BGR. Its checkpoint becomes an offline RPN by `tools/convert_weights.py --from regionclip-rpn`, or `--rpn`.

    Args:
        norm: of detectron2, such as "BN" or "SyncBN"; the offline RPN keeps its statistics.
        kind, nms_thresh, post_nms_topk: see `build_offline_rpn`.
        sizes: its depth, stem_channels, width_per_group, res2_channels and fpn_channels.

    Raises:
        ConfigError: for an unknown kind or depth.
    """
    backbone, generator = _parts(kind, norm, nms_thresh, post_nms_topk, **sizes)
    return ProposalNetwork(backbone=backbone, proposal_generator=generator, pixel_mean=BGR_MEAN, pixel_std=BGR_STD)


def offline_rpn_from_cfg(cfg: CfgNode, *, image_format: str = "RGB") -> OfflineProposals:
    """Build a user's own proposal network from a detectron2 config (its backbone, proposal generator, mean, std, format)."""
    backbone = build_backbone(cfg)
    network = OfflineProposals(
        backbone=backbone,
        proposal_generator=build_proposal_generator(cfg, backbone.output_shape()),
        image_format=image_format,
        input_format=cfg.INPUT.FORMAT,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )
    return network.expect_weights()
