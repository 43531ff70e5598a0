"""The dynamic head of Sparse R-CNN (arXiv 2011.12450): stages that refine boxes, each with kernels generated from its queries.

Module names are those of the released checkpoints. B: pictures, N: queries, D: width, M: dynamic width, P: pooled side, C: names.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from openvocab.errors import ConfigError
from openvocab.modeling.roi_align import BagROIPooler

HUB_DECODER_REGISTRY = Registry("HUB_DECODER")
HUB_DECODER_REGISTRY.__doc__ = """
Registry of decoders for `DetectionHub`. A registered object is called with (cfg, input_shape) and returns a module called as
`decoder(features, boxes, queries, context)` and returns a `StageOutput` a stage; it has `dim` (D) and `num_stages`.
"""
OFFICIAL_CLAMP = math.log(1e5 / 16)  # of the released code; detectron2's is log(1000 / 16)
PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)


class KernelContext(NamedTuple):
    """What a context says to one stage; all zero: nothing (arXiv 2206.03484 adapts kernels; the form is ours).

    Attributes:
        shift: (B, D), added to the query before kernels are generated from it.
        gain: (B, D) and
        offset: (B, D): the interaction's output h becomes h * (1 + gain) + offset.
    """

    shift: Tensor
    gain: Tensor
    offset: Tensor


class StageOutput(NamedTuple):
    """What a stage says.

    Attributes:
        features: (B, N, D), to be compared with names.
        boxes: (B, N, 4) XYXY pixels of the network's input, not clipped, with gradients.
        classifier: of a fixed list of names; None where the decoder has none of its own.
    """

    features: Tensor
    boxes: Tensor
    classifier: nn.Module | None = None

    @property
    def logits(self) -> Tensor | None:
        """(B, N, C) of the fixed list of names, computed where it is read: in prediction that is one stage's; or None."""
        return None if self.classifier is None else self.classifier(self.features)


class DynamicConv(nn.Module):
    """Two 1 x 1 convolutions over a region, with kernels generated from the region's query (the paper's figure 4).

    Args:
        dim: D.
        dynamic_dim: M.
        pooled_size: P.
    """

    def __init__(self, *, dim: int = 256, dynamic_dim: int = 64, pooled_size: int = 7) -> None:
        super().__init__()
        self.dim, self.dynamic_dim = dim, dynamic_dim
        self.dynamic_layer = nn.Linear(dim, 2 * dim * dynamic_dim)
        self.norm1, self.norm2 = nn.LayerNorm(dynamic_dim), nn.LayerNorm(dim)
        self.out_layer = nn.Linear(dim * pooled_size**2, dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, regions: Tensor) -> Tensor:
        """Map queries (R, D) and their regions (R, P * P, D) to (R, D)."""
        first, second = self.dynamic_layer(queries).split(self.dim * self.dynamic_dim, dim=-1)
        x = torch.bmm(regions, first.view(-1, self.dim, self.dynamic_dim))
        x = self.norm1(x).relu_()
        x = torch.bmm(x, second.view(-1, self.dynamic_dim, self.dim))
        x = self.norm2(x).relu_()
        return self.norm3(self.out_layer(x.flatten(1))).relu_()


def _tower(dim: int, depth: int) -> nn.ModuleList:
    layers = [[nn.Linear(dim, dim, bias=False), nn.LayerNorm(dim), nn.ReLU(inplace=True)] for _ in range(depth)]
    return nn.ModuleList(layer for group in layers for layer in group)


class DecoderStage(nn.Module):
    """Self-attention among queries, dynamic convolution with their regions, feed-forward, class and box towers.

    Args:
        dim: D.
        num_heads: of self-attention.
        ffn_dim: hidden width of the feed-forward network.
        dynamic_dim: M.
        pooled_size: P.
        num_cls: layers of the class tower.
        num_reg: layers of the box tower.
        dropout: in training, on attention weights and branches.
        num_classes: C, for the linear classifier of Sparse R-CNN; None for a decoder whose features are compared with text.
        box2box_transform: decodes deltas.
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dynamic_dim: int = 64,
        pooled_size: int = 7,
        num_cls: int = 1,
        num_reg: int = 3,
        dropout: float = 0.0,
        num_classes: int | None = None,
        box2box_transform: Box2BoxTransform,
    ) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.inst_interact = DynamicConv(dim=dim, dynamic_dim=dynamic_dim, pooled_size=pooled_size)
        self.linear1, self.linear2 = nn.Linear(dim, ffn_dim), nn.Linear(ffn_dim, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.cls_module, self.reg_module = _tower(dim, num_cls), _tower(dim, num_reg)
        self.class_logits = nn.Linear(dim, num_classes) if num_classes else None
        self.bboxes_delta = nn.Linear(dim, 4)
        self.box2box_transform = box2box_transform

    def reset_parameters(self, zero_init_deltas: bool) -> None:
        """Xavier for matrices; the classifier's bias, found by its name, starts at log(0.01 / 0.99)."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        if self.class_logits is not None:
            nn.init.constant_(self.class_logits.bias, PRIOR_BIAS)
        if zero_init_deltas:
            nn.init.zeros_(self.bboxes_delta.weight)
            nn.init.zeros_(self.bboxes_delta.bias)

    def forward(
        self, regions: Tensor, boxes: Tensor, queries: Tensor, context: KernelContext | None = None
    ) -> tuple[StageOutput, Tensor]:
        """Refine.

        Args:
            regions: (B * N, D, P, P) pooled features of the boxes.
            boxes: (B, N, 4) XYXY pixels.
            queries: (B, N, D).
            context: of the pictures' data sets; None: plain Sparse R-CNN.

        Returns:
            the stage's output, and the next stage's queries (B, N, D).
        """
        b, n, d = queries.shape
        # need_weights: torch's plain path, whose rounding is the released code's to the last bit
        attended = self.self_attn(queries, queries, queries, need_weights=True)[0]
        queries = self.norm1(queries + self.dropout(attended))
        asked = queries if context is None else queries + context.shift[:, None]
        found = self.inst_interact(asked.reshape(b * n, d), regions.flatten(2).transpose(1, 2)).view(b, n, d)
        if context is not None:
            found = found * (1 + context.gain[:, None]) + context.offset[:, None]
        queries = self.norm2(queries + self.dropout(found))
        queries = self.norm3(queries + self.dropout(self.linear2(self.dropout(self.linear1(queries).relu()))))
        cls, reg = queries, queries
        for layer in self.cls_module:
            cls = layer(cls)
        for layer in self.reg_module:
            reg = layer(reg)
        deltas = self.bboxes_delta(reg)
        refined = self.box2box_transform.apply_deltas(deltas.flatten(0, 1), boxes.flatten(0, 1)).view(b, n, 4)
        return StageOutput(cls, refined, self.class_logits), queries


