"""Which names stand in a training prompt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvocab.data import NameChanges, PromptSampler
from openvocab.data.randomness import seeded
from openvocab.errors import ConfigError, VocabularyError
from openvocab.vocabulary import Vocabulary

WORDS = Vocabulary.from_names([f"n{i}" for i in range(12)])


@given(
    total=st.integers(1, 40),
    data=st.data(),
    max_names=st.none() | st.integers(1, 50),
    min_negatives=st.integers(0, 5),
    max_negatives=st.none() | st.integers(0, 50),
    full_prob=st.sampled_from([0.0, 0.5, 1.0]),
    shuffle=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_choice(
    total: int,
    data: st.DataObject,
    max_names: int | None,
    min_negatives: int,
    max_negatives: int | None,
    full_prob: float,
    shuffle: bool,
    seed: int,
) -> None:
    positives = data.draw(st.sets(st.integers(0, total - 1)))
    sampler = PromptSampler(
        max_names=max_names,
        min_negatives=min_negatives,
        max_negatives=max_negatives,
        full_prob=full_prob,
        shuffle=shuffle,
    )
    with seeded(seed):
        chosen = sampler.choose(total, sorted(positives))
    limit = min(total, max_names or total)
    assert 1 <= len(chosen) <= limit and len(set(chosen)) == len(chosen) and set(chosen) <= set(range(total))
    assert len(positives & set(chosen)) == min(len(positives), limit), "positives come first"
    negatives = len(set(chosen) - positives)
    room = min(
        limit - len(positives & set(chosen)), total - len(positives), limit if max_negatives is None else max_negatives
    )
    assert negatives <= max(room, 0 if positives else 1)
    assert negatives >= min(room, min_negatives)
    if full_prob == 1.0:
        assert negatives == max(room, 0 if positives else 1)
    if not shuffle:
        assert chosen == sorted(chosen)


def test_table_says_where_each_name_went() -> None:
    with seeded("t"):
        subset, table = PromptSampler(max_names=5)(WORDS, [3, 7])
    for old, new in enumerate(table):
        assert (new == -1) == (WORDS.names[old] not in subset.names)
        assert new == -1 or subset.names[new] == WORDS.names[old]


def test_number_of_negatives_varies_and_order_is_mixed() -> None:
    draws = []
    for i in range(200):
        with seeded(i):
            draws.append(PromptSampler(full_prob=0.5).choose(12, [0]))
    full = sum(len(d) == 12 for d in draws) / 200
    assert 0.42 < full < 0.68 and len({len(d) for d in draws}) > 8
    assert 4.5 < np.mean([d.index(0) for d in draws if len(d) == 12]) < 6.5


def test_same_seed_same_prompt() -> None:
    pick = []
    for _ in range(2):
        np.random.rand(3)
        with seeded(1, "x"):
            pick.append(PromptSampler(max_names=6).choose(12, [2]))
    assert pick[0] == pick[1]


@pytest.mark.parametrize("bad", [{"max_names": 0}, {"min_negatives": -1}, {"max_negatives": -1}, {"full_prob": 1.5}])
def test_impossible_settings(bad: dict) -> None:
    with pytest.raises(ConfigError, match="|".join(bad)):
        PromptSampler(**bad)


def test_generic_name() -> None:
    changes = NameChanges(generic_name="thing", generic_name_prob=1.0)
    words, classes = changes(WORDS, np.array([3, 7, 3]), PromptSampler())
    assert words.names == ("thing",) and classes.tolist() == [0, 0, 0]


def test_super_names_merge_classes() -> None:
    pets = Vocabulary.from_names(["cat", "car", "dog", "animal"], prompts=["kitty", "car", "dog", "animal"])
    changes = NameChanges(super_names={"Cat": "Animal", "dog": "animal"}, super_name_prob=1.0)
    words, classes = changes(pets, np.array([0, 1, 2, 3]), None)
    assert words.names == ("Animal", "car") and words.prompts == ("Animal", "car") and classes.tolist() == [0, 1, 0, 0]
    words, classes = changes(pets, np.array([1, 2]), PromptSampler(full_prob=1.0))
    assert [words.names[c] for c in classes] == ["car", "Animal"]


def test_super_names_are_drawn_as_often_as_told() -> None:
    changes = NameChanges(super_names={"n0": "s"}, super_name_prob=0.3, generic_name_prob=0.2)
    kinds = {"s": 0, "object": 0, "n0": 0}
    for i in range(400):
        with seeded(i):
            kinds[changes(WORDS, np.array([0]), None)[0].names[0]] += 1
    assert 80 < kinds["s"] < 165 and 50 < kinds["object"] < 115


def test_synonyms_change_the_prompt_only_and_never_clash() -> None:
    pets = Vocabulary.from_names(["cat", "dog"])
    changes = NameChanges(synonyms={"cat": ["kitten", "Dog"]})
    seen = set()
    for i in range(50):
        with seeded(i):
            words, classes = changes(pets, np.array([1]), None)
        assert words.names == ("cat", "dog") and words.prompts[1] == "dog" and classes.tolist() == [1]
        seen.add(words.prompts[0])
    assert seen == {"cat", "kitten"}


def test_two_names_never_get_the_same_synonym() -> None:
    changes = NameChanges(synonyms={"cat": ["pet"], "dog": ["pet"]})
    for i in range(30):
        with seeded(i):
            words, _ = changes(Vocabulary.from_names(["cat", "dog"]), np.array([1]), None)
        assert len(set(words.prompts)) == 2
    with pytest.raises(VocabularyError, match="'pet' is a string|not a list"):
        NameChanges(synonyms={"cat": "pet"})


def test_probabilities_must_fit() -> None:
    with pytest.raises(ConfigError, match="exceed 1 together"):
        NameChanges(generic_name_prob=0.6, super_name_prob=0.6)
    with pytest.raises(ConfigError, match="generic_name_prob=-1"):
        NameChanges(generic_name_prob=-1)
