"""Network parts of GLIPv2."""

from .detector import GLIPv2
from .fusion import BiAttention, VisionLanguageFusion
from .head import GLIPv2Block, GLIPv2Head, HeadOutput, RegionWordAlignment
from .language import LanguageLayer
from .losses import GroundingCriterion, Targets
from .postprocess import GroundingPostProcessor, phrase_scores
from .prior import SemanticPrior

__all__ = [
    "BiAttention",
    "GLIPv2",
    "GLIPv2Block",
    "GLIPv2Head",
    "GroundingCriterion",
    "GroundingPostProcessor",
    "HeadOutput",
    "LanguageLayer",
    "RegionWordAlignment",
    "SemanticPrior",
    "Targets",
    "VisionLanguageFusion",
    "phrase_scores",
]
