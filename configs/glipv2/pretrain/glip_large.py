"""Pretraining of GLIP-L: four detection sets, gold grounding, and 24 M captions with a teacher's boxes.

Reproduces: GLIP-L of arXiv 2112.03857 (and microsoft/GLIP): 51.4 AP on COCO val without tuning (its README). Not run here.
Cost: that of the paper, 64 V100; the time is not known to us.
Command: python tools/train_net.py --config-file configs/glipv2/pretrain/glip_large.py
    --num-gpus 64 model.text_encoder.source=bert-base model.text_encoder.config=null train.init_checkpoint=swin_l.safetensors
The released code's: copies of each set, 1 M steps of 64, weight decay 0.01 that falls to a tenth at 0.667 of each step of the rate,
Swin's patches and first stage frozen. A set's share of the samples is its copies times its millions, as the released yaml counts
them; the shares of captions are ours.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import MultiStepParamScheduler

from ..models.glip_large import model
from .glip_tiny import _sources, dataloader, lr_multiplier, optimizer, train

model.backbone.bottom_up.frozen_stages = 2  # patches and the first stage, FREEZE_CONV_BODY_AT=2 of the released code

_copies = {
    "flickr30k_train": 8 * 0.15,
    "goldg_mixed_train": 4 * 0.6,
    "objects365_train": 2 * 1.4,
    "visual_genome_train": 3 * 0.4,
    "imagenet_boxes_train": 2 * 0.67,
    "oid_train": 1 * 2.0,
    "cc3m_pseudo": 3.0,
    "cc12m_pseudo": 10.0,
    "sbu_pseudo": 1.0,
}
dataloader.train.sources = _sources(_copies)
optimizer.weight_decay = 0.01
# 0.667 x 0.67 and 0.667 x 0.89 of the run
optimizer.weight_decay_schedule = L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[44_689, 59_363, 100_000])
train.max_iter = 1_000_000
lr_multiplier.warmup_length = 2000 / train.max_iter
train.output_dir = "output/glip_large_pretrain"
