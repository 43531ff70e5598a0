"""Zero-shot LVIS on given boxes, RN50: a pretrained RegionCLIP names the true boxes, by 1203 names (table 4).

Reproduces: the row "GT" of RegionCLIP RN50; its numbers could not be checked here, and it was not run.
Cost: less than on proposals: no RPN runs, and true boxes are fewer.
Command: python tools/train_net.py --config-file configs/regionclip/zero_shot/lvis_gt_rn50.py --eval-only

Files as for lvis_rpn_rn50. Results: lvis_v1_val_given/bbox: AP, APr, APc, APf.
"""

from ...common.evaluation import with_true_boxes as _with_true_boxes
from .lvis_rpn_rn50 import dataloader, lr_multiplier, model, optimizer, train

model.regions, model.offline_rpn = "gt", None
model.roi_heads.box_predictor.postprocessor.update(score_fusion="none", score_threshold=0.0001)
dataloader.test = _with_true_boxes(dataloader.test)
