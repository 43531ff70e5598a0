"""GLIP-T's released weights on LVIS minival without tuning, by the released code's protocol; fixed AP.

Reproduces: 26.0 AP of GLIP-T (arXiv 2112.03857): 40 names a prompt in order of their ids, the best 300 boxes of
each prompt, no suppression between prompts. It needs released weights, and was not run here.
Cost: not measured; 31 prompts a picture, the image network once.
Command: python tools/train_net.py --config-file configs/glipv2/lvis.py
    --eval-only train.init_checkpoint=glip_tiny.safetensors
with weights from `tools/convert_weights.py --from glip glip_tiny_model_o365_goldg_cc_sbu.pth glip_tiny.safetensors`. COCO, all of
whose names go into one prompt, is evaluated by `dataloader.test` of configs/glipv2/pretrain/glip_tiny.py.
"""

from .pretrain.glip_tiny import dataloader, lr_multiplier, model, optimizer, train

del dataloader.test.coco_2017_val
model.chunking.max_names = 40
model.postprocessor.max_detections = 300
train.output_dir = "output/glipv2_lvis"
train.best_metric = "lvis_v1_minival_fixed/bbox_fixed/AP"
