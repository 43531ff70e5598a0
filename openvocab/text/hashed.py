"""A text encoder without weights, for tests: similar spellings get similar vectors, the same on every machine."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import torch
from torch import Tensor

from openvocab.errors import TextEncoderError

from .base import TEXT_ENCODER_REGISTRY, LanguageFeatures, Pieces, TextEncoder, TokenBatch

PAD, CLS, SEP = 0, 1, 2
_FIRST, _IDS = 3, 1 << 62  # so many ids that two words share one never
_WORDS: dict[int, str] = {PAD: "[PAD]", CLS: "[CLS]", SEP: "[SEP]"}


@lru_cache(maxsize=65536)
def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _id(word: str) -> int:
    number = _FIRST + _hash(word) % _IDS
    _WORDS[number] = word
    return number


@lru_cache(maxsize=16384)
def _vector(token: int, dim: int, seed: int) -> Tensor:
    """The vector (D,) of a token: the mean of its character trigrams' random vectors, of length 1."""
    if token not in _WORDS:
        raise TextEncoderError(f"token {token} is of no word this process has seen; tokenize and encode in one process")
    word = f"#{_WORDS[token]}#"
    total = torch.zeros(dim)
    for i in range(max(len(word) - 2, 1)):
        generator = torch.Generator().manual_seed((_hash(word[i : i + 3]) + 1000003 * seed) % (1 << 62))
        total += torch.randn(dim, generator=generator)
    return total / total.norm().clamp(min=1e-6)


@TEXT_ENCODER_REGISTRY.register()
class HashedTextEncoder(TextEncoder):
    """Each word (or punctuation mark) is a token; its vector is the mean of hashed vectors of its character trigrams.

    It knows no meaning and no word order, has no weights and needs no package.

    Args:
        dim: D.
        max_tokens: most tokens of a text, [CLS] and [SEP] included.
        seed: another seed gives other vectors.
        frozen: taken as by the other encoders; there is nothing to train.

    Raises:
        TextEncoderError: for a `dim` below 1, or a `max_tokens` that leaves no room for a word.
    """

    def __init__(self, *, dim: int = 64, max_tokens: int = 256, seed: int = 0, frozen: bool = True) -> None:
        super().__init__()
        if dim < 1 or max_tokens < 3:
            raise TextEncoderError(f"dim={dim} must be at least 1 and max_tokens={max_tokens} at least 3")
        self.dim, self.max_tokens, self.seed = dim, max_tokens, seed
        self.register_buffer("_where", torch.zeros(()), persistent=False)  # knows the device
        self.sign(f"hashed:{dim}:{seed}")

    def split(self, texts: list[str]) -> list[Pieces]:
        rows = []
        for text in texts:
            words = [(m.group().casefold(), m.span()) for m in re.finditer(r"\w+|[^\w\s]", text)]
            ids = [CLS, *(_id(w) for w, _ in words), SEP]
            rows.append(Pieces(ids, [(0, 0), *(span for _, span in words), (0, 0)]))
        return rows

    def forward(self, tokens: TokenBatch) -> LanguageFeatures:
        rows = [torch.stack([_vector(t, self.dim, self.seed) for t in row]) for row in tokens.input_ids.tolist()]
        return LanguageFeatures(hidden=torch.stack(rows).to(self._where.device), mask=tokens.attention_mask)
