"""Other people's weights in terms of our modules: RegionCLIP's checkpoints, its RPNs, and CLIP's own files."""

from .clip import from_clip, text_tower
from .keys import VARIANTS, ClipResNet
from .official import from_official
from .report import ConversionReport
from .rpn import from_rpn

__all__ = ["VARIANTS", "ClipResNet", "ConversionReport", "from_clip", "from_official", "from_rpn", "text_tower"]
