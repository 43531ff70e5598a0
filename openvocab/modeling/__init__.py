"""Layers and backbones that two plugins use."""

from .atss import ATSSMatcher, centerness_targets
from .dyhead import DyHeadBlock
from .plug import set_class_embeddings, with_classifier
from .roi_align import BagROIPooler
from .similarity import SimilarityClassifier, SimilarityConv
from .swin import SwinTransformer, add_swin_config
from .timm_backbone import TimmBackbone, add_timm_config

__all__ = [
    "ATSSMatcher",
    "BagROIPooler",
    "DyHeadBlock",
    "SimilarityClassifier",
    "SimilarityConv",
    "SwinTransformer",
    "TimmBackbone",
    "add_swin_config",
    "add_timm_config",
    "centerness_targets",
    "set_class_embeddings",
    "with_classifier",
]
