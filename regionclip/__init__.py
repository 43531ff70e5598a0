"""RegionCLIP (arXiv 2112.09106) for detectron2: CLIP's features of regions, open-vocabulary detection on top.

Importing this package registers `RegionCLIP`, `RegionCLIPROIHeads` and the backbones in detectron2's registries.
"""

from __future__ import annotations

from . import modeling as _  # noqa: F401  registration
from .config import add_regionclip_config

__all__ = ["add_regionclip_config"]
