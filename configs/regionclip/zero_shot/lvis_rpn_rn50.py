"""Zero-shot LVIS on proposals, RN50: a pretrained RegionCLIP without any training on boxes, 1203 names (table 4).

Reproduces: the row "RPN" of RegionCLIP RN50; its numbers could not be checked here, and it was not run.
Cost: a pass over LVIS's validation pictures.
Command: python tools/train_net.py --config-file configs/regionclip/zero_shot/lvis_rpn_rn50.py --eval-only

Files as for coco_rpn_rn50, and lvis_1203_cls_emb.pth. Results: lvis_v1_val/bbox: AP, APr, APc, APf.
"""

from ...common.evaluation import lvis as _lvis
from .coco_rpn_rn50 import _files, dataloader, lr_multiplier, model, optimizer, train

model.text_embeddings.path, model.text_embeddings.vocabulary = str(_files / "lvis_1203_cls_emb.pth"), "lvis"
model.roi_heads.box_predictor.postprocessor.update(score_threshold=0.02, max_detections=300)
dataloader.test = _lvis("lvis_v1_val")
