"""Scores of phrases from those of their tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glipv2.modeling.postprocess import AGGREGATES, phrase_scores

TOKENS = torch.tensor([[True, True, False], [False, False, True]])


@pytest.mark.parametrize(("aggregate", "wanted"), [("mean", 0.5), ("max", 0.9), ("power", (0.9 * 0.1) ** 0.5)])
def test_two_tokens_of_a_phrase(aggregate: str, wanted: float) -> None:
    logits = torch.tensor([[0.9, 0.1, 0.3]]).logit()
    assert torch.allclose(phrase_scores(logits, TOKENS, aggregate), torch.tensor([[wanted, 0.3]]))


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_a_phrase_without_tokens_has_no_score(aggregate: str) -> None:
    found = phrase_scores(torch.zeros(1, 2), torch.tensor([[True, False], [False, False]]), aggregate)
    assert torch.equal(found, torch.tensor([[0.5, 0.0]]))


@given(st.lists(st.floats(-60, 60), min_size=3, max_size=3))
def test_the_aggregates_stand_in_order_and_never_leave_0_to_1(values: list[float]) -> None:
    scores = {a: phrase_scores(torch.tensor([values]), TOKENS, a) for a in AGGREGATES}
    assert all(bool(torch.isfinite(s).all() and (s >= 0).all() and (s <= 1 + 1e-6).all()) for s in scores.values())
    assert bool((scores["power"] <= scores["mean"] + 1e-6).all() and (scores["mean"] <= scores["max"] + 1e-6).all())
