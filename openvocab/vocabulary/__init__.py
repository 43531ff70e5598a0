"""Class names, prompts, frequencies and splits: their one room."""

from .checks import clean_name
from .merging import merge
from .vocabulary import Vocabulary
from .wording import reworded

__all__ = ["Vocabulary", "clean_name", "merge", "reworded"]
