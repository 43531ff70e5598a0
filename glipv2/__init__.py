"""GLIPv2 (arXiv 2206.05836) for detectron2: grounded detection with deep language fusion.

Importing this package registers `GLIPv2` and `GLIPv2Tasks` in detectron2's META_ARCH_REGISTRY.
"""

from __future__ import annotations

from . import modeling as _  # noqa: F401  registration
from . import tasks as _tasks  # noqa: F401
from .config import add_glipv2_config

__all__ = ["add_glipv2_config"]
