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

from .identity import follow_loads, weights_checksum

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


@dataclass
class Pieces:
    """The tokens of one text: ids, and their character spans [start, end); special tokens have (0, 0)."""

    ids: list[int]
    spans: list[tuple[int, int]]
    special: int = 2


def check_texts(texts: Sequence[str]) -> list[str]:
    """Return `texts` as a list.

    Raises:
        PromptError: for one string instead of a list, an empty list, or a blank text.
    """
    if isinstance(texts, str):
        raise PromptError(f"{texts!r:.60} is one string; pass a list of texts")
    texts = list(texts)
    if not texts:
        raise PromptError("there is no text to encode: the list is empty")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise PromptError(f"text {i} is {text!r:.60}; it must be a string that is not blank")
    return texts


class TextEncoder(nn.Module, ABC):
    """Text to features, by token and by sentence.

    A new one implements `split` and `forward`, sets the attributes below, and calls `sign` once its weights are there.

    Attributes:
        dim: D, the width of both.
        max_tokens: most tokens a text may have, special ones included.
        identity: says which weights and tokenizer these are; part of every cache key. Other weights loaded through
            `load_state_dict`, directly or as part of a detector, change it.
        tokenizer_id: says which words have which token ids; "" where there is no fixed list. Checkpoints keep it.
        frozen: weights are kept; they take no gradient, and the module stays in evaluation mode.
        pad_id: token id of padding.
        mask_id: token id that stands for a hidden word; None if the tokenizer has none.
        special_ids: token ids that are no words, such as those of padding and of a text's begin and end.
        vocab_size: how many token ids the tokenizer has; None if it has no fixed list.
    """

    dim: int
    max_tokens: int
    identity: str
    tokenizer_id: str = ""
    frozen: bool = True
    pad_id: int = 0
    mask_id: int | None = None
    special_ids: tuple[int, ...] = ()
    vocab_size: int | None = None

    @property
    def word_embeddings(self) -> Tensor | None:
        """The vectors (rows, D) that tokens begin with, differentiable unless frozen; None if it has no such table."""
        return None

    @abstractmethod
    def split(self, texts: list[str]) -> list[Pieces]:
        """Cut checked texts into tokens, special ones included, of whatever length."""

    @abstractmethod
    def forward(self, tokens: TokenBatch) -> LanguageFeatures:
        """Return token-level features, differentiable unless the encoder is frozen."""

    def forward_causal(self, tokens: TokenBatch) -> LanguageFeatures:
        """As `forward`, but each token sees itself and those before it only: a text can be read while it is written.

        Raises:
            TextEncoderError: if this encoder cannot read so.
        """
        raise TextEncoderError(f"a {type(self).__name__} cannot read a text from left to right; use a BERT or CLIP encoder")

    def join(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special ones left out; the way back from `split`, up to case and blanks.

        Raises:
            TextEncoderError: if this encoder cannot write.
        """
        raise TextEncoderError(f"a {type(self).__name__} cannot turn tokens into text; use a BERT or CLIP encoder")

    def ends(self) -> tuple[int, int]:
        """Ids of the tokens that every text begins and ends with."""
        ids = self.split(["a"])[0].ids
        return ids[0], ids[-1]

    def sign(self, identity: str) -> None:
        """Set `identity` ("{}" in it becomes a checksum of the weights), and freeze the weights if `frozen`."""
        checksum = weights_checksum(self)
        self.identity = identity.replace("{}", checksum)
        follow_loads(self, checksum)
        if self.frozen:
            self.requires_grad_(False)
            self.eval()

    def train(self, mode: bool = True) -> TextEncoder:
        """Set the mode; a frozen encoder stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def tokenize(self, texts: Sequence[str]) -> TokenBatch:
        """Tokenize B texts, padded to the longest.

        Raises:
            PromptError: if a text is too long (nothing is cut off silently), blank, or no string.
        """
        texts = check_texts(texts)
        rows = self.split(texts)
        for text, row in zip(texts, rows, strict=True):
            if len(row.ids) > self.max_tokens:
                raise too_long(text, len(row.ids), self.max_tokens)
        width = max(len(row.ids) for row in rows)
        gaps = [width - len(row.ids) for row in rows]
        return TokenBatch(
            input_ids=torch.tensor([r.ids + [self.pad_id] * n for r, n in zip(rows, gaps, strict=True)]),
            attention_mask=torch.tensor([[True] * len(r.ids) + [False] * n for r, n in zip(rows, gaps, strict=True)]),
            offsets=torch.tensor([[*r.spans, *[(0, 0)] * n] for r, n in zip(rows, gaps, strict=True)]),
        )

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special ones; texts over the limit are counted too.

        Raises:
            PromptError: if a text is blank or no string.
        """
        return [len(row.ids) - row.special for row in self.split(check_texts(texts))]

    def pool(self, features: LanguageFeatures) -> Tensor:
        """Sentence vectors (B, D), not normalised: the mean over real tokens."""
        weight = features.mask[..., None].to(features.hidden.dtype)
        return (features.hidden * weight).sum(1) / weight.sum(1).clamp(min=1)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], *, normalize: bool = True, batch_size: int = 64) -> Tensor:
        """Embed K sentences, texts of like length together.

        Args:
            texts: K of them.
            normalize: make each vector of length 1.
            batch_size: texts at a time.

        Returns:
            (K, D) float32.

        Raises:
            PromptError: as `tokenize`.
        """
        texts = check_texts(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        device = self.device
        result = torch.zeros(len(texts), self.dim, device=device)
        was_training = self.training
        self.eval()
        try:
            for start in range(0, len(texts), batch_size):
                part = order[start : start + batch_size]
                tokens = self.tokenize([texts[i] for i in part]).to(device)
                result[part] = self.pool(self(tokens)).float()
        finally:
            self.train(was_training)
        return F.normalize(result, dim=-1) if normalize else result

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        tensors = [*self.parameters(), *self.buffers()]
        return tensors[0].device if tensors else torch.device("cpu")


def too_long(text: str, count: int, limit: int) -> PromptError:
    """The error for a text over the token budget."""
    shown = text if len(text) <= 50 else f"{text[:50]}..."
    return PromptError(
        f"the text '{shown}' has {count} tokens and this encoder takes {limit}; "
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
