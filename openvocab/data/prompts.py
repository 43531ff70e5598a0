"""Which words stand in a training picture's prompt: a choice of the set's names, and how they are spelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from openvocab.errors import ConfigError
from openvocab.vocabulary import Vocabulary

ABSENT = -1
"""In a table of class positions: the class has no place in the prompt."""


def _check_probability(name: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name}={value} is no probability between 0 and 1")
    return float(value)


class PromptSampler:
    """Choose the names of a training prompt: those in the picture, and a random number of others.

    After GLIP's detection data (arXiv 2112.03857 and its code, microsoft/GLIP). With probability `full_prob` as
    many negatives as allowed are taken, else their number is drawn evenly from `min_negatives` up to that. Published
    for Objects365: 85 negatives, all of them half of the time. GLIP bounds the prompt by tokens; here `max_names`
    bounds it by names, which does not depend on a tokenizer. Draws come from numpy's global generator, which the
    training loader seeds for every sample.

    Args:
        max_names: most names in a prompt; None: no limit. With more positives than that a random choice of them is
            kept, and the boxes of the others are no longer taught (as in GLIP).
        min_negatives: fewest negatives, as far as there is room.
        max_negatives: most negatives; None: no limit but `max_names`.
        full_prob: probability of the largest number of negatives.
        shuffle: random order; else the vocabulary's own.

    Raises:
        ConfigError: for a limit below 1, negative counts, or a probability outside 0..1.
    """

    def __init__(
        self,
        *,
        max_names: int | None = None,
        min_negatives: int = 0,
        max_negatives: int | None = None,
        full_prob: float = 0.5,
        shuffle: bool = True,
    ) -> None:
        if (max_names is not None and max_names < 1) or min_negatives < 0 or (max_negatives or 0) < 0:
            wrong = f"max_names={max_names}, min_negatives={min_negatives}, max_negatives={max_negatives}"
            raise ConfigError(f"PromptSampler cannot do {wrong}")
        self.max_names, self.min_negatives, self.max_negatives = max_names, min_negatives, max_negatives
        self.full_prob, self.shuffle = _check_probability("full_prob", full_prob), shuffle

    def choose(self, total: int, positives: Sequence[int]) -> list[int]:
        """Return chosen positions out of range(total), in the prompt's order; at least one."""
        limit = min(total, self.max_names or total)
        kept = np.random.permutation(np.unique(np.asarray(positives, dtype=np.int64)))[:limit]
        others = np.setdiff1d(np.arange(total), np.asarray(positives, dtype=np.int64))
        room = min(limit - len(kept), len(others))
        if self.max_negatives is not None:
            room = min(room, self.max_negatives)
        fewest = min(room, self.min_negatives if len(kept) else max(1, self.min_negatives))
        count = room if np.random.rand() < self.full_prob else np.random.randint(fewest, room + 1)
        if len(kept) + count == 0:
            count = 1
        chosen = np.concatenate([kept, np.random.permutation(others)[:count]])
        order = np.random.permutation(chosen) if self.shuffle else np.sort(chosen)
        return [int(i) for i in order]

    def __call__(self, vocabulary: Vocabulary, positives: Sequence[int]) -> tuple[Vocabulary, np.ndarray]:
        """Return the prompt's vocabulary, and where each name of `vocabulary` stands in it.

        Args:
            vocabulary: K names.
            positives: positions of the names that have boxes in the picture.

        Returns:
            the subset, and (K,) int64 positions in it, `ABSENT` (-1) for names that were not chosen.
        """
        chosen = self.choose(len(vocabulary), positives)
        return vocabulary.subset(chosen), positions(chosen, len(vocabulary))


def positions(chosen: Sequence[int], total: int) -> np.ndarray:
    """Return (total,) int64: where each of range(total) stands in `chosen`, or `ABSENT`."""
    table = np.full(total, ABSENT, dtype=np.int64)
    table[list(chosen)] = np.arange(len(chosen))
    return table


