"""Names to sentences, spans, chunks and templates."""

from .caption import Caption, build_caption, token_map
from .chunking import chunk_names
from .phrases import noun_phrases
from .templates import templates

__all__ = ["Caption", "build_caption", "chunk_names", "noun_phrases", "templates", "token_map"]
