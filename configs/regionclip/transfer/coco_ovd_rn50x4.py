"""RegionCLIP's transfer to open-vocabulary COCO, RN50x4: trained on 48 names, tested on 65.

Reproduces: the authors' largest model on COCO; its numbers could not be checked against the paper here. Not run.
Cost: 90,000 steps of 16 pictures, made for 8 GPUs; 2.3 times RN50's trained parameters.
Command: python tools/train_net.py --config-file configs/regionclip/transfer/coco_ovd_rn50x4.py --num-gpus 8

Files as for coco_ovd_rn50, of RN50x4: coco_start_rn50x4.safetensors, coco_65_cls_emb_rn50x4.pth.
"""

from ..models.regionclip_rn50x4 import to_rn50x4 as _to_rn50x4
from .coco_ovd_rn50 import _files, dataloader, lr_multiplier, model, optimizer, train

_to_rn50x4(model)
model.text_embeddings.path = str(_files / "coco_65_cls_emb_rn50x4.pth")
train.init_checkpoint = str(_files / "coco_start_rn50x4.safetensors")
train.output_dir = "output/regionclip_coco_ovd_rn50x4"
