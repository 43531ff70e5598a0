"""Class names, prompts, frequencies and splits: their one room."""

from .vocabulary import Vocabulary, clean_name

__all__ = ["Vocabulary", "clean_name"]
