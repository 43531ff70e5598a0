"""Two processes that share a batch take the same first step as one process with all of it."""

from __future__ import annotations

import pytest
import torch

from openvocab.testing import run_gloo

from .conftest import build_tiny
from .test_detector import sample


def batch() -> list[dict]:
    """Four pictures with as many boxes each, so that no process has more positives to average over."""
    return [sample(96, 128, ["cat", "dog"], seed) for seed in range(4)]


def gradients(inputs: list[dict], parallel: bool) -> dict[str, torch.Tensor]:
    """Gradients of the first step."""
    model = build_tiny().train()
    runner = torch.nn.parallel.DistributedDataParallel(model) if parallel else model
    sum(runner(inputs).values()).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def one_rank() -> dict[str, torch.Tensor]:
    rank = torch.distributed.get_rank()
    return gradients(batch()[rank::2], True)


@pytest.mark.slow
def test_first_step_is_the_same() -> None:
    alone = gradients(batch(), False)
    for shared in run_gloo(one_rank, world_size=2):
        assert set(shared) == set(alone)
        for name, value in alone.items():
            scale = value.abs().max().clamp(min=1e-3)
            assert float((shared[name] - value).abs().max() / scale) < 1e-3, name
