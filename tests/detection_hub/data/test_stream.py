"""The order of a hub's samples: who shares a batch, what is drawn how often, and a stream that goes on where it stopped."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection_hub.data import GROUPINGS, HubStream, LossDriven
from openvocab.errors import ConfigError

LYING = [[i % 3 == 0 for i in range(5)], [i % 2 == 0 for i in range(50)], [True] * 4]


def make(**more: object) -> HubStream:
    return HubStream(**{"sizes": [5, 50, 4], "weights": [1.0, 2.0, 1.0], "batch_size": 4, "seed": 0, **more})


def parts(batch: list, world: int) -> list[list]:
    """What each process gets."""
    return [batch[rank::world] for rank in range(world)]


@pytest.mark.parametrize("lying", [None, LYING])
def test_who_shares_a_batch(lying: list | None) -> None:
    for grouping in GROUPINGS:
        stream = make(grouping=grouping, world=2, lying=lying)
        batches = [stream.next_batch() for _ in range(200)]
        assert all(len(b) == 4 for b in batches)
        of_step = [{s for _, s, _ in b} for b in batches]
        of_process = [{s for _, s, _ in p} for b in batches for p in parts(b, 2)]
        assert all(len(s) == 1 for s in of_step) is (grouping == "per_step")
        assert all(len(s) == 1 for s in of_process) is (grouping != "mixed")
        if lying:
            pieces = [p for b in batches for p in (parts(b, 2) if grouping == "per_gpu" else [b])]
            assert all(len({lying[s][i] for _, s, i in piece}) == 1 for piece in pieces)


@settings(max_examples=40, deadline=None)
@given(
    grouping=st.sampled_from(GROUPINGS), world=st.sampled_from([1, 2, 4]), seed=st.integers(0, 1000), grouped=st.booleans()
)
def test_nothing_is_dropped_or_repeated(grouping: str, world: int, seed: int, grouped: bool) -> None:
    stream = make(grouping=grouping, world=world, seed=seed, lying=LYING if grouped else None)
    tickets = [t for _ in range(60) for t in stream.next_batch()]
    waiting = [t for queue in stream.queues.values() for t in queue]
    assert sorted(n for n, _, _ in tickets + waiting) == list(range(stream.number))
    used = [sorted(i for _, s, i in tickets + waiting if s == source) for source in range(3)]
    for source, size in enumerate((5, 50, 4)):
        counts = np.bincount(used[source], minlength=size)
        assert counts.max() - counts.min() <= 1, "every picture once before any again"


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_shares_follow_the_weights(grouping: str) -> None:
    stream = make(grouping=grouping, weights=[3.0, 1.0, 0.0])
    drawn = np.bincount([s for _ in range(1500) for _, s, _ in stream.next_batch()], minlength=3) / 6000
    assert np.abs(drawn - [0.75, 0.25, 0]).max() < 0.03 and drawn[2] == 0


@settings(max_examples=40, deadline=None)
@given(
    steps=st.integers(0, 40),
    grouping=st.sampled_from(GROUPINGS),
    world=st.sampled_from([1, 2]),
    changes=st.lists(st.integers(1, 50), max_size=3, unique=True),
)
def test_a_saved_stream_goes_on_the_same(steps: int, grouping: str, world: int, changes: list[int]) -> None:
    planned = [(at, [1.0 + n, 1.0, 3.0 - n]) for n, at in enumerate(sorted(changes))]
    stream, other = (make(grouping=grouping, world=world, lying=LYING, changes=planned) for _ in range(2))
    for _ in range(steps):
        stream.next_batch()
    other.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    assert [stream.next_batch() for _ in range(20)] == [other.next_batch() for _ in range(20)]


def test_another_number_of_processes_goes_on_without_loss() -> None:
    stream, other = make(grouping="per_gpu", world=1, lying=LYING), make(grouping="per_gpu", world=4, lying=LYING)
    before = [n for _ in range(30) for n, _, _ in stream.next_batch()]
    other.load_state_dict(stream.state_dict())
    after = [n for _ in range(60) for n, _, _ in other.next_batch()]
    waiting = [n for queue in other.queues.values() for n, _, _ in queue]
    assert sorted(before + after + waiting) == list(range(other.number))


def test_another_grouping_goes_on_without_loss() -> None:
    for one, other in (("mixed", "per_step"), ("per_step", "mixed"), ("per_gpu", "mixed")):
        stream, later = make(grouping=one, world=2, lying=LYING), make(grouping=other, world=2, lying=LYING)
        before = [n for _ in range(30) for n, _, _ in stream.next_batch()]
        later.load_state_dict(stream.state_dict())
        after = [later.next_batch() for _ in range(200)]
        assert set(before) | {n for b in after for n, _, _ in b} >= set(range(stream.number)), "none waits in a lost queue"
        assert other == "mixed" or all(len({s for _, s, _ in b}) == 1 for b in after)


def test_changed_weights_hold_from_their_batch_on() -> None:
    changes: list = []
    stream, plain = make(changes=changes), make()
    changes.append((10, [0.0, 0.0, 1.0]))
    assert [stream.next_batch() for _ in range(10)] == [plain.next_batch() for _ in range(10)]
    assert {s for _ in range(10) for _, s, _ in stream.next_batch()} == {2}


def test_unknown_groupings() -> None:
    with pytest.raises(ConfigError, match="'per_gpus' is none of mixed.*'per_gpu'"):
        make(grouping="per_gpus")


# ---- shares that follow losses ----------------------------------------------------------------------------------------


def test_those_whose_loss_falls_least_are_drawn_more() -> None:
    driver = LossDriven(power=1.0, limit=2.0, smoothing=0.0)
    driver.observe({"a": 10.0, "b": 1.0})
    assert driver.factors() == {"a": 1.0, "b": 1.0}, "losses of different sets are not compared"
    driver.observe({"a": 5.0, "b": 1.0, "c": 3.0})
    factors = driver.factors()
    assert factors["a"] == pytest.approx(0.6) and factors["b"] == factors["c"] == pytest.approx(1.2)
    driver.observe({"a": 0.01, "b": float("nan")})
    assert driver.factors()["a"] == 0.5 and driver.now["b"] == 1.0
    other = LossDriven(limit=2.0, smoothing=0.0)
    other.load_state_dict(json.loads(json.dumps(driver.state_dict())))
    assert other.factors() == driver.factors()
    for bad in ({"power": -1}, {"limit": 0.5}, {"smoothing": 1.0}):
        with pytest.raises(ConfigError, match="must be"):
            LossDriven(**bad)
