"""Pretraining of GLIP-L: four detection sets, gold grounding, and 24 M captions with a teacher's boxes.

Reproduces: GLIP-L of arXiv 2112.03857 (facts/glipv2.md 1.1, 1.11): 51.4 AP on COCO val without tuning (its README). Not run here.
Cost: that of the paper, 64 V100; the time is not known to us.
Command: python tools/train_net.py --config-file configs/glipv2/pretrain/glip_large.py
    --num-gpus 64 model.text_encoder.source=bert-base model.text_encoder.config=null train.init_checkpoint=swin_l.safetensors
The released code's: copies of each set, 1 M steps of 64, weight decay 0.01. It freezes Swin's first stage and lowers the weight
decay with the rate; neither is done here. Ours: a set's share of the samples is its copies times our guess of its millions.
"""

from ..models.glip_large import model
from .glip_tiny import _sources, dataloader, lr_multiplier, optimizer, train

_copies = {
    "flickr30k_train": 8 * 0.15,
    "goldg_mixed_train": 4 * 0.6,
    "objects365_train": 2 * 1.7,
    "visual_genome_train": 3 * 0.1,
    "imagenet_boxes_train": 2 * 0.5,
    "oid_train": 1 * 1.7,
    "cc3m_pseudo": 3.0,
    "cc12m_pseudo": 10.0,
    "sbu_pseudo": 1.0,
}
dataloader.train.sources = _sources(_copies)
optimizer.weight_decay = 0.01
train.max_iter = 1_000_000
lr_multiplier.warmup_length = 2000 / train.max_iter
train.output_dir = "output/glip_large_pretrain"
