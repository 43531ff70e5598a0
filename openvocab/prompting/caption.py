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
        if not isinstance(self.text, str) or not self.text.strip():
            raise PromptError(f"the caption is {self.text!r:.60}; it must be a text that is not blank")
        phrases = tuple(self._checked(i, spans) for i, spans in enumerate(self.phrases))
        object.__setattr__(self, "phrases", phrases)

    def _checked(self, i: int, spans: Sequence[Sequence[int]]) -> tuple[Span, ...]:
        length = len(self.text)
        try:
            pairs = tuple((int(start), int(end)) for start, end in spans)
        except (TypeError, ValueError):
            raise PromptError(f"phrase {i} is {spans!r:.60}; it must be a list of (start, end) spans") from None
        if not pairs:
            raise PromptError(f"phrase {i} of the caption '{self.text[:60]}' has no span")
        for start, end in pairs:
            if not 0 <= start < end <= length:
                raise PromptError(f"span ({start}, {end}) of phrase {i} is outside the caption of {length} characters")
        return pairs

    @property
    def names(self) -> tuple[str, ...]:
        """The text of each phrase."""
        return tuple(" ".join(self.text[s:e] for s, e in spans) for spans in self.phrases)

    def __len__(self) -> int:
        return len(self.phrases)


def build_caption(names: Vocabulary | Sequence[str], *, separator: str = ". ", end: str = "") -> Caption:
    """Write names as one caption: "person. bicycle. traffic light" (as microsoft/GLIP: no separator at the end).

    A phrase is a name's prompt; the words of its context stand around it and belong to no phrase.

    Args:
        names: K names.
        separator: between names.
        end: after the last one.

    Raises:
        VocabularyError: if `names` is no usable list of names.
        PromptError: for an empty separator, which would make one word of two names.
    """
    if not separator and len(names) > 1:
        raise PromptError("the separator between names is empty; GLIP's is '. '")
    vocabulary = names if isinstance(names, Vocabulary) else Vocabulary.from_names(names)
    parts, phrases, position = [], [], 0
    for prompt, (prefix, suffix) in zip(vocabulary.prompts, vocabulary.contexts, strict=True):
        start = position + len(prefix)
        phrases.append(((start, start + len(prompt)),))
        parts.append(prefix + prompt + suffix)
        position += len(parts[-1]) + len(separator)
    return Caption(separator.join(parts) + end, tuple(phrases))


def _tokens_of_characters(offsets: Tensor, length: int) -> list[int]:
    """The token of each character, -1 where none is; the first one where several claim it."""
    table = [-1] * length
    for token, (start, end) in reversed(list(enumerate(offsets.tolist()))):
        table[start:end] = [token] * (min(end, length) - start)
    return table


def _first_of(table: list[int], places: Sequence[int]) -> int | None:
    return next((table[p] for p in places if 0 <= p < len(table) and table[p] >= 0), None)


def token_map(offsets: Tensor, caption: Caption) -> Tensor:
    """Say which tokens name which phrase (as microsoft/GLIP).

    A span's first token is looked for at its first character, else at the next two; its last token at its last character,
    else at the two before. All tokens from the first to the last belong to the phrase; several spans are united.

    Args:
        offsets: (T, 2) character spans of the tokens; empty ones, (0, 0), belong to special tokens and padding.
        caption: P phrases.

    Returns:
        (P, T) bool.

    Raises:
        PromptError: if a phrase owns no token, or a token lies outside the text.
    """
    length = len(caption.text)
    if offsets.ndim != 2 or offsets.shape[1] != 2 or (offsets.numel() and int(offsets.max()) > length):
        raise PromptError(f"offsets {tuple(offsets.shape)} are not the (T, 2) spans of this caption of {length} characters")
    table = _tokens_of_characters(offsets, length)
    result = torch.zeros(len(caption.phrases), len(offsets), dtype=torch.bool)
    for row, spans in enumerate(caption.phrases):
        for start, end in spans:
            first = _first_of(table, (start, start + 1, start + 2))
            last = _first_of(table, (end - 1, end - 2, end - 3))
            if first is not None and last is not None:
                result[row, first : last + 1] = True
        if not result[row].any():
            name = caption.names[row]
            raise PromptError(f"the phrase '{name}' owns no token: the tokenizer does not know its characters")
    return result
