"""Joining vocabularies of several data sets."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openvocab.errors import VocabularyError
from openvocab.vocabulary import Vocabulary, merge

# no deadline: machines that run tests are busy
RELAXED = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])


def test_names_prompts_and_aliases_meet() -> None:
    coco = Vocabulary.from_names(["tv", "dining table", "cat"], aliases=[["television"], [], []], splits=["base", None, "novel"])
    voc = Vocabulary.from_names(["Cat", "diningtable", "monitor", "sofa"], prompts=[None, "dining table", None, None])
    other = Vocabulary.from_names(["Television", "couch"], aliases=[[], ["sofa"]], frequencies=["r", "c"])
    union, tables = merge([coco, voc, other])
    assert union.names == ("tv", "dining table", "cat", "monitor", "sofa")
    assert tables == [[0, 1, 2], [2, 1, 3, 4], [0, 4]]
    assert union.splits == ("base", None, "novel", None, None) and union.frequencies == (None,) * 5
    assert union.index("couch") == 4 and union.index("diningtable") == 1


def test_names_of_one_set_stay_apart() -> None:
    """LVIS has two bows; both are kept, also when a third one comes."""
    lvis = Vocabulary.from_names(["bow_(weapon)", "bow_(ribbon)"])
    union, tables = merge([lvis, Vocabulary.from_names(["bow"]), Vocabulary.from_names(["Q", "q"]), lvis])
    assert union.names == ("bow_(weapon)", "bow_(ribbon)", "Q", "q")
    assert tables == [[0, 1], [0], [2, 3], [0, 1]]


def test_refused() -> None:
    with pytest.raises(VocabularyError, match="no vocabulary"):
        merge([])
    with pytest.raises(VocabularyError, match="different templates"):
        merge([Vocabulary.from_names(["a"]), Vocabulary.from_names(["b"], templates=["my {}"])])


SMALL = st.lists(st.sampled_from(["a", "A", "b", "c", "d_(x)", "d_(y)", "d"]), min_size=1, max_size=7, unique=True)


@RELAXED
@given(st.lists(SMALL, min_size=1, max_size=4))
def test_every_name_is_found_in_the_union(lists: list[list[str]]) -> None:
    vocabularies = [Vocabulary.from_names(names) for names in lists]
    union, tables = merge(vocabularies)
    for vocabulary, table in zip(vocabularies, tables, strict=True):
        assert len(set(table)) == len(vocabulary), "names of one vocabulary stay apart"
        for i, place in enumerate(table):
            spellings = {t.casefold() for t in (union.names[place], union.prompts[place], *union.aliases[place])}
            assert spellings & {vocabulary.names[i].casefold(), vocabulary.prompts[i].casefold()}
    assert sorted({p for table in tables for p in table}) == list(range(len(union)))
