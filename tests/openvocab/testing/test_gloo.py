"""Processes that work together, fail, die or hang: the parent always gets an answer in time."""

from __future__ import annotations

import multiprocessing
import os
import time

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from openvocab.testing.gloo import RankError, run_gloo


def _add_ranks(factor: float, *, shift: float) -> tuple[float, int, int, str]:
    value = torch.tensor(factor * (dist.get_rank() + 1) + shift)
    dist.all_reduce(value)
    return value.item(), comm.get_local_rank(), torch.get_num_threads(), os.environ["RANK"]


def _fail_on_one() -> None:
    if dist.get_rank() == 1:
        raise ValueError("the wrong value is 42")
    dist.barrier()


def _hang_on_zero() -> None:
    if dist.get_rank() == 0:
        time.sleep(600)


def test_ranks_talk_to_each_other_and_results_come_in_order() -> None:
    offset = 1.0
    results = run_gloo(lambda *a, **k: (_add_ranks(*a, **k), offset), 10.0, shift=0.5)  # a closure is fine
    assert [r[0] for r in results] == [(31.0, 0, 1, "0"), (31.0, 1, 1, "1")]


@pytest.mark.slow
def test_the_failing_ranks_traceback_is_raised() -> None:
    with pytest.raises(RankError) as caught:
        run_gloo(_fail_on_one)
    assert caught.value.rank == 1
    assert "ValueError: the wrong value is 42" in str(caught.value) and "_fail_on_one" in str(caught.value)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_rank_that_dies_is_reported() -> None:
    with pytest.raises(RankError, match="rank 0 ended with exit code 7"):
        run_gloo(lambda: os._exit(7) if dist.get_rank() == 0 else dist.barrier())
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_rank_that_hangs_is_stopped_at_the_limit() -> None:
    start = time.monotonic()
    with pytest.raises(RankError) as caught:
        run_gloo(_hang_on_zero, timeout=8.0)
    assert time.monotonic() - start < 30
    assert "8 s" in str(caught.value) or "imeout" in str(caught.value) or "imed out" in str(caught.value)
    assert not multiprocessing.active_children()
