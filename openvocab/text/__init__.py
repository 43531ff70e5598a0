"""Text to vectors: one protocol, a registry, three encoders."""

from .base import TEXT_ENCODER_REGISTRY, LanguageFeatures, TextEncoder, TokenBatch, build_text_encoder
from .bert import BertTextEncoder
from .hashed import HashedTextEncoder

__all__ = [
    "TEXT_ENCODER_REGISTRY",
    "BertTextEncoder",
    "HashedTextEncoder",
    "LanguageFeatures",
    "TextEncoder",
    "TokenBatch",
    "build_text_encoder",
]
