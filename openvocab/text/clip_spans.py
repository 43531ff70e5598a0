"""Where CLIP's tokens lie in a text. Its tokenizer does not say, and it cleans and lower-cases the text first."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer


def char_spans(tokenizer: SimpleTokenizer, text: str, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Return the character span [start, end) of each token in `text`.

    Tokens are byte strings which, joined, make up the cleaned text without its blanks. A token that holds a part of a
    character's bytes gets the whole character.

    Args:
        tokenizer: open_clip's byte-pair tokenizer.
        text: as it was given.
        ids: its tokens, without start and end.
    """
    cleaned = tokenizer.clean_fn(text)
    places = _places(cleaned, text)
    owners = [i for i, c in enumerate(cleaned) if not c.isspace() for _ in c.encode("utf-8")]  # character of each byte
    spans, at = [], 0
    for number in ids:
        size = len(tokenizer.decoder[number].removesuffix("</w>"))  # one letter a byte
        own = owners[at : at + size]
        spans.append((places[own[0]][0], places[own[-1]][1]) if own else (0, 0))
        at += size
    return spans


def _places(cleaned: str, text: str) -> list[tuple[int, int]]:
    """Return the span in `text` of each character of `cleaned`."""
    if cleaned == text.lower() and len(cleaned) == len(text):
        return [(i, i + 1) for i in range(len(text))]
    lowered, origin = [], []
    for i, c in enumerate(text):  # one character may become two
        lowered.extend(c.lower())
        origin.extend([i] * len(c.lower()))
    places: list[tuple[int, int]] = []
    matcher = SequenceMatcher(None, cleaned, "".join(lowered), autojunk=False)
    for kind, a, a_end, b, b_end in matcher.get_opcodes():
        if kind == "equal":
            places.extend((origin[b + k], origin[b + k] + 1) for k in range(a_end - a))
        elif a_end > a:  # changed, such as an entity that became a letter: all of it stands for the new characters
            start = origin[b] if b < len(origin) else len(text)
            places.extend([(start, origin[b_end - 1] + 1 if b_end > b else start)] * (a_end - a))
    return places
