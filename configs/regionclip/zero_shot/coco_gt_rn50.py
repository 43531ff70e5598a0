"""Zero-shot COCO on given boxes, RN50: a pretrained RegionCLIP names the true boxes, by 65 names (table 4).

Reproduces: the row "GT" of RegionCLIP RN50; its numbers could not be checked here, and it was not run.
Cost: less than on proposals: a picture has 7 true boxes on average, and no RPN runs.
Command: python tools/train_net.py --config-file configs/regionclip/zero_shot/coco_gt_rn50.py --eval-only

Files as for coco_rpn_rn50. Results: coco_2017_val_ovd_given/bbox_ovd: AP50_novel, AP50_base, AP50_all.
"""

from ...common.evaluation import with_true_boxes as _with_true_boxes
from ..transfer.coco_ovd_rn50 import _coco
from .coco_rpn_rn50 import dataloader, lr_multiplier, model, optimizer, train

model.regions, model.offline_rpn = "gt", None
model.roi_heads.box_predictor.postprocessor.score_fusion = "none"  # true boxes have no RPN score
_neither = [name for name, split in zip(_coco.names, _coco.splits, strict=True) if split is None]
dataloader.test = _with_true_boxes(dataloader.test, exclude=_neither)
