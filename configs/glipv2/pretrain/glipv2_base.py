"""Pretraining of GLIPv2-B: Swin-L, five detection sets, gold grounding and 16 M captions with a teacher's boxes.

Reproduces: GLIPv2-B of arXiv 2206.05836, as far as it is known to us: our sheet marks its backbone and data as uncertain. COCO's
pictures are in the training, so that COCO and LVIS are no test without tuning. No figure to expect; not run here.
Cost: not known.
Command: python tools/train_net.py --config-file configs/glipv2/pretrain/glipv2_base.py
    --num-gpus 64 model.text_encoder.source=bert-base model.text_encoder.config=null train.init_checkpoint=swin_l.safetensors
Ours: rates, steps and shares, which are those of glip_large, with COCO as the fifth detection set.
"""

from .glip_large import _copies, _sources, dataloader, lr_multiplier, model, optimizer, train
from .glipv2_tiny import model as _tiny

model.contrast, model.mlm = _tiny.contrast, _tiny.mlm
dataloader.train.sources = _sources({**_copies, "coco_2017_train": 0.5})
train.output_dir = "output/glipv2_base_pretrain"
