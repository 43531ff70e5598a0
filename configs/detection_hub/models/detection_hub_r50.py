"""Detection Hub on Sparse R-CNN's R50-FPN with 300 queries: 108 M parameters train, 79 M of them the decoder's, 2.3 M the hub's.

The paper's base detector; the hub's form is ours, and so is MiniLM in place of its text encoder, which no source names. Weights are
random: released ones of Sparse R-CNN, and torchvision's ResNet-50 for the backbone, come by `tools/convert_weights.py`. Data sets
go into `model.hub.datasets`, or later into `model.set_datasets(...)`. Plain Sparse R-CNN: `hub=None` and `decoder.num_classes=80`.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling import FPN, ResNet
from detectron2.modeling.backbone import BasicStem

from detection_hub.modeling import CategoryEmbeddings, DetectionHub, DynamicHead, HubAdapter, HungarianMatcher, SetCriterion
from openvocab.text import BertTextEncoder

DIM, STAGES = 256, 6

model = L(DetectionHub)(
    backbone=L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
            stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm="FrozenBN"),
            out_features=["res2", "res3", "res4", "res5"],
            freeze_at=2,
        ),
        in_features=["res2", "res3", "res4", "res5"],
        out_channels=DIM,
    ),
    decoder=L(DynamicHead)(strides=[4, 8, 16, 32], num_stages=STAGES, dim=DIM, ffn_dim=2048, dynamic_dim=64),
    hub=L(HubAdapter)(
        embeddings=L(CategoryEmbeddings)(text_encoder=L(BertTextEncoder)(source="minilm", frozen=True), reference="coco"),
        dim=DIM,
        num_stages=STAGES,
        arm="full",
        datasets=[],
    ),
    criterion=L(SetCriterion)(matcher=L(HungarianMatcher)(cls=2.0, l1=5.0, giou=2.0)),
    in_features=["p2", "p3", "p4", "p5"],
    num_queries=300,
    initial_boxes="image",
    # torchvision's ResNet-50, which takes RGB
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
)