@HUB_DECODER_REGISTRY.register()
class DynamicHead(nn.Module):
    """Sparse R-CNN's cascade of stages, as a part: `decoder(features, boxes, queries, context)`.

    Args:
        strides: of the feature maps it is given, finest first (4, 8, 16, 32).
        num_stages: 6 in the released models.
        dim: D, also of the maps.
        scale_clamp: largest log scale of a box in one step; the released code's is log(1e5 / 16), at which one bad step makes a box
            6250 times larger.
        zero_init_deltas: start with boxes that stay where they are (ours, for training from scratch).
        num_heads, ffn_dim, dynamic_dim, pooled_size, num_cls, num_reg, dropout, num_classes: see `DecoderStage`.
        sampling_ratio: of ROIAlign.

    Raises:
        ConfigError: for no stages, or a width its attention heads do not divide.
    """

    @configurable
    def __init__(
        self,
        *,
        strides: Sequence[int] = (4, 8, 16, 32),
        num_stages: int = 6,
        dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dynamic_dim: int = 64,
        pooled_size: int = 7,
        sampling_ratio: int = 2,
        num_cls: int = 1,
        num_reg: int = 3,
        dropout: float = 0.0,
        num_classes: int | None = None,
        scale_clamp: float = math.log(1000.0 / 16),
        zero_init_deltas: bool = True,
    ) -> None:
        super().__init__()
        if num_stages < 1 or dim % num_heads:
            raise ConfigError(f"num_stages={num_stages} must be at least 1, and num_heads={num_heads} a divisor of dim={dim}")
        self.dim, self.num_stages, self.num_classes = dim, num_stages, num_classes
        self.pooler = BagROIPooler(pooled_size, [1.0 / s for s in strides], sampling_ratio)
        stage = DecoderStage(
            dim=dim,
            num_heads=num_heads,
            ffn_dim=ffn_dim,
            dynamic_dim=dynamic_dim,
            pooled_size=pooled_size,
            num_cls=num_cls,
            num_reg=num_reg,
            dropout=dropout,
            num_classes=num_classes,
            box2box_transform=Box2BoxTransform((2.0, 2.0, 1.0, 1.0), scale_clamp=scale_clamp),
        )
        self.head_series = nn.ModuleList(copy.deepcopy(stage) for _ in range(num_stages))
        for stage in self.head_series:
            stage.reset_parameters(zero_init_deltas)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read a yaml config that `add_detection_hub_config` has prepared."""
        from detection_hub.config import dynamic_head_from_config

        return dynamic_head_from_config(cfg, input_shape)

    def forward(
        self, features: Sequence[Tensor], boxes: Tensor, queries: Tensor, context: Sequence[KernelContext] | None = None
    ) -> list[StageOutput]:
        """Run all stages.

        Args:
            features: maps (B, D, H, W), finest first.
            boxes: (B, N, 4) XYXY pixels of the network's input.
            queries: (B, N, D).
            context: one a stage, or None.

        Returns:
            one output a stage; no gradient flows through a stage's boxes into the stage before.
        """
        outputs = []
        for k, stage in enumerate(self.head_series):
            regions = self.pooler(list(features), [Boxes(b) for b in boxes])
            output, queries = stage(regions, boxes, queries, None if context is None else context[k])
            outputs.append(output)
            boxes = output.boxes.detach()
        return outputs


def build_decoder(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build the decoder that `cfg.MODEL.DETECTION_HUB.DECODER` names."""
    return HUB_DECODER_REGISTRY.get(cfg.MODEL.DETECTION_HUB.DECODER)(cfg, input_shape)
