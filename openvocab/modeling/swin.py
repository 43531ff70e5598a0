"""detectron2's Swin Transformer (arXiv 2103.14030), with two faults of the released class mended and a faster attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.swin import Mlp as _Mlp
from detectron2.modeling.backbone.swin import SwinTransformer as _SwinTransformer
from detectron2.modeling.backbone.swin import WindowAttention as _WindowAttention
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

BLOCK_CELLS = 8192


def in_blocks(run: Callable[[Tensor, int], Tensor], x: Tensor, step: int) -> Tensor:
    """Apply `run(part, start)` to `x` along its first axis, `step` rows at a time; with gradients, which keep all, at once."""
    if torch.is_grad_enabled() or len(x) <= step:
        return run(x, 0)
    return torch.cat([run(x[start : start + step], start) for start in range(0, len(x), step)])


class Mlp(nn.Module):
    """The two layers of a detectron2 block, with its parameters; outside training the wide map between them is never whole."""

    def __init__(self, plain: _Mlp) -> None:
        super().__init__()
        self.fc1, self.act, self.drop, self.fc2 = plain.fc1, plain.act, plain.drop, plain.fc2

    def forward(self, x: Tensor) -> Tensor:
        """Map cells (B, N, C) to the same shape."""
        return in_blocks(lambda part, _: self._layers(part), x.flatten(0, 1), BLOCK_CELLS).view(x.shape)

    def _layers(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class WindowAttention(nn.Module):
    """The attention of a detectron2 block, with its parameters, through torch's fused operator: the same function, faster.

    Letters: W windows of all pictures, w of one picture, N cells a window, C channels, H heads.
    """

    def __init__(self, plain: _WindowAttention) -> None:
        super().__init__()
        self.num_heads, self.scale = plain.num_heads, plain.scale
        self.relative_position_bias_table = plain.relative_position_bias_table
        self.register_buffer("relative_position_index", plain.relative_position_index)
        self.qkv, self.proj = plain.qkv, plain.proj
        self.attn_drop, self.proj_drop = plain.attn_drop, plain.proj_drop

    def position_bias(self) -> Tensor:
        """What is added to the scores of a window, (1, H, N, N)."""
        index = self.relative_position_index
        return self.relative_position_bias_table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1)[None]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within windows `x` (W, N, C); `mask` (w, N, N) is added to the scores of shifted ones."""
        bias = self.position_bias()
        return in_blocks(lambda part, start: self._attend(part, bias, mask, start), x, max(BLOCK_CELLS // x.shape[1], 1))

    def _attend(self, x: Tensor, bias: Tensor, mask: Tensor | None, start: int) -> Tensor:
        windows, cells, _ = x.shape
        q, k, v = self.qkv(x).view(windows, cells, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        if mask is not None:
            own = torch.arange(start, start + windows, device=x.device) % len(mask)
            bias = bias + mask[own][:, None]
        dropout = self.attn_drop.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype).expand(windows, -1, -1, -1), dropout, scale=self.scale)
        return self.proj_drop(self.proj(y.transpose(1, 2).flatten(2)))


class SwinTransformer(_SwinTransformer):
    """Swin with the same arguments, maps and state dict as `detectron2.modeling.backbone.swin.SwinTransformer`.

    Mended: `size_divisibility` (detectron2 misspells the attribute, so asking for it raises AttributeError), and stochastic depth,
    which detectron2 imports from a module that timm has deprecated (torchvision's is used; it has no parameters). Faster and
    smaller: see `WindowAttention` and `Mlp`.

    Args:
        depths: blocks of each stage.
        drop_path_rate: of the last block; it rises linearly.
        fused: False keeps detectron2's attention and layers.
        options: as detectron2's class.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (2, 2, 6, 2),
        drop_path_rate: float = 0.2,
        fused: bool = True,
        **options: object,
    ) -> None:
        super().__init__(depths=list(depths), drop_path_rate=0.0, **options)
        blocks = [block for layer in self.layers for block in layer.blocks]
        for i, block in enumerate(blocks):
            if fused:
                block.attn, block.mlp = WindowAttention(block.attn), Mlp(block.mlp)
            rate = drop_path_rate * i / max(len(blocks) - 1, 1)
            if rate > 0:
                block.drop_path = StochasticDepth(rate, mode="row")

    @property
    def size_divisibility(self) -> int:
        """Patches of 4 pixels, halved three times."""
        return 32


def add_swin_config(cfg: CfgNode) -> None:
    """Add the yaml keys `MODEL.SWIN.*` to a detectron2 `CfgNode`, in place (the values are Swin-T's)."""
    cfg.MODEL.SWIN = CfgNode()
    cfg.MODEL.SWIN.EMBED_DIM = 96
    cfg.MODEL.SWIN.DEPTHS = [2, 2, 6, 2]
    cfg.MODEL.SWIN.NUM_HEADS = [3, 6, 12, 24]
    cfg.MODEL.SWIN.WINDOW_SIZE = 7
    cfg.MODEL.SWIN.DROP_PATH_RATE = 0.2
    cfg.MODEL.SWIN.OUT_INDICES = [1, 2, 3]


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SwinTransformer:
    """Build a `SwinTransformer` from `cfg.MODEL.SWIN`; its maps are p1 (/8), p2 (/16), p3 (/32)."""
    node = cfg.MODEL.SWIN
    return SwinTransformer(
        embed_dim=node.EMBED_DIM,
        depths=node.DEPTHS,
        num_heads=node.NUM_HEADS,
        window_size=node.WINDOW_SIZE,
        drop_path_rate=node.DROP_PATH_RATE,
        out_indices=tuple(node.OUT_INDICES),
        frozen_stages=cfg.MODEL.BACKBONE.FREEZE_AT if cfg.MODEL.BACKBONE.FREEZE_AT > 0 else -1,
    )
