"""CLIP's ModifiedResNet as a detectron2 backbone (Radford et al. 2021, arXiv 2103.00020).

Children carry CLIP's names (conv1..3, bn1..3, layer1..4, attnpool), so that its weights need no renaming but the prefix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

from openvocab.errors import ConfigError, nearest
from regionclip.convert import VARIANTS, ClipResNet
from regionclip.convert.clip import wrong_variant
from regionclip.convert.report import last_index

from .attention_pool import AttentionPool2d

EXPANSION = 4
FEATURES = ("res2", "res3", "res4", "res5")
_GIVE_SIZES = ("conv3.weight", "attnpool.c_proj.weight", "attnpool.positional_embedding", "layer4.0.conv1.weight")


@dataclass(frozen=True)
class FoldedConv:
    """A convolution and the frozen norm behind it as one operation.

    gamma (W x - mean) / sigma + beta = (gamma / sigma * W) x + (beta - gamma mean / sigma). Gradients of W are the same.

    Attributes:
        weight: (C', C, k, k).
        bias: (C',).
        stride, padding: the convolution's.
    """

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]

    @classmethod
    def of(cls, conv: nn.Conv2d, norm: FrozenBatchNorm2d, dtype: torch.dtype) -> FoldedConv:
        """Fold what both hold now (a few milliseconds); later changes of them are not noticed."""
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight, bias = conv.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale
        return cls(weight.to(dtype), bias.to(dtype), conv.stride, conv.padding)

    def __call__(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


@dataclass(frozen=True)
class FoldedBlock:
    """A `ClipBottleneck` of folded convolutions; made for one run and thrown away, so that it is never out of date."""

    conv1: FoldedConv
    conv2: Callable[[Tensor], Tensor]
    conv3: FoldedConv
    downsample: FoldedConv | None
    pool: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, 4 * channels, H // stride, W // stride)."""
        return self.rest(F.relu_(self.conv1(x)), x if self.downsample is None else self.downsample(self.pool(x)))

    def rest(self, y: Tensor, skip: Tensor) -> Tensor:
        """Go on from the first convolution, (B, channels, H, W), and the shortcut, (B, 4 * channels, H // stride, W // stride)."""
        y = self.pool(F.relu_(self.conv2(y)))
        return F.relu_(self.conv3(y).add_(skip))


def _conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False)


class ClipBottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions beside a shortcut; where the stride is above 1, average pooling halves the maps.

    Args:
        in_channels: before.
        channels: inside; 4 times as many come out.
        stride: 1 or 2.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        out = channels * EXPANSION
        self.conv1, self.bn1 = _conv(in_channels, channels, 1), FrozenBatchNorm2d(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 3), FrozenBatchNorm2d(channels)
        self.conv3, self.bn3 = _conv(channels, out, 1), FrozenBatchNorm2d(out)
        self.stride = stride
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample = None
        if stride > 1 or in_channels != out:
            self.downsample = nn.Sequential(_conv(in_channels, out, 1), FrozenBatchNorm2d(out))

    def fold(self, dtype: torch.dtype) -> FoldedBlock:
        """Put the norms, as they are now, into the convolutions; for inputs of `dtype`."""
        pairs = ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3))
        shortcut = None if self.downsample is None else FoldedConv.of(*self.downsample, dtype)
        return FoldedBlock(*(FoldedConv.of(*pair, dtype) for pair in pairs), shortcut, self.pool)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, 4 * channels, H // stride, W // stride)."""
        return self.fold(x.dtype)(x)


class ClipStage(nn.Sequential):
    """`ClipBottleneck`s, one after the other (see `clip_stage`)."""

    def fold(self, dtype: torch.dtype) -> list[FoldedBlock]:
        """Fold each block (see `ClipBottleneck.fold`)."""
        return [block.fold(dtype) for block in self]

    def is_watched(self) -> bool:
        """Whether a hook waits for its parts to be called."""
        return any(m._forward_hooks or m._forward_pre_hooks for m in self.modules())


def clip_stage(*, in_channels: int, channels: int, blocks: int, stride: int = 2) -> ClipStage:
    """Build a stage of `ClipBottleneck`s: (B, in_channels, H, W) to (B, 4 * channels, H // stride, W // stride)."""
    first = ClipBottleneck(in_channels, channels, stride)
    return ClipStage(first, *(ClipBottleneck(channels * EXPANSION, channels) for _ in range(blocks - 1)))


