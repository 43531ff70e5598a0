"""Captions with the places of their phrases, and the way from characters to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openvocab.errors import PromptError
from openvocab.vocabulary import Vocabulary

Span = tuple[int, int]


@dataclass(frozen=True)
class Caption:
    """A text and the phrases in it that are looked for.

    Attributes:
        text: the sentence.
        phrases: for each phrase its character spans [start, end) in the text; a phrase may have several.

    Raises:
        PromptError: if a span is empty or outside the text, or a phrase has none.
    """

    text: str
    phrases: tuple[tuple[Span, ...], ...]

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise PromptError("the caption is empty")
        for i, spans in enumerate(self.phrases):
            if not spans:
                raise PromptError(f"phrase {i} of the caption '{self.text[:60]}' has no span")
            for start, end in spans:
                if not 0 <= start < end <= len(self.text):
                    raise PromptError(f"span ({start}, {end}) of phrase {i} is outside the caption of {len(self.text)} characters")

    @property
    def names(self) -> tuple[str, ...]:
        """The text of each phrase."""
        return tuple(" ".join(self.text[s:e] for s, e in spans) for spans in self.phrases)

    def __len__(self) -> int:
        return len(self.phrases)


def build_caption(names: Vocabulary | Sequence[str], *, separator: str = ". ", end: str = "") -> Caption:
    """Write names as one caption: "person. bicycle. traffic light" (GLIP, facts 2.1: no separator at the end).

    Raises:
        VocabularyError: if `names` is no usable list of names.
    """
    prompts = (names if isinstance(names, Vocabulary) else Vocabulary.from_names(names)).prompts
    spans, position = [], 0
    for prompt in prompts:
        spans.append(((position, position + len(prompt)),))
        position += len(prompt) + len(separator)
    return Caption(separator.join(prompts) + end, tuple(spans))


def _token_of(offsets: list[Span], places: Sequence[int]) -> int | None:
    for place in places:
        for index, (start, end) in enumerate(offsets):
            if start <= place < end:
                return index
    return None


def token_map(offsets: Tensor, caption: Caption) -> Tensor:
    """Say which tokens name which phrase.

    Args:
        offsets: (T, 2) character spans of the tokens; empty ones, (0, 0), belong to special tokens and padding.
        caption: P phrases.

    Returns:
        (P, T) bool. A span's first and last token are looked for at its ends, and up to two characters inside (facts 2.2).

    Raises:
        PromptError: if a phrase owns no token.
    """
    pairs = [(int(s), int(e)) for s, e in offsets.tolist()]
    result = torch.zeros(len(caption.phrases), len(pairs), dtype=torch.bool)
    for row, spans in enumerate(caption.phrases):
        for start, end in spans:
            first = _token_of(pairs, (start, start + 1, start + 2))
            last = _token_of(pairs, (end - 1, end - 2, end - 3))
            if first is not None and last is not None:
                result[row, first : last + 1] = True
        if not result[row].any():
            raise PromptError(f"the phrase '{caption.names[row]}' owns no token: the tokenizer does not know its characters")
    return result
