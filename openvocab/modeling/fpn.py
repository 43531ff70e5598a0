"""detectron2's FPN with P6 and P7 on top, from a yaml config."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7


def build_fpn_p6p7(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """Return the pyramid on all maps of `bottom_up`, as `cfg.MODEL.FPN` says: P3-P7 for maps of strides 8, 16, 32.

    P6 and P7 stand on the output P5 (as GLIP and RetinaNet with `in_feature="p5"`).
    """
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return FPN(
        bottom_up=bottom_up,
        in_features=list(bottom_up.output_shape()),
        out_channels=channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelP6P7(channels, channels, in_feature="p5"),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
