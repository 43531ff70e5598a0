"""The protocol of text encoders and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fvcore.common.registry import Registry
from torch import Tensor, nn

from openvocab.errors import PromptError, TextEncoderError, nearest

TEXT_ENCODER_REGISTRY = Registry("TEXT_ENCODER")
TEXT_ENCODER_REGISTRY.__doc__ = """
Registry of text encoders. A registered object is called with keyword arguments and returns a `TextEncoder`.
"""

_SHORT_NAMES = {"bert": "BertTextEncoder", "clip": "CLIPTextEncoder", "hashed": "HashedTextEncoder"}


@dataclass
class TokenBatch:
    """Tokens of B texts, padded to the longest, T.

    Attributes:
        input_ids: (B, T) int64.
        attention_mask: (B, T) bool, True on real tokens, special ones included.
        offsets: (B, T, 2) int64 character spans [start, end) in the text; (0, 0) for special tokens and padding.
    """

    input_ids: Tensor
    attention_mask: Tensor
    offsets: Tensor

    def to(self, device: torch.device | str) -> TokenBatch:
        """Move ids and mask; offsets stay where text is handled."""
        return TokenBatch(self.input_ids.to(device), self.attention_mask.to(device), self.offsets)


@dataclass
class LanguageFeatures:
    """Token-level features.

    Attributes:
        hidden: (B, T, D).
        mask: (B, T) bool, True on real tokens.
    """

    hidden: Tensor
    mask: Tensor


def check_texts(texts: Sequence[str]) -> list[str]:
    """Return `texts` as a list.

    Raises:
        PromptError: for one string instead of a list, an empty list, or a blank text.
    """
    if isinstance(texts, str):
        raise PromptError(f"{texts!r:.60} is one string; pass a list of texts")
    texts = list(texts)
    if not texts:
        raise PromptError("no text to encode")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise PromptError(f"text {i} is {text!r}; it must be a string that is not blank")
    return texts


class TextEncoder(nn.Module, ABC):
    """Text to features, by token and by sentence.

    Attributes:
        dim: D, the width of both.
        max_tokens: most tokens a text may have, special ones included.
        identity: says which weights and tokenizer these are; part of every cache key.
    """

    dim: int
    max_tokens: int
    identity: str

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> TokenBatch:
        """Tokenize B texts, padded to the longest.

        Raises:
            PromptError: if a text is too long (nothing is cut off silently), blank, or no string.
        """

    @abstractmethod
    def forward(self, tokens: TokenBatch) -> LanguageFeatures:
        """Return token-level features, differentiable unless the encoder is frozen."""

    def pool(self, features: LanguageFeatures) -> Tensor:
        """Sentence vectors (B, D), not normalised: the mean over real tokens."""
        weight = features.mask[..., None].to(features.hidden.dtype)
        return (features.hidden * weight).sum(1) / weight.sum(1).clamp(min=1)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special ones."""
        mask = self.tokenize(texts)
        return [int((span[:, 1] > span[:, 0]).sum()) for span in mask.offsets]

    @torch.no_grad()
    def encode(self, texts: Sequence[str], *, normalize: bool = True, batch_size: int = 256) -> Tensor:
        """Sentence embeddings (K, D), float32, of length 1 unless `normalize` is False."""
        texts, rows = check_texts(texts), []
        device = next(self.parameters(), torch.zeros(0)).device
        was_training = self.training
        self.eval()
        try:
            for start in range(0, len(texts), batch_size):
                tokens = self.tokenize(texts[start : start + batch_size]).to(device)
                vectors = self.pool(self(tokens)).float()
                rows.append(F.normalize(vectors, dim=-1) if normalize else vectors)
        finally:
            self.train(was_training)
        return torch.cat(rows)


def too_long(text: str, count: int, limit: int) -> PromptError:
    """The error for a text over the token budget."""
    return PromptError(
        f"the text '{text[:50]}...' has {count} tokens and this encoder takes {limit}; "
        "shorten it, or split the names into several prompts"
    )


def build_text_encoder(name: str, **options: object) -> TextEncoder:
    """Build 'bert', 'clip', 'hashed' or a registered class by name.

    Raises:
        TextEncoderError: for an unknown name.
    """
    import openvocab.text.bert
    import openvocab.text.clip
    import openvocab.text.hashed  # noqa: F401  registration

    registered = _SHORT_NAMES.get(name, name)
    if registered not in TEXT_ENCODER_REGISTRY:
        known = [*_SHORT_NAMES, *(n for n, _ in TEXT_ENCODER_REGISTRY)]
        raise TextEncoderError(f"there is no text encoder '{name}'.{nearest(name, known)} Known: {', '.join(known)}")
    return TEXT_ENCODER_REGISTRY.get(registered)(**options)
