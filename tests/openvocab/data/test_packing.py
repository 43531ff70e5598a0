"""Other pictures' sentences around a picture's own."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.data import CaptionPacking, TokenBudget
from openvocab.data.randomness import seeded
from openvocab.errors import ConfigError
from openvocab.prompting import Caption

OTHERS = ["two dogs run", "A kite over the sea.", "what a day!", "snow on a roof"]
OWN = Caption("a red car and a man ", (((2, 9),), ((14, 19), (2, 5))))


budget = cache(lambda limit: TokenBudget(max_tokens=limit))  # reading the words takes a while


def packing(**changes: object) -> CaptionPacking:
    return CaptionPacking(**{"mapper": lambda x: x, "captions": OTHERS, "budget": budget(256), **changes})


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([12, 20, 33, 60]), st.sampled_from([0.0, 0.5, 1.0]))
def test_phrases_keep_their_words_and_the_budget_holds(seed: int, limit: int, full: float) -> None:
    part = packing(budget=budget(limit), full_prob=full, alone_prob=0.0)
    with seeded(seed):
        packed = part.pack(OWN)
    assert packed.names == OWN.names and part.budget.count(packed.text) <= limit
    assert set(packed.text.replace("!", ".").split(". ")) <= {t.rstrip(".!") for t in ("a red car and a man", *OTHERS)} | {
        t.rstrip(" !.") + "." for t in ("a red car and a man", *OTHERS)
    }


def test_shares_of_sentences() -> None:
    part, stops = packing(budget=budget(500), most=5), []
    for seed in range(400):
        with seeded(seed):
            packed = part.pack(OWN)
        stops.append(0 if packed is OWN else packed.text.count(".") + packed.text.count("!"))
    alone, full = sum(s == 0 for s in stops) / 400, sum(s == 6 for s in stops) / 400
    assert alone == pytest.approx(0.4, abs=0.08) and full == pytest.approx(0.3, abs=0.08) and set(stops) == {0, 1, 2, 3, 4, 5, 6}


def test_a_sample_keeps_all_else_and_names_pass() -> None:
    part = packing(alone_prob=0.0, full_prob=1.0)
    with seeded(1):
        packed = part({"caption": OWN, "image": 1})
    assert packed["image"] == 1 and len(packed["caption"].text) > len(OWN.text)
    assert part({"vocabulary": "x"}) == {"vocabulary": "x"} and packing(mapper=lambda x: None)({}) is None


@pytest.mark.parametrize("bad", [{"captions": []}, {"most": 0}, {"alone_prob": 1.5}])
def test_impossible_settings(bad: dict) -> None:
    with pytest.raises(ConfigError, match="0 captions" if "captions" in bad else next(iter(bad))):
        packing(**bad)
