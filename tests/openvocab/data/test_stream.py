"""The order of training samples."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.data.stream import SampleStream
from openvocab.errors import DataError


def make(**more: object) -> SampleStream:
    return SampleStream(**{"sizes": [5, 50], "weights": [3.0, 1.0], "batch_size": 4, "seed": 0, **more})


def test_shares_follow_the_weights_not_the_sizes() -> None:
    stream = make(weights=[3, 1])
    drawn = [s for _ in range(1000) for _, s, _ in stream.next_batch()]
    assert abs(np.mean(drawn) - 0.25) < 0.03
    silent = make(weights=[0, 1])
    assert all(s == 1 for _ in range(50) for _, s, _ in silent.next_batch())


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3), seed=st.integers(0, 2**40), batch=st.integers(1, 6))
def test_every_record_once_before_any_again(sizes: list[int], seed: int, batch: int) -> None:
    stream = make(sizes=sizes, weights=[1.0] * len(sizes), seed=seed, batch_size=batch)
    tickets = [t for _ in range(60) for t in stream.next_batch()]
    assert [n for n, _, _ in tickets] == list(range(60 * batch)), "without grouping the numbers go up by one"
    for source, size in enumerate(sizes):
        order = [i for _, s, i in tickets if s == source]
        for start in range(0, len(order) - size + 1, size):
            assert sorted(order[start : start + size]) == list(range(size))


@settings(max_examples=40, deadline=None)
@given(repeats=st.lists(st.floats(1, 4), min_size=1, max_size=8), seed=st.integers(0, 2**40), rounds=st.integers(1, 5))
def test_repeats_are_rounded_up_or_down_in_rounds_of_one_length(repeats: list[float], seed: int, rounds: int) -> None:
    length = round(sum(repeats))
    stream = make(sizes=[len(repeats)], weights=[1.0], seed=seed, batch_size=1, repeats=[np.array(repeats)])
    order = [stream.next_batch()[0][2] for _ in range(rounds * length)]
    for start in range(0, len(order), length):
        used = np.bincount(order[start : start + length], minlength=len(repeats))
        assert (used >= np.floor(repeats)).all() and (used <= np.floor(repeats) + 2).all() and used.sum() == length
    again = make(sizes=[len(repeats)], weights=[1.0], seed=seed, batch_size=1, repeats=[np.array(repeats)])
    half = len(order) // 2
    for _ in range(half):
        again.next_batch()
    other = make(sizes=[len(repeats)], weights=[1.0], seed=seed, batch_size=1, repeats=[np.array(repeats)])
    other.load_state_dict(again.state_dict())
    assert [other.next_batch()[0][2] for _ in order[half:]] == order[half:]


def test_a_fraction_is_a_share_of_rounds() -> None:
    repeats = np.array([1.0, 1.25, 2.5, 1.75, 3.5])  # 10 a round
    stream = make(sizes=[5], weights=[1.0], batch_size=10, repeats=[repeats])
    used = np.bincount([i for _ in range(2000) for _, _, i in stream.next_batch()], minlength=5) / 2000
    assert np.allclose(used, repeats, atol=0.04)  # 3.5 standard deviations
    plain, none = make(sizes=[5], weights=[1.0]), make(sizes=[5], weights=[1.0], repeats=[None])
    assert [plain.next_batch() for _ in range(9)] == [none.next_batch() for _ in range(9)]


def test_grouped_batches_hold_one_shape_and_lose_nothing() -> None:
    lying = [[i % 3 == 0 for i in range(5)], [i % 2 == 0 for i in range(50)]]
    stream = make(lying=lying)
    batches = [stream.next_batch() for _ in range(300)]
    assert all(len({lying[s][i] for _, s, i in b}) == 1 for b in batches)
    numbers = sorted(n for b in batches for n, _, _ in b)
    missing = set(range(stream.number)) - set(numbers)
    assert len(set(numbers)) == 1200 and len(missing) == sum(len(w) for w in stream.waiting) <= 6


@settings(max_examples=25, deadline=None)
@given(steps=st.integers(0, 80), seed=st.integers(0, 1000), grouped=st.booleans())
def test_a_saved_stream_goes_on_the_same(steps: int, seed: int, grouped: bool) -> None:
    lying = [[i % 3 == 0 for i in range(5)], [i % 2 == 0 for i in range(50)]] if grouped else None
    stream, other = make(seed=seed, lying=lying), make(seed=seed, lying=lying)
    for _ in range(steps):
        stream.next_batch()
    other.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    assert [stream.next_batch() for _ in range(20)] == [other.next_batch() for _ in range(20)]


def test_seeds_differ() -> None:
    assert [make(seed=1).next_batch() for _ in range(3)] != [make(seed=2).next_batch() for _ in range(3)]


@pytest.mark.parametrize(
    "bad",
    [
        {"sizes": []},
        {"sizes": [3, 0]},
        {"weights": [0, 0]},
        {"weights": [1, -1]},
        {"weights": [1, float("nan")]},
        {"repeats": [np.ones(4), None]},
        {"repeats": [np.array([1, 1, 1, 1, 0.5]), None]},
    ],
)
def test_mixtures_that_cannot_be(bad: dict) -> None:
    with pytest.raises(DataError, match="sizes|weights|repeats"):
        make(**bad)
