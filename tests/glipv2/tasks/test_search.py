"""Beam search against all sequences there are, the greedy choice, and limits of length."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glipv2.tasks import SearchSettings, beam_search
from openvocab.errors import ConfigError

BEGIN, END, WORDS = 0, 1, (2, 3)


def table(seed: int) -> dict[tuple[int, ...], torch.Tensor]:
    """Log probabilities of the next of four tokens behind every sequence of up to three words."""
    generator = torch.Generator().manual_seed(seed)
    prefixes = [p for n in range(4) for p in product(WORDS, repeat=n)]
    return {p: (2 * torch.randn(4, generator=generator)) for p in prefixes}


def step_of(logits: dict) -> object:
    return lambda ids: torch.stack([logits[tuple(row[1:].tolist())] for row in ids])


def every_sequence(logits: dict, least: int, most: int, penalty: float) -> list[tuple[float, list[int]]]:
    """The worth of each sequence by its definition. At the limit of length the end is certain to come, whatever it costs."""
    found = []
    for words in (p for n in range(least, most + 1) for p in product(WORDS, repeat=n)):
        parts = [logits[words[:i]].log_softmax(0)[t] for i, t in enumerate((*words, END))]
        found.append((float(sum(parts)) / (len(words) + 1) ** penalty, list(words)))
    return sorted(found, reverse=True)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), least=st.integers(0, 2), penalty=st.sampled_from([0.0, 1.0, 2.0]))
def test_enough_beams_find_the_best_of_all(seed: int, least: int, penalty: float) -> None:
    logits = table(seed)
    chosen = SearchSettings(beams=40, max_length=3, min_length=least, length_penalty=penalty)
    ids, score = beam_search(step_of(logits), chosen, begin=BEGIN, end=END)
    best, words = every_sequence(logits, least, 3, penalty)[0]
    assert ids == words and score == pytest.approx(best, abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_one_beam_is_greedy(seed: int) -> None:
    logits, words = table(seed), []
    while len(words) < 3:
        scores = logits[tuple(words)].log_softmax(0)
        scores[BEGIN] = -torch.inf
        choice = int(scores.argmax())
        if choice == END:
            break
        words.append(choice)
    chosen = SearchSettings(beams=1, max_length=3, min_length=0)
    assert beam_search(step_of(logits), chosen, begin=BEGIN, end=END)[0] == words


def test_lengths_and_forbidden_tokens() -> None:
    eager = {p: torch.tensor([5.0, 9.0, 1.0, 0.0]) for p in table(0)}  # wants to end, or to begin again
    for least in range(4):
        for beams in (1, 3):
            chosen = SearchSettings(beams=beams, max_length=3, min_length=least)
            assert beam_search(step_of(eager), chosen, begin=BEGIN, end=END)[0] == [2] * least
    endless = {p: torch.tensor([0.0, -9.0, 5.0, 4.0]) for p in table(0)}
    assert beam_search(step_of(endless), SearchSettings(beams=2, max_length=3), begin=BEGIN, end=END)[0] == [2, 2, 2]
    only_3 = beam_search(step_of(endless), SearchSettings(beams=2, max_length=3), begin=BEGIN, end=END, forbidden=(2, END))
    assert only_3[0] == [3, 3, 3], "a forbidden end is still the end"


@pytest.mark.parametrize("wrong", [{"beams": 0}, {"max_length": 0, "min_length": 0}, {"min_length": 50}, {"length_penalty": -1.0}])
def test_numbers_that_do_not_fit(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="cannot be searched"):
        SearchSettings(**wrong)
