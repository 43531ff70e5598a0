"""GLIP-L: Swin-L with windows of 12, eight fused blocks; 430.4 M parameters."""

from .glip_tiny import fused_block, model

BLOCKS = 8

swin = model.backbone.bottom_up
swin.embed_dim, swin.depths, swin.num_heads = 192, (2, 2, 18, 2), (6, 12, 24, 48)
swin.window_size, swin.drop_path_rate = 12, 0.4
model.head.blocks = [fused_block(BLOCKS) for _ in range(BLOCKS)]
