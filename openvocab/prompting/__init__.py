"""Names to sentences, spans, chunks and templates."""

from .caption import Caption, build_caption, token_map
from .chunking import chunk_names
from .phrases import noun_phrases
from .said import phrases_of_answer, phrases_of_caption
from .templates import templates

__all__ = [
    "Caption",
    "build_caption",
    "chunk_names",
    "noun_phrases",
    "phrases_of_answer",
    "phrases_of_caption",
    "templates",
    "token_map",
]
