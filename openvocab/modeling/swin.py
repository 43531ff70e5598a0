"""detectron2's Swin Transformer (arXiv 2103.14030), with two faults of the released class mended."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.swin import SwinTransformer as _SwinTransformer
from torchvision.ops import StochasticDepth


class SwinTransformer(_SwinTransformer):
    """Swin with the same arguments, maps and state dict as `detectron2.modeling.backbone.swin.SwinTransformer`.

    Mended: `size_divisibility` (detectron2 misspells the attribute, so asking for it raises AttributeError), and stochastic depth,
    which detectron2 imports from a module that timm has deprecated (torchvision's is used; it has no parameters).
    """

    def __init__(self, *, depths: Sequence[int] = (2, 2, 6, 2), drop_path_rate: float = 0.2, **options: object) -> None:
        super().__init__(depths=list(depths), drop_path_rate=0.0, **options)
        blocks = [block for layer in self.layers for block in layer.blocks]
        for i, block in enumerate(blocks):
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
