"""A text encoder without weights, for tests: similar spellings get similar vectors, the same on every machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from .base import TEXT_ENCODER_REGISTRY, LanguageFeatures, TextEncoder, TokenBatch, check_texts, too_long

CLS, SEP, PAD = 1, 2, 0
BUCKETS = 1 << 20


@lru_cache(maxsize=65536)
def _bucket(text: str) -> int:
    return 3 + int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % BUCKETS


@TEXT_ENCODER_REGISTRY.register()
class HashedTextEncoder(TextEncoder):
    """Each word (or punctuation mark) is a token; its vector is the mean of hashed vectors of its character trigrams.

    Args:
        dim: D.
        max_tokens: most tokens of a text, [CLS] and [SEP] included.
        seed: another seed gives other vectors.
    """

    def __init__(self, *, dim: int = 64, max_tokens: int = 256, seed: int = 0) -> None:
        super().__init__()
        self.dim, self.max_tokens, self.seed = dim, max_tokens, seed
        self.identity = f"hashed:{dim}:{seed}"
        self.register_buffer("_where", torch.zeros(()), persistent=False)
        self._words: dict[int, str] = {CLS: "[CLS]", SEP: "[SEP]", PAD: "[PAD]"}

    def tokenize(self, texts: Sequence[str]) -> TokenBatch:
        rows = []
        for text in check_texts(texts):
            words = [(m.group().casefold(), m.span()) for m in re.finditer(r"\w+|[^\w\s]", text)]
            if len(words) + 2 > self.max_tokens:
                raise too_long(text, len(words) + 2, self.max_tokens)
            ids = [_bucket(w) for w, _ in words]
            self._words.update(zip(ids, (w for w, _ in words), strict=True))
            rows.append(([CLS, *ids, SEP], [(0, 0), *(s for _, s in words), (0, 0)]))
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([i + [PAD] * (width - len(i)) for i, _ in rows])
        mask = torch.tensor([[True] * len(i) + [False] * (width - len(i)) for i, _ in rows])
        return TokenBatch(ids, mask, torch.tensor([o + [(0, 0)] * (width - len(o)) for _, o in rows]))

    @lru_cache(maxsize=4096)  # noqa: B019  one table an encoder, and encoders of tests are few
    def _vector(self, token: int) -> Tensor:
        word = f"#{self._words[token]}#"
        total = torch.zeros(self.dim)
        for i in range(max(len(word) - 2, 1)):
            generator = torch.Generator().manual_seed(_bucket(word[i : i + 3]) * 1009 + self.seed)
            total += torch.randn(self.dim, generator=generator)
        return total / total.norm().clamp(min=1e-6)

    def forward(self, tokens: TokenBatch) -> LanguageFeatures:
        rows = [torch.stack([self._vector(t) for t in row]) for row in tokens.input_ids.tolist()]
        hidden = torch.stack(rows).to(self._where.device)
        return LanguageFeatures(hidden=hidden, mask=tokens.attention_mask)
