"""Long vocabularies in parts that fit a token budget."""

from __future__ import annotations

from openvocab.errors import PromptError
from openvocab.text.base import TextEncoder
from openvocab.vocabulary import Vocabulary


def chunk_names(
    vocabulary: Vocabulary, encoder: TextEncoder, *, max_tokens: int | None = None, separator: str = ". "
) -> list[list[int]]:
    """Cut a vocabulary into consecutive parts whose captions fit.

    Args:
        vocabulary: K names.
        encoder: counts tokens.
        max_tokens: of a caption with its special tokens; by default the encoder's limit.
        separator: between names.

    Returns:
        parts of range(K), in order; every name is whole and in exactly one part.

    Raises:
        PromptError: if one name alone is over the budget, or owns no token.
    """
    limit = max_tokens or encoder.max_tokens
    special = int(encoder.tokenize(["a"]).attention_mask.sum()) - encoder.count_tokens(["a"])[0]
    gap = max(encoder.count_tokens([separator.strip()])[0], 1) if separator.strip() else 0
    sizes = _sizes(vocabulary, encoder)
    parts: list[list[int]] = []
    used = 0
    for i, size in enumerate(sizes):
        if size == 0:
            raise PromptError(f"the name '{vocabulary.names[i]}' owns no token: the tokenizer does not know its characters")
        if size + special > limit:
            raise PromptError(f"the name '{vocabulary.names[i]}' alone has {size} tokens; a prompt holds {limit - special}")
        if not parts or used + gap + size > limit - special:
            parts.append([])
            used = size
        else:
            used += gap + size
        parts[-1].append(i)
    return parts


def _sizes(vocabulary: Vocabulary, encoder: TextEncoder) -> list[int]:
    sizes: list[int] = []
    for start in range(0, len(vocabulary), 256):
        sizes += encoder.count_tokens(vocabulary.prompts[start : start + 256])
    return sizes