class ModifiedResNet(Backbone):
    """CLIP's ResNet with frozen batch norms, its last stage and attention pool ready for an ROI head.

    In the C4 form (`out_features=["res4"]`) `layer4` and `attnpool` are built but not run: `RegionFeatures` borrows them for
    regions. With `region_layers=False` only what `out_features` need is built, so that stock heads leave no parameter unused.

    Args:
        depth: "RN50", "RN101", "RN50x4", "RN50x16" or "RN50x64".
        out_features: of "res2" ... "res5" (strides 4 ... 32).
        freeze_at: 1 freezes the stem, 2 also layer1, ... 5 layer4 (norms are always frozen). 2 in the paper.
        region_layers: build `layer4` and `attnpool` in any case.
        blocks: per stage, instead of the variant's.
        width: channels after the stem, instead of the variant's (RN50: 64).
        embed_dim: D of the attention pool, instead of the variant's.
        side: S of the attention pool, instead of the variant's.

    Raises:
        ConfigError: for an unknown variant or feature, or a `freeze_at` outside 0..5.
    """

    def __init__(
        self,
        *,
        depth: str = "RN50",
        out_features: Sequence[str] = ("res4",),
        freeze_at: int = 2,
        region_layers: bool = True,
        blocks: Sequence[int] | None = None,
        width: int | None = None,
        embed_dim: int | None = None,
        side: int | None = None,
    ) -> None:
        super().__init__()
        _check(depth, out_features, freeze_at)
        variant = VARIANTS[depth]
        blocks, width = tuple(blocks or variant.blocks), width or variant.width
        self.depth, self.width, self.embed_dim = depth, width, embed_dim or variant.embed_dim
        self.measures = ClipResNet(blocks, width, self.embed_dim, side or variant.side)
        self._out_features = list(out_features)
        self._out_feature_strides = {name: 4 * 2**i for i, name in enumerate(FEATURES)}
        self._out_feature_channels = {name: width * EXPANSION * 2**i for i, name in enumerate(FEATURES)}
        self.conv1, self.bn1 = _conv(3, width // 2, 3, stride=2), FrozenBatchNorm2d(width // 2)
        self.conv2, self.bn2 = _conv(width // 2, width // 2, 3), FrozenBatchNorm2d(width // 2)
        self.conv3, self.bn3 = _conv(width // 2, width, 3), FrozenBatchNorm2d(width)
        last = len(FEATURES) if region_layers else 1 + max(FEATURES.index(f) for f in out_features)
        channels = width
        for i in range(last):
            stage = clip_stage(in_channels=channels, channels=width * 2**i, blocks=blocks[i], stride=1 if i == 0 else 2)
            self.add_module(f"layer{i + 1}", stage)
            channels = width * EXPANSION * 2**i
        self.attnpool = None
        if region_layers:
            heads = max(channels // 64, 1)
            self.attnpool = AttentionPool2d(
                side=side or variant.side, channels=channels, heads=heads, out_channels=self.embed_dim
            )
        self._freeze(freeze_at)

    def _freeze(self, freeze_at: int) -> None:
        if freeze_at >= 1:
            for conv in (self.conv1, self.conv2, self.conv3):
                conv.requires_grad_(False)
        for i in range(1, min(freeze_at, len(FEATURES) + 1)):
            stage = getattr(self, f"layer{i}", None)
            if stage is not None:
                stage.requires_grad_(False)

    def before_load(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        """Refuse a whole image tower of another size (see `openvocab.io.load_into`): most of RN101 fits into RN50, to no use.

        Raises:
            WeightsError: naming both.
        """
        shapes = [tensors[prefix + k].shape for k in _GIVE_SIZES if prefix + k in tensors]
        if len(shapes) < len(_GIVE_SIZES):
            return
        blocks = tuple(last_index(tensors, f"{prefix}layer{i}.") for i in range(1, len(FEATURES) + 1))
        found = ClipResNet(blocks, shapes[0][0], shapes[1][0], math.isqrt(shapes[2][0]))
        own = self.measures
        if found != own and (self.attnpool is not None or (found.blocks, found.width) != (own.blocks, own.width)):
            raise wrong_variant(found.name, own.name)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map pictures (B, 3, H, W) to the maps in `out_features`; odd sizes are rounded down at each halving."""
        x = x.contiguous(memory_format=torch.channels_last)
        for i in (1, 2, 3):
            x = F.relu_(FoldedConv.of(getattr(self, f"conv{i}"), getattr(self, f"bn{i}"), x.dtype)(x))
        x = F.avg_pool2d(x, 2)
        found = {}
        for i, name in enumerate(FEATURES):
            if len(found) == len(self._out_features):
                break
            x = getattr(self, f"layer{i + 1}")(x)
            if name in self._out_features:
                found[name] = x
        return found

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


def _check(depth: str, out_features: Sequence[str], freeze_at: int) -> None:
    if depth not in VARIANTS:
        raise ConfigError(f"depth='{depth}' is not one of {', '.join(VARIANTS)}.{nearest(depth, VARIANTS)}")
    unknown = [f for f in out_features if f not in FEATURES]
    if unknown or not out_features:
        raise ConfigError(f"out_features={list(out_features)} must be some of {', '.join(FEATURES)}")
    if not 0 <= freeze_at <= 5:
        raise ConfigError(f"freeze_at={freeze_at} must lie between 0 (nothing) and 5 (all stages)")


@BACKBONE_REGISTRY.register()
def build_regionclip_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ModifiedResNet:
    """Build a `ModifiedResNet` from `cfg.MODEL.REGIONCLIP` (see `regionclip.add_regionclip_config`)."""
    return _from_cfg(cfg, region_layers=cfg.MODEL.REGIONCLIP.REGION_LAYERS == "backbone")


def _from_cfg(cfg: CfgNode, *, region_layers: bool) -> ModifiedResNet:
    node = cfg.MODEL.REGIONCLIP
    return ModifiedResNet(
        depth=node.DEPTH,
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        region_layers=region_layers,
        blocks=list(node.BLOCKS) or None,
        width=node.WIDTH or None,
        embed_dim=node.EMBED_DIM or None,
        side=node.ATTNPOOL_SIDE or None,
    )


@BACKBONE_REGISTRY.register()
def build_regionclip_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build detectron2's FPN on a `ModifiedResNet`: P2-P5 from `MODEL.FPN.IN_FEATURES`, P6 on top; for stock heads."""
    return FPN(
        bottom_up=_from_cfg(cfg, region_layers=False),  # an FPN has none to lend
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
