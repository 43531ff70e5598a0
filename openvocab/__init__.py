"""Open-vocabulary detection for detectron2: the shared core.

Importing this package is cheap: what it offers is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvocab.detections import Detections
    from openvocab.predictor import Predictor, load_predictor
    from openvocab.vocabulary import Vocabulary

__version__ = "0.1.0"

_LAZY = {
    "load_predictor": "openvocab.predictor",
    "Predictor": "openvocab.predictor",
    "Detections": "openvocab.detections",
    "Vocabulary": "openvocab.vocabulary",
}
__all__ = ["Detections", "Predictor", "Vocabulary", "__version__", "load_predictor"]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'openvocab' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
