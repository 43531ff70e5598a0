"""Prompts and sentences within a text encoder's token budget, counted where data is read, without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openvocab.errors import ConfigError, DataError, PromptError
from openvocab.text.bert_files import find_source, load_tokenizer, name_tokenizer, tokenizer_file
from openvocab.vocabulary import Vocabulary

from .prompts import PromptSampler, positions

KEPT = 8  # vocabularies whose counts are kept; synonyms make a new one each time


class TokenBudget:
    """Counts tokens as `BertTextEncoder` does.

    Attributes:
        tokenizer_id: says which words have which token ids, as that of a text encoder.

    Args:
        max_tokens: most tokens of a text, special ones included; the text encoder's own limit.
        source: whose tokenizer, as for `BertTextEncoder`; None: BERT-base uncased's.
        vocab_file: vocab.txt of an uncased tokenizer, instead.
        separator: between the names of a prompt, as the detector's.

    Raises:
        ConfigError: for a budget without room for a word.
        TextEncoderError, MissingDependencyError: as `BertTextEncoder`.
    """

    def __init__(
        self,
        *,
        max_tokens: int = 256,
        source: str | Path | None = None,
        vocab_file: str | Path | None = None,
        separator: str = ". ",
    ) -> None:
        self._tokenizer = load_tokenizer(tokenizer_file(None if source is None else find_source(str(source)), vocab_file))
        self.tokenizer_id = name_tokenizer(self._tokenizer)
        special = len(self._tokenizer.encode("").ids)
        if max_tokens <= special:
            raise ConfigError(f"max_tokens={max_tokens} leaves no room for a word")
        self.max_tokens, self.words = int(max_tokens), int(max_tokens) - special
        self.gap = len(self._tokenizer.encode(separator, add_special_tokens=False).ids)
        self._sizes: dict[Vocabulary, np.ndarray] = {}

    def count(self, text: str) -> int:
        """Tokens of a text, special ones included."""
        return len(self._tokenizer.encode(text).ids)

    def count_words(self, text: str) -> int:
        """Tokens of a text without special ones."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def sizes(self, vocabulary: Vocabulary) -> np.ndarray:
        """Tokens of each name as it stands in a prompt, without special ones: (K,) int64.

        Raises:
            PromptError: if a name alone is over the budget.
        """
        if vocabulary not in self._sizes:
            if len(self._sizes) >= KEPT:
                self._sizes.clear()
            texts = [a + p + b for p, (a, b) in zip(vocabulary.prompts, vocabulary.contexts, strict=True)]
            rows = self._tokenizer.encode_batch(texts, add_special_tokens=False)
            sizes = np.array([len(r.ids) for r in rows], dtype=np.int64)
            if sizes.max() > self.words:
                name = vocabulary.names[int(sizes.argmax())]
                raise PromptError(f"the name '{name}' alone has {sizes.max()} tokens; a prompt holds {self.words}; shorten it")
            self._sizes[vocabulary] = sizes
        return self._sizes[vocabulary]

    def check(self, caption: str) -> None:
        """Raise DataError for a sentence over the budget: the loader counts it as bad and takes another (GLIP cuts it off)."""
        count = self.count(caption)
        if count > self.max_tokens:
            raise DataError(f"the sentence '{caption[:50]}...' has {count} tokens, {self.max_tokens} are allowed")


class TokenPromptSampler(PromptSampler):
    """`PromptSampler` bounded by tokens, as GLIP's own (arXiv 2112.03857; microsoft/GLIP).

    Names are drawn as by `PromptSampler`; then those with boxes are taken in random order while their tokens fit, and the others
    after them. Boxes of names that found no room are no longer taught.

    Args:
        budget: counts tokens.
        options: of `PromptSampler`. Published for Objects365: max_negatives=85, full_prob=0.5.

    Raises:
        ConfigError: as `PromptSampler`.
    """

    def __init__(self, *, budget: TokenBudget, **options: object) -> None:
        super().__init__(**options)
        self.budget = budget

    def __call__(self, vocabulary: Vocabulary, positives: Sequence[int]) -> tuple[Vocabulary, np.ndarray]:
        """As `PromptSampler`.

        Raises:
            PromptError: if a name alone is over the budget.
        """
        sizes, gap = self.budget.sizes(vocabulary), self.budget.gap
        drawn = self.choose(len(vocabulary), positives)
        wanted = set(int(p) for p in positives)
        room, kept = self.budget.words + gap, set()  # the last name has no separator behind it
        for i in sorted(np.random.permutation(drawn).tolist(), key=lambda i: i not in wanted):
            if sizes[i] + gap <= room:
                room -= int(sizes[i]) + gap
                kept.add(i)
        chosen = [i for i in drawn if i in kept]
        return vocabulary.subset(chosen), positions(chosen, len(vocabulary))
