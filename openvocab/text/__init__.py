"""Text to vectors: one protocol, a registry, three encoders."""

from .base import TEXT_ENCODER_REGISTRY, LanguageFeatures, TextEncoder, TokenBatch, build_text_encoder
from .bert import BertTextEncoder
from .cache import EmbeddingCache, encode_vocabulary
from .clip import CLIPTextEncoder, require_quick_gelu
from .files import TextEmbeddings, load_text_embeddings, save_text_embeddings
from .hashed import HashedTextEncoder
from .recipes import RECIPES, embed_names

__all__ = [
    "RECIPES",
    "TEXT_ENCODER_REGISTRY",
    "BertTextEncoder",
    "CLIPTextEncoder",
    "EmbeddingCache",
    "HashedTextEncoder",
    "LanguageFeatures",
    "TextEmbeddings",
    "TextEncoder",
    "TokenBatch",
    "build_text_encoder",
    "embed_names",
    "encode_vocabulary",
    "load_text_embeddings",
    "require_quick_gelu",
    "save_text_embeddings",
]
