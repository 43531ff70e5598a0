"""Network parts of RegionCLIP."""

from .attention_pool import AttentionPool2d
from .box_predictor import RegionCLIPOutputLayers
from .clip_resnet import ModifiedResNet, clip_stage
from .detector import CLIP_MEAN, CLIP_STD, RegionCLIP
from .losses import box_loss, classification_loss
from .names import EmbeddingFile, NameVectors
from .offline_rpn import OfflineProposals, build_offline_rpn, build_proposal_network, offline_rpn_from_cfg
from .postprocess import RegionPostProcessor
from .region_features import RegionFeatures
from .roi_heads import RegionCLIPROIHeads
from .soft_nms import SoftNMS

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "AttentionPool2d",
    "EmbeddingFile",
    "ModifiedResNet",
    "NameVectors",
    "OfflineProposals",
    "RegionCLIP",
    "RegionCLIPOutputLayers",
    "RegionCLIPROIHeads",
    "RegionFeatures",
    "RegionPostProcessor",
    "SoftNMS",
    "box_loss",
    "build_offline_rpn",
    "build_proposal_network",
    "classification_loss",
    "clip_stage",
    "offline_rpn_from_cfg",
]
