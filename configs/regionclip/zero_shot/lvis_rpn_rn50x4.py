"""Zero-shot LVIS on proposals, RN50x4; all else as lvis_rpn_rn50.

Reproduces: the row "RPN" of RegionCLIP RN50x4; its numbers could not be checked here, and it was not run.
Cost: more than RN50's, whose network is half as large.
Command: python tools/train_net.py --config-file configs/regionclip/zero_shot/lvis_rpn_rn50x4.py --eval-only

Files as for RN50, of RN50x4: pretrained_rn50x4.safetensors, lvis_1203_cls_emb_rn50x4.pth.
"""

from ..models.regionclip_rn50x4 import FILES as _files
from ..models.regionclip_rn50x4 import to_rn50x4 as _to_rn50x4
from .lvis_rpn_rn50 import dataloader, lr_multiplier, model, optimizer, train

_to_rn50x4(model)
model.text_embeddings.path = str(_files / "lvis_1203_cls_emb_rn50x4.pth")
train.init_checkpoint = str(_files / "pretrained_rn50x4.safetensors")
