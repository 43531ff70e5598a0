"""Text to vectors: one protocol, a registry, three encoders."""

from .base import TEXT_ENCODER_REGISTRY, LanguageFeatures, TextEncoder, TokenBatch, build_text_encoder
from .bert import BertTextEncoder
from .cache import EmbeddingCache, encode_vocabulary
from .clip import CLIPTextEncoder
from .hashed import HashedTextEncoder

__all__ = [
    "TEXT_ENCODER_REGISTRY",
    "BertTextEncoder",
    "CLIPTextEncoder",
    "EmbeddingCache",
    "HashedTextEncoder",
    "LanguageFeatures",
    "TextEncoder",
    "TokenBatch",
    "build_text_encoder",
    "encode_vocabulary",
]
