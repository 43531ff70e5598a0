"""Detection Hub with Swin-T and an FPN in place of R50-FPN (ours; the paper's Swin is not known here)."""

from detectron2.config import LazyCall as L

from openvocab.modeling.swin import SwinTransformer

from .detection_hub_r50 import model

model.backbone.bottom_up = L(SwinTransformer)(
    embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=7, drop_path_rate=0.2, out_indices=(0, 1, 2, 3)
)
model.backbone.in_features = ["p0", "p1", "p2", "p3"]
