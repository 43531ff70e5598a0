"""Another query detector behind the hub's interface: DETR's decoder (arXiv 2005.12872), with global attention and no regions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor, nn

from openvocab.errors import ConfigError

from .decoder import HUB_DECODER_REGISTRY, KernelContext, StageOutput


def sine_positions(x: Tensor) -> Tensor:
    """Return (1, D, H, W): sines and cosines of the rows and columns of a map (B, D, H, W), D / 4 rates of each."""
    _, d, h, w = x.shape
    rate = torch.exp(-math.log(100.0) * torch.arange(d // 4, device=x.device) / (d // 4))[:, None, None]
    rows = torch.arange(h, device=x.device)[None, :, None] * rate
    columns = torch.arange(w, device=x.device)[None, None, :] * rate
    parts = [f(v).expand(-1, h, w) for v in (rows, columns) for f in (torch.sin, torch.cos)]
    return torch.cat(parts)[None].to(x.dtype)


@HUB_DECODER_REGISTRY.register()
class DetrDecoder(nn.Module):
    """Queries attend to each other and to the coarsest map: `decoder(features, boxes, queries, context)`, as `DynamicHead`.

    It shows what the hub asks of a decoder. Its layers are DETR's (section 3.2 there); ours is that queries know their boxes, that
    each stage refines them as Sparse R-CNN's do, and what takes the place of kernels, which there are none of: a context's `shift`,
    `gain` and `offset` act on the queries that a stage is given. Padding of smaller pictures is not masked. Only the last map is
    read: over several processes the backbone should make no other, whose layers would be without gradients.

    Args:
        stride: of the last feature map.
        num_stages: layers.
        dim: D, a multiple of 4; also of the maps.
        num_heads: of attention.
        ffn_dim: hidden width of the feed-forward networks.
        dropout: in training.

    Raises:
        ConfigError: for no stages, or a width that does not fit.
    """

    num_classes = None

    @configurable
    def __init__(
        self,
        *,
        stride: int = 32,
        num_stages: int = 6,
        dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_stages < 1 or dim % num_heads or dim % 4:
            raise ConfigError(f"num_stages={num_stages} must be at least 1, and num_heads={num_heads} and 4 divisors of dim={dim}")
        self.dim, self.num_stages, self.stride = dim, num_stages, stride
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(dim, num_heads, ffn_dim, dropout, batch_first=True) for _ in range(num_stages)
        )
        self.place = nn.Linear(4, dim)
        self.bboxes_delta = nn.ModuleList(nn.Linear(dim, 4) for _ in range(num_stages))
        for layer in self.bboxes_delta:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.box2box_transform = Box2BoxTransform((2.0, 2.0, 1.0, 1.0))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read a yaml config that `add_detection_hub_config` has prepared."""
        node = cfg.MODEL.DETECTION_HUB
        return {
            "stride": input_shape[node.IN_FEATURES[-1]].stride,
            "num_stages": node.NUM_STAGES,
            "dim": node.DIM,
            "num_heads": node.NUM_HEADS,
            "ffn_dim": node.FFN_DIM,
            "dropout": node.DROPOUT,
        }

    def forward(
        self, features: Sequence[Tensor], boxes: Tensor, queries: Tensor, context: Sequence[KernelContext] | None = None
    ) -> list[StageOutput]:
        """Run all stages.

        Args:
            features: maps (B, D, H, W), of which the last is read.
            boxes: (B, N, 4) XYXY pixels of the network's input.
            queries: (B, N, D).
            context: one a stage, or None.

        Returns:
            one output a stage; no gradient flows through a stage's boxes into the stage before.
        """
        b, n, _ = boxes.shape
        memory = (features[-1] + sine_positions(features[-1])).flatten(2).transpose(1, 2)
        height, width = features[-1].shape[2:]
        scale = boxes.new_tensor([width, height, width, height]) * self.stride
        outputs = []
        for k, layer in enumerate(self.layers):
            asked = queries
            if context is not None:
                asked = (queries + context[k].shift[:, None]) * (1 + context[k].gain[:, None]) + context[k].offset[:, None]
            queries = layer(asked + self.place(boxes / scale), memory)
            deltas = self.bboxes_delta[k](queries)
            refined = self.box2box_transform.apply_deltas(deltas.flatten(0, 1), boxes.flatten(0, 1)).view(b, n, 4)
            outputs.append(StageOutput(queries, refined))
            boxes = refined.detach()
        return outputs
