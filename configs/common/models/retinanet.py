"""detectron2's RetinaNet with two parts of ours: a timm backbone, and a classifier that compares with text.

Ours, for a CPU; not a model of a paper. The last layer scores 384-wide region vectors against MiniLM embeddings of the names, so
that `openvocab.modeling.set_class_embeddings(model, encode_vocabulary(encoder, names))` changes what is detected, at any time. It
learns one fixed list of names: use a mapper without `prompt` and with `vocabulary` set to the same list.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead

from openvocab.modeling import SimilarityConv, TimmBackbone, with_classifier
from openvocab.text import BertTextEncoder, encode_vocabulary
from openvocab.vocabulary import Vocabulary

CHANNELS, ANCHORS = 128, 9
NAMES = "coco"

model = L(RetinaNet)(
    backbone=L(FPN)(
        bottom_up=L(TimmBackbone)(name="tf_efficientnet_lite0", out_indices=(2, 3, 4), weights="package", freeze_at=3),
        in_features=["stage2", "stage3", "stage4"],
        out_channels=CHANNELS,
        top_block=L(LastLevelP6P7)(in_channels=CHANNELS, out_channels=CHANNELS, in_feature="p5"),
    ),
    head=L(with_classifier)(
        head=L(RetinaNetHead)(
            input_shape=[ShapeSpec(channels=CHANNELS)] * 5, num_classes=80, conv_dims=[CHANNELS] * 4, num_anchors=ANCHORS
        ),
        classifier=L(SimilarityConv)(
            in_channels=CHANNELS,
            num_anchors=ANCHORS,
            text_dim=384,
            embeddings=L(encode_vocabulary)(
                encoder=L(BertTextEncoder)(source="minilm"), vocabulary=L(Vocabulary.builtin)(name=NAMES)
            ),
        ),
    ),
    anchor_generator=L(DefaultAnchorGenerator)(
        sizes=[[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=[8, 16, 32, 64, 128],
        offset=0.0,
    ),
    box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
    anchor_matcher=L(Matcher)(thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True),
    num_classes=80,
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    pixel_mean=[127.0, 127.0, 127.0],
    pixel_std=[128.0, 128.0, 128.0],
    input_format="RGB",
)
