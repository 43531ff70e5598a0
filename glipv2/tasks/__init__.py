"""GLIPv2's understanding tasks (arXiv 2206.05836): questions and captions from the weights that detect."""

from .caption import CaptionHead
from .heads import TASK_HEAD_REGISTRY, TaskHead
from .model import GLIPv2Tasks
from .search import SearchSettings, beam_search
from .vqa import VQAHead

__all__ = ["CaptionHead", "GLIPv2Tasks", "SearchSettings", "TASK_HEAD_REGISTRY", "TaskHead", "VQAHead", "beam_search"]
