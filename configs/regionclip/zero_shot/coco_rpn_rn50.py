"""Zero-shot COCO on proposals, RN50: a pretrained RegionCLIP without any training on boxes, 65 names (section 4.3, table 4).

Reproduces: the row "RPN" of RegionCLIP RN50; its numbers could not be checked here, and it was not run.
Cost: a pass over COCO's validation pictures.
Command: python tools/train_net.py --config-file configs/regionclip/zero_shot/coco_rpn_rn50.py --eval-only

Files below $DETECTRON2_DATASETS/regionclip:
  pretrained_rn50.safetensors
    tools/convert_weights.py --from regionclip --rpn rpn_lvis_866.pth regionclip_pretrained-cc_rn50.pth OUT
    or CLIP itself, the paper's baseline: --from clip --allow-pickle --rpn rpn_lvis_866.pth RN50.pt OUT
  coco_65_cls_emb.pth, see transfer/coco_ovd_rn50
Scores are sqrt(probability x raw RPN logit) as published: they can pass 1, and boxes of a negative logit are lost. Sound:
  model.roi_heads.box_predictor.postprocessor.score_fusion=sqrt_sigmoid
"""

from ...common.evaluation import coco_ovd as _coco_ovd
from ..transfer.coco_ovd_rn50 import _files, dataloader, lr_multiplier, model, optimizer, train

model.offline_rpn.kind, model.offline_rpn.nms_thresh = "fpn", 0.9
_box = model.roi_heads.box_predictor
_box.regress_boxes = False  # a pretrained model has no box regression
_box.postprocessor.update(score_fusion="sqrt_logit", soft_nms=None)
dataloader.test = _coco_ovd()
train.init_checkpoint = str(_files / "pretrained_rn50.safetensors")
train.output_dir = "output/regionclip_zero_shot"
