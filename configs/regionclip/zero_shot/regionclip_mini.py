"""`regionclip_mini` without any training on boxes: coco_mini on proposals, 65 names.

Reproduces: nothing of the paper. Ours, see transfer/regionclip_mini, which also says where proposals come from.
Cost: 7 minutes of one CPU core: 328 pictures, 0.3 s for proposals (once) and 1.1 s for their names.
Command: python tools/train_net.py --config-file configs/regionclip/zero_shot/regionclip_mini.py --eval-only
Weights: those shipped, of pretrain/regionclip_mini. With train.init_checkpoint= it evaluates the image-level model that pretraining
starts from (EfficientNet-Lite0 and MiniLM by ConSE).
"""

from ..transfer.regionclip_mini import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.box_predictor.regress_boxes = False
train.output_dir = "output/regionclip_mini_zero_shot"
