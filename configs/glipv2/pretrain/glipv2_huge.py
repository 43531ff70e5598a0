"""Pretraining of a GLIPv2 with a huge backbone, on the data of glipv2_base.

Reproduces: nothing exactly. GLIPv2-H of arXiv 2206.05836 has Florence's CoSwin-H, whose sizes were never published; a plain Swin of
width 352 with the depths of Swin-L stands here in its place (ours). No figure to expect; not run here.
Cost: not known.
Command: python tools/train_net.py --config-file configs/glipv2/pretrain/glipv2_huge.py
    --num-gpus 64 model.text_encoder.source=bert-base model.text_encoder.config=null
"""

from .glipv2_base import dataloader, lr_multiplier, model, optimizer, train

_swin = model.backbone.bottom_up
_swin.embed_dim, _swin.num_heads, _swin.drop_path_rate = 352, (11, 22, 44, 88), 0.4
_swin.frozen_stages = -1  # there is no trained one to start from
train.output_dir = "output/glipv2_huge_pretrain"
