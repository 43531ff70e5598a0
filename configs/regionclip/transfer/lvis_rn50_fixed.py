"""The detector of lvis_rn50 judged by fixed AP: the 10,000 best boxes of a name over the set, whatever else a picture holds.

Reproduces: nothing published; RegionCLIP reports AP with 300 detections a picture.
Cost: the evaluation of lvis_rn50, with more boxes to sort. Boxes only, by plain NMS (ours): masks of 10,000 regions a picture and
soft-NMS on a million boxes are out of reach.
Command: python tools/train_net.py --config-file configs/regionclip/transfer/lvis_rn50_fixed.py --eval-only
  train.init_checkpoint=lvis_rn50.safetensors model.text_embeddings.path=lvis_rn50.safetensors
Results: lvis_v1_val_fixed/bbox_fixed: AP, APr, APc, APf.
"""

from ...common.evaluation import lvis as _lvis
from .lvis_rn50 import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.box_predictor.postprocessor.update(soft_nms=None, score_threshold=0.0001, max_detections=10_000)
model.roi_heads.mask_head = None
dataloader.test = _lvis("lvis_v1_val", fixed=True)
train.output_dir = "output/regionclip_lvis_rn50_fixed"
