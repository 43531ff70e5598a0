"""RegionCLIP's detector on CLIP's RN101: 74.2 M parameters, of which 55.9 M train; vectors of 512.

Not a size of the paper. Weights: CLIP's own, or a pretraining of yours (`configs/regionclip/pretrain`).
"""

from .regionclip_rn50 import FILES, model

model.backbone.depth = "RN101"
model.roi_heads.box_predictor.input_dim = 512
