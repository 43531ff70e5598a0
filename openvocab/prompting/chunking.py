"""Long vocabularies in parts that fit a token budget."""

from __future__ import annotations

from openvocab.errors import PromptError
from openvocab.text.base import TextEncoder
from openvocab.vocabulary import Vocabulary

from .caption import build_caption

_BATCH = 256


def chunk_names(
    vocabulary: Vocabulary,
    encoder: TextEncoder,
    *,
    max_tokens: int | None = None,
    separator: str = ". ",
    max_names: int | None = None,
) -> list[list[int]]:
    """Cut a vocabulary into consecutive parts whose captions fit.

    Parts are filled from the left as far as the budget goes. (The reference cuts by a fixed number of names, 40 for LVIS,
    and fails when a part is too long.)

    Args:
        vocabulary: K names.
        encoder: counts tokens.
        max_tokens: of a caption with its special tokens; by default the encoder's limit, which also bounds it.
        separator: between names.
        max_names: most names of a part; the budget of tokens holds besides.

    Returns:
        parts of range(K), in order; every name is whole and in exactly one part.

    Raises:
        PromptError: if one name alone is over the budget, or owns no token.
    """
    limit = encoder.max_tokens if max_tokens is None else min(max_tokens, encoder.max_tokens)
    special = int(encoder.tokenize(["a"]).attention_mask.sum()) - encoder.count_tokens(["a"])[0]
    budget = limit - special
    gap = encoder.count_tokens([separator.strip()])[0] if separator.strip() else 0
    parts: list[list[int]] = []
    used = 0
    for i, size in enumerate(_sizes(vocabulary, encoder)):
        _check(vocabulary, i, size, budget)
        room = bool(parts) and (max_names is None or len(parts[-1]) < max_names)
        if room and used + gap + size <= budget:
            parts[-1].append(i)
            used += gap + size
        else:
            parts.append([i])
            used = size
    return [fit for part in parts for fit in _fitting(part, vocabulary, encoder, budget, separator)]


def _check(vocabulary: Vocabulary, i: int, size: int, budget: int) -> None:
    name = vocabulary.names[i]
    if size == 0:
        raise PromptError(f"the name '{name}' owns no token: the tokenizer does not know its characters")
    if size > budget:
        raise PromptError(f"the name '{name}' alone has {size} tokens; a prompt holds {budget}; shorten it")


def _sizes(vocabulary: Vocabulary, encoder: TextEncoder) -> list[int]:
    """Tokens of each name as it is written, its context included."""
    texts = [a + p + b for p, (a, b) in zip(vocabulary.prompts, vocabulary.contexts, strict=True)]
    return [n for start in range(0, len(texts), _BATCH) for n in encoder.count_tokens(texts[start : start + _BATCH])]


def _fits(text: str, encoder: TextEncoder, budget: int) -> bool:
    try:
        return encoder.count_tokens([text])[0] <= budget
    except PromptError:  # over the encoder's own limit
        return False


def _fitting(part: list[int], vocabulary: Vocabulary, encoder: TextEncoder, budget: int, separator: str) -> list[list[int]]:
    """Halve a part until its caption fits as a whole: a tokenizer may count a sentence higher than its names."""
    text = build_caption(vocabulary.subset(part), separator=separator).text
    if len(part) == 1 or _fits(text, encoder, budget):
        return [part]
    half = len(part) // 2
    return [p for piece in (part[:half], part[half:]) for p in _fitting(piece, vocabulary, encoder, budget, separator)]
