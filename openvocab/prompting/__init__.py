"""Names to sentences, spans, chunks and templates."""

from .caption import Caption, build_caption, token_map

__all__ = ["Caption", "build_caption", "token_map"]
