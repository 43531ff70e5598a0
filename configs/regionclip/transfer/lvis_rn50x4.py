"""RegionCLIP's transfer to open-vocabulary LVIS v1, RN50x4 with masks: trained on 866 names, tested on 1203.

Reproduces: AP 32.3, APr 22.0 (the authors' MODEL_ZOO; presumably of masks, which it does not say). Not run here.
Cost: 180,000 steps of 16 pictures, made for 8 GPUs; 2.3 times RN50's trained parameters.
Command: python tools/train_net.py --config-file configs/regionclip/transfer/lvis_rn50x4.py --num-gpus 8

Files as for lvis_rn50, of RN50x4: lvis_start_rn50x4.safetensors, lvis_1203_cls_emb_rn50x4.pth.
"""

from ..models.regionclip_rn50x4 import to_rn50x4 as _to_rn50x4
from .lvis_rn50 import _files, dataloader, lr_multiplier, model, optimizer, train

_to_rn50x4(model)
model.text_embeddings.path = str(_files / "lvis_1203_cls_emb_rn50x4.pth")
train.init_checkpoint = str(_files / "lvis_start_rn50x4.safetensors")
train.output_dir = "output/regionclip_lvis_rn50x4"
