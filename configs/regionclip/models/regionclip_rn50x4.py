"""RegionCLIP's detector on CLIP's RN50x4: 105.1 M parameters, of which 86.5 M train; vectors of 640, a pooler of 18."""

from .regionclip_rn50 import FILES, model


def to_rn50x4(model):
    """Make an RN50 detector one of RN50x4, in place; the rest of its settings stay."""
    model.backbone.depth = "RN50x4"
    model.roi_heads.region_features.pooler.output_size = 18  # layer4 halves it to 9, the side of the attention pool
    model.roi_heads.box_predictor.input_dim = 640
    if model.roi_heads.mask_head is not None:
        model.roi_heads.mask_head.input_shape.channels = 2560
    return model


to_rn50x4(model)