class NameChanges:
    """Other words for the same boxes (all three are ours, not the paper's): what is right by one name is right by a
    broader one.

    Args:
        generic_name: a name for everything.
        generic_name_prob: probability that the prompt is this name alone and every box gets it; teaches objectness by a
            word.
        super_names: name -> broader name ("cat" -> "animal"); names without one stay.
        super_name_prob: probability that all names of a picture are replaced by their broader ones; classes of one
            broader name merge.
        synonyms: name -> other spellings; one of them, or the name's own prompt, is drawn for each picture. Only the
            prompt changes, not the name.

    Raises:
        ConfigError: for probabilities outside 0..1 or above 1 together.
        VocabularyError: for words that cannot be names, or a string in place of a list of synonyms.
    """

    def __init__(
        self,
        *,
        generic_name: str = "object",
        generic_name_prob: float = 0.0,
        super_names: Mapping[str, str] | None = None,
        super_name_prob: float = 0.0,
        synonyms: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.generic = Vocabulary.from_names([generic_name])
        self.generic_prob = _check_probability("generic_name_prob", generic_name_prob)
        self.super_prob = _check_probability("super_name_prob", super_name_prob)
        if self.generic_prob + self.super_prob > 1:
            raise ConfigError(
                f"generic_name_prob={generic_name_prob} and super_name_prob={super_name_prob} exceed 1 together"
            )
        self.super_names = {k.casefold(): v for k, v in dict(super_names or {}).items()}
        spelled = {k.casefold(): v if isinstance(v, str) else list(v) for k, v in dict(synonyms or {}).items()}
        self.synonyms = {k: Vocabulary.from_names(v).names for k, v in spelled.items()}  # refuses a string
        self._merged: dict[Vocabulary, tuple[Vocabulary, np.ndarray]] = {}

    def _broader(self, vocabulary: Vocabulary) -> tuple[Vocabulary, np.ndarray]:
        if vocabulary not in self._merged:
            place: dict[str, int] = {}
            names: list[str] = []
            prompts: list[str] = []
            table = np.empty(len(vocabulary), dtype=np.int64)
            for i, (name, prompt) in enumerate(zip(vocabulary.names, vocabulary.prompts, strict=True)):
                broad = self.super_names.get(name.casefold())
                key = (broad or name).casefold()
                if key not in place:
                    place[key] = len(names)
                    names.append(broad or name)
                    prompts.append(broad or prompt)
                table[i] = place[key]
            self._merged[vocabulary] = (
                Vocabulary.from_names(names, prompts=prompts, templates=vocabulary.templates),
                table,
            )
        return self._merged[vocabulary]

    def _respelled(self, vocabulary: Vocabulary) -> Vocabulary:
        prompts, taken = list(vocabulary.prompts), {p.casefold() for p in vocabulary.prompts}
        for i, name in enumerate(vocabulary.names):
            words = [w for w in self.synonyms.get(name.casefold(), ()) if w.casefold() not in taken]
            chosen = np.random.randint(len(words) + 1) if words else len(words)
            if chosen < len(words):
                prompts[i] = words[chosen]
                taken.add(words[chosen].casefold())
        return replace(vocabulary, prompts=tuple(prompts))

    def __call__(
        self, vocabulary: Vocabulary, classes: np.ndarray, sampler: PromptSampler | None
    ) -> tuple[Vocabulary, np.ndarray]:
        """Draw the words of one picture.

        Args:
            vocabulary: the K names that may be prompted.
            classes: (N,) int64 positions in it.
            sampler: chooses among the names; None takes all.

        Returns:
            the prompt's vocabulary, and (N,) int64 positions in it, `ABSENT` where the name was not chosen.
        """
        draw = np.random.rand()
        if draw < self.generic_prob:
            return self.generic, np.zeros_like(classes)
        if draw < self.generic_prob + self.super_prob and self.super_names:
            vocabulary, table = self._broader(vocabulary)
            classes = table[classes]
        elif self.synonyms:
            vocabulary = self._respelled(vocabulary)
        if sampler is None:
            return vocabulary, classes
        vocabulary, table = sampler(vocabulary, classes)
        return vocabulary, table[classes]
