"""Sentences of other pictures around a picture's own, so that a detector learns to leave words without a box."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from openvocab.errors import ConfigError, DataError
from openvocab.prompting import Caption

from .catalog import get_records
from .token_budget import TokenBudget


def captions_of(dataset: str) -> list[str]:
    """Return the sentences of a registered grounding set, one a record.

    Raises:
        DataError: for an unknown set, or one without sentences.
    """
    texts = [r["caption"] for r in get_records(dataset) if r.get("caption")]
    if not texts:
        raise DataError(f"'{dataset}' has no sentences to pack")
    return texts


class CaptionPacking:
    """A mapper that packs other sentences as negatives, after GLIP's caption data (arXiv 2112.03857; microsoft/GLIP).

    With probability `alone_prob` a sentence stays alone; else, with probability `full_prob`, up to `most` others are drawn, or an
    evenly drawn number below `most`. They are taken while their tokens fit the budget, all are shuffled, and each ends with a
    full stop. Only the picture's own phrases are phrases. Samples with a vocabulary pass unchanged.

    Args:
        mapper: a `DatasetMapper`.
        captions: to draw from, such as `captions_of` the same set.
        budget: counts tokens; of the whole text.
        most: most other sentences.
        alone_prob, full_prob: as above.

    Raises:
        ConfigError: for no captions, `most` below 1, or probabilities outside 0..1.
    """

    def __init__(
        self,
        *,
        mapper: Callable[[dict], dict | None],
        captions: Sequence[str],
        budget: TokenBudget,
        most: int = 20,
        alone_prob: float = 0.4,
        full_prob: float = 0.5,
    ) -> None:
        if not captions or most < 1 or not (0 <= alone_prob <= 1 and 0 <= full_prob <= 1):
            wrong = f"{len(captions)} captions, most={most}, alone_prob={alone_prob}, full_prob={full_prob}"
            raise ConfigError(f"CaptionPacking cannot do {wrong}")
        self.mapper, self.captions, self.budget = mapper, list(captions), budget
        self.most, self.alone_prob, self.full_prob = most, alone_prob, full_prob
        self.keep_empty, self.skip = getattr(mapper, "keep_empty", False), getattr(mapper, "skip", None)

    def __call__(self, record: dict) -> dict | None:
        """Map one record, and pack its sentence."""
        sample = self.mapper(record)
        if sample is None or sample.get("caption") is None:
            return sample
        return {**sample, "caption": self.pack(sample["caption"])}

    def pack(self, caption: Caption) -> Caption:
        """Return the sentence among others; draws come from numpy's global generator."""
        if np.random.rand() < self.alone_prob:
            return caption
        count = self.most if np.random.rand() < self.full_prob else np.random.randint(self.most)
        own, others = _ended(caption.text), []
        room = self.budget.words - self.budget.count_words(own)
        for i in np.random.randint(len(self.captions), size=count):
            text = _ended(self.captions[i])
            size = self.budget.count_words(text)
            if size <= room and text != own:
                others.append(text)
                room -= size
        place = int(np.random.randint(len(others) + 1))
        start = sum(len(t) + 1 for t in others[:place])
        phrases = tuple(tuple((s + start, e + start) for s, e in spans) for spans in caption.phrases)
        return Caption(" ".join([*others[:place], own, *others[place:]]), phrases)


def _ended(text: str) -> str:
    """With a full stop. Nothing is taken from the front: spans count from there."""
    text = text.rstrip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
