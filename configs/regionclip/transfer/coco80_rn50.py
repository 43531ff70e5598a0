"""RegionCLIP's detector on all 80 names of COCO, RN50: the fully supervised transfer, with the same text classifier.

Reproduces: the paper's table 3 on COCO; its numbers could not be checked here, and it was not run.
Cost: 90,000 steps of 16 pictures, made for 8 GPUs.
Command: python tools/train_net.py --config-file configs/regionclip/transfer/coco80_rn50.py --num-gpus 8

Files below $DETECTRON2_DATASETS/regionclip:
  coco80_start_rn50.safetensors  as coco_start_rn50 (see coco_ovd_rn50), with --rpn rpn_coco_80.pth
  coco_80_rn50.safetensors       tools/dump_text_embeddings.py --vocabulary coco --pretrained RN50.pt --allow-pickle OUT
"""

from ...common.data import test_sets as _test_sets
from .coco_ovd_rn50 import _files, dataloader, lr_multiplier, model, optimizer, train

model.text_embeddings.path, model.text_embeddings.vocabulary = str(_files / "coco_80_rn50.safetensors"), "coco"
dataloader.train.sources[0].mapper.exclude_names = []
dataloader.test = _test_sets("coco_2017_val")
train.init_checkpoint = str(_files / "coco80_start_rn50.safetensors")
train.output_dir = "output/regionclip_coco80_rn50"
