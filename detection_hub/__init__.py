"""Detection Hub (arXiv 2206.03484) for detectron2: one detector for many data sets, its queries adapted on language.

After the paper's abstract; where the design is ours the README says so. Importing this package registers `DetectionHub` in
detectron2's META_ARCH_REGISTRY, and its backbones.
"""

from __future__ import annotations

from . import modeling as _  # noqa: F401  registration
from .config import add_detection_hub_config, hub_from_config
from .context import FLAGS, LABEL_POLICIES, DatasetContext
from .data import Hub, HubDataset

__all__ = [
    "FLAGS",
    "LABEL_POLICIES",
    "DatasetContext",
    "Hub",
    "HubDataset",
    "add_detection_hub_config",
    "hub_from_config",
]
