"""Noun phrases of captions, measured on captions labelled by hand."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openvocab.errors import MissingDependencyError, PromptError
from openvocab.prompting import noun_phrases, phrases

from .labelled_captions import HELD_OUT, LABELLED

# no deadline: machines that run tests are busy
RELAXED = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])


def names(text: str) -> list[str]:
    return list(noun_phrases(text).names)


def unlabelled(row: str) -> tuple[str, set[tuple[int, int]]]:
    spans = {(m.start() - 2 * i, m.end() - 2 * i - 2) for i, m in enumerate(re.finditer(r"\[.*?\]", row))}
    return re.sub(r"[\[\]]", "", row), spans


def precision_and_recall(rows: Sequence[str]) -> tuple[float, float]:
    right = found = wanted = 0
    for row in rows:
        text, labels = unlabelled(row)
        spans = {span for (span,) in noun_phrases(text).phrases}
        right, found, wanted = right + len(labels & spans), found + len(spans), wanted + len(labels)
    return right / found, right / wanted


@pytest.mark.parametrize(("rows", "floor"), [(LABELLED, 0.95), (HELD_OUT, 0.85)], ids=["seen", "held_out"])
def test_precision_and_recall(rows: Sequence[str], floor: float) -> None:
    precision, recall = precision_and_recall(rows)
    assert precision >= floor and recall >= floor, f"precision {precision:.3f}, recall {recall:.3f}"


def test_the_issues_example() -> None:
    caption = noun_phrases("a man in a red shirt holding two umbrellas near the bus.")
    assert caption.names == ("a man", "a red shirt", "two umbrellas", "the bus")
    assert caption.phrases == (((0, 5),), ((9, 20),), ((29, 42),), ((48, 55),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat. dog.", ["cat", "dog"]),
        ("A yellow and brown wall and a gray door", ["A yellow and brown wall", "a gray door"]),
        ("cats and dogs", ["cats", "dogs"]),
        ("a small, brown dog, two cats", ["a small, brown dog", "two cats"]),
        ("the sky is blue", ["the sky"]),
        ("an orange", ["an orange"]),
        ("a very big station", ["a very big station"]),
        ("a bowl full of soup", ["a bowl", "soup"]),
        ("a man playing soccer near a playing field", ["a man", "soccer", "a playing field"]),
        ("a chair that faces a wall under that tree", ["a chair", "a wall", "that tree"]),
        ("two dogs next to each other", ["two dogs"]),
        ("a woman’s hat and the man's coat", ["a woman’s hat", "the man's coat"]),
        ("a dog leaps to fetch a stick", ["a dog", "a stick"]),
        ("a left hand on the left", ["a left hand"]),
        ("a close up of an eye", ["an eye"]),
        ("ein Café", ["ein Café"]),
    ],
)
def test_rules(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize("text", ["", "  \n", None, 3])
def test_no_text(text: object) -> None:
    with pytest.raises(PromptError, match="not blank"):
        noun_phrases(text)


@pytest.mark.parametrize("text", ["it is on there", "...", "the", "very, and to"])
def test_no_phrase(text: str) -> None:
    with pytest.raises(PromptError, match="no noun phrase was found"):
        noun_phrases(text)


WORDS = st.sampled_from(
    "a the man dogs red , and of that each other stands cut parked running very to top . group full two it".split()
)


@RELAXED
@given(st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=12).map(" ".join)))
def test_spans_are_whole_words_in_order(text: str) -> None:
    try:
        caption = noun_phrases(text)
    except PromptError:
        return
    end = 0
    for ((start, stop),) in caption.phrases:
        assert end <= start < stop <= len(text)
        assert text[start:stop].strip() == text[start:stop]
        assert start == 0 or not (text[start - 1].isalnum() and text[start].isalnum()), "no word is cut"
        end = stop


def test_unknown_backend() -> None:
    with pytest.raises(PromptError, match="backend='nltk' is neither"):
        noun_phrases("a cat", backend="nltk")


@pytest.fixture
def _no_pipeline() -> Iterator[None]:
    phrases._spacy_pipeline.cache_clear()
    yield
    phrases._spacy_pipeline.cache_clear()


@pytest.mark.usefixtures("_no_pipeline")
def test_spacy_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(MissingDependencyError, match="pip install spacy && python -m spacy download en_core_web_sm"):
        noun_phrases("a cat", backend="spacy")


@pytest.mark.usefixtures("_no_pipeline")
def test_spacy_chunks_become_phrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for spaCy: its chunks are taken over, pronouns are not."""

    def chunk(start: int, end: int, pos: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(start_char=start, end_char=end, root=types.SimpleNamespace(pos_=pos))

    doc = types.SimpleNamespace(noun_chunks=[chunk(0, 2, "PRON"), chunk(7, 12, "NOUN")])
    fake = types.SimpleNamespace(load=lambda name: {"en_core_web_sm": lambda text: doc}[name])
    monkeypatch.setitem(sys.modules, "spacy", fake)
    assert noun_phrases("he has a cat", backend="spacy").phrases == (((7, 12),),)
