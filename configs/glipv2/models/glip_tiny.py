"""GLIP-T (B, C and the final one): Swin-T, BERT-base, six fused blocks; 231.8 M parameters.

Weights are random: official ones are converted with `glipv2.convert.from_official`. `official=True` settings are the published
arithmetic: padding takes part, offsets are read as the released kernel does, boxes count the last pixel as inside.
GLIP-T (A), which fuses nothing: `glip_a_tiny.py`.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling import FPN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform

from glipv2.modeling import (
    BiAttention,
    Chunking,
    Execution,
    GLIPv2,
    GLIPv2Block,
    GLIPv2Head,
    GroundingCriterion,
    GroundingPostProcessor,
    LanguageLayer,
    RegionWordAlignment,
    VisionLanguageFusion,
)
from openvocab.modeling.atss import ATSSMatcher
from openvocab.modeling.dyhead import DyHeadBlock
from openvocab.modeling.swin import SwinTransformer
from openvocab.text import BertTextEncoder

BLOCKS = 6

box_coder = L(Box2BoxTransform)(weights=(10.0, 10.0, 5.0, 5.0))


def fused_block(num_blocks: int):
    """One block of the tower; both layer scales start at 1 / number of blocks."""
    return L(GLIPv2Block)(
        fusion=L(VisionLanguageFusion)(attention=L(BiAttention)(), init_scale=1 / num_blocks),
        language=L(LanguageLayer)(dim=768, num_heads=12, ffn_dim=3072),
        dynamic=L(DyHeadBlock)(channels=256, offset_reading="official"),
    )


model = L(GLIPv2)(
    backbone=L(FPN)(
        bottom_up=L(SwinTransformer)(
            embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=7, drop_path_rate=0.2, out_indices=(1, 2, 3)
        ),
        in_features=["p1", "p2", "p3"],
        out_channels=256,
        top_block=L(LastLevelP6P7)(in_channels=256, out_channels=256, in_feature="p5"),
    ),
    text_encoder=L(BertTextEncoder)(source=None, config={}, frozen=False),
    head=L(GLIPv2Head)(
        blocks=[fused_block(BLOCKS) for _ in range(BLOCKS)],
        alignment=L(RegionWordAlignment)(channels=256, lang_dim=768),
        channels=256,
        num_levels=5,
    ),
    anchor_generator=L(DefaultAnchorGenerator)(
        sizes=[[64], [128], [256], [512], [1024]], aspect_ratios=[1.0], strides=[8, 16, 32, 64, 128], offset=0.5
    ),
    criterion=L(GroundingCriterion)(
        matcher=L(ATSSMatcher)(topk=9, pixel_offset=1.0), box2box_transform=box_coder, pixel_offset=1.0
    ),
    postprocessor=L(GroundingPostProcessor)(box2box_transform=box_coder, inclusive_boxes=True),
    pixel_mean=[103.53, 116.28, 123.675],
    pixel_std=[57.375, 57.12, 58.395],
    input_format="BGR",
    ignore_padding=False,
    chunking=L(Chunking)(max_names=None, batch=4, max_detections=None),
    execution=L(Execution)(precision="float32", channels_last=False, compile=False),
)
