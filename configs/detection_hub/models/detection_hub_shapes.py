"""Detection Hub for ConventionShapes, 96 x 96 pixels: 1.2 M parameters, no pretrained part, names by a hashed text encoder.

Ours: three stages of width 64 on a small pyramid, 16 queries on a grid. As many groups as channels: else the background's colour is
the loudest thing in a map, and training from scratch learns to look away before it learns to look (seen here with groups=4).
"""

from detectron2.config import LazyCall as L

from detection_hub.modeling import CategoryEmbeddings, DetectionHub, DynamicHead, HubAdapter, HungarianMatcher, SetCriterion
from openvocab.testing.tiny import TinyBackbone
from openvocab.text import HashedTextEncoder

DIM, STAGES = 64, 3

model = L(DetectionHub)(
    backbone=L(TinyBackbone)(channels=DIM, first=2, last=4, groups=DIM),
    decoder=L(DynamicHead)(
        strides=[4, 8, 16], num_stages=STAGES, dim=DIM, num_heads=4, ffn_dim=256, dynamic_dim=16, pooled_size=5, num_reg=1
    ),
    hub=L(HubAdapter)(
        embeddings=L(CategoryEmbeddings)(text_encoder=L(HashedTextEncoder)(dim=64), reference=None, templates=None),
        dim=DIM,
        num_stages=STAGES,
        num_heads=4,
        arm="full",
        datasets=[],
    ),
    criterion=L(SetCriterion)(matcher=L(HungarianMatcher)(cls=2.0, l1=5.0, giou=2.0)),
    in_features=["p2", "p3", "p4"],
    num_queries=16,
    initial_boxes="grid",
    max_detections=20,
    pixel_mean=[127.0, 127.0, 127.0],
    pixel_std=[64.0, 64.0, 64.0],
)
