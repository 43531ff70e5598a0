"""`regionclip_mini` on given boxes: it names the true boxes of coco_mini's validation pictures, by 65 names.

Reproduces: nothing of the paper; its protocol of table 4, on a small set. Ours, see transfer/regionclip_mini.
Cost: 2.5 minutes of one CPU core.
Command: python tools/train_net.py --config-file configs/regionclip/zero_shot/regionclip_mini_gt.py --eval-only
Results: coco_mini_val_ovd_given/bbox_ovd: AP50_novel, AP50_base, AP50_all. Weights as in zero_shot/regionclip_mini.
"""

from ...common.evaluation import with_true_boxes as _with_true_boxes
from ..transfer.regionclip_mini import _coco
from .regionclip_mini import dataloader, lr_multiplier, model, optimizer, train

model.regions, model.offline_rpn = "gt", None
model.roi_heads.box_predictor.postprocessor.score_fusion = "none"  # true boxes have no score
_neither = [name for name, split in zip(_coco.names, _coco.splits, strict=True) if split is None]
dataloader.test = _with_true_boxes(dataloader.test, exclude=_neither)
