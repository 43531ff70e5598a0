"""Network parts of GLIPv2."""

from .contrast import RegionWordContrast
from .detector import GLIPv2
from .execution import Execution
from .fusion import BiAttention, VisionLanguageFusion
from .head import GLIPv2Block, GLIPv2Head, HeadOutput, RegionWordAlignment
from .language import LanguageLayer
from .losses import GroundingCriterion, Targets
from .mask_branch import MaskBranch, MaskPooler
from .mask_head import GLIPv2MaskHead
from .mask_trunk import MaskConvs, MaskHourglasses
from .mlm import MaskedLanguageHead, MaskedLanguageModelling, WordMasker
from .postprocess import GroundingPostProcessor, phrase_scores
from .prior import SemanticPrior
from .prompts import Chunking

__all__ = [
    "BiAttention",
    "Chunking",
    "Execution",
    "GLIPv2",
    "GLIPv2Block",
    "GLIPv2Head",
    "GLIPv2MaskHead",
    "GroundingCriterion",
    "GroundingPostProcessor",
    "HeadOutput",
    "LanguageLayer",
    "MaskBranch",
    "MaskConvs",
    "MaskHourglasses",
    "MaskPooler",
    "MaskedLanguageHead",
    "MaskedLanguageModelling",
    "RegionWordAlignment",
    "RegionWordContrast",
    "SemanticPrior",
    "Targets",
    "VisionLanguageFusion",
    "WordMasker",
    "phrase_scores",
]
