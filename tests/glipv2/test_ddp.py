"""Two processes that share a batch take the same first step as one process with all of it."""

from __future__ import annotations

import pytest
import torch

from openvocab.testing import run_gloo

from . import test_mask_branch
from .conftest import build_tiny
from .test_detector import sample


def batch() -> list[dict]:
    """Four pictures with two, one, no and two boxes: the processes have different numbers of positives to average over."""
    pictures = [sample(96, 128, ["cat", "dog"], seed) for seed in range(4)]
    for picture, boxes in zip(pictures, (2, 1, 0, 2), strict=True):
        picture["instances"] = picture["instances"][:boxes]
    return pictures


def uneven_masks() -> list[dict]:
    """Two pictures, one without a box."""
    first, second = (test_mask_branch.sample(96, 128, seed) for seed in range(2))
    return [first, test_mask_branch.without_boxes(second)]


def gradients(inputs: list[dict], parallel: bool, masks: bool = False) -> dict[str, torch.Tensor]:
    """Gradients of the first step: of the detector, or of its mask branch alone."""
    model = (test_mask_branch.build(frozen_detector=True) if masks else build_tiny()).train()
    runner = torch.nn.parallel.DistributedDataParallel(model) if parallel else model
    sum(runner(inputs).values()).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def one_rank() -> dict[str, torch.Tensor]:
    """Both in one launch: starting processes is what costs time."""
    rank = torch.distributed.get_rank()
    return {**gradients(batch()[rank::2], True), **gradients(uneven_masks()[rank::2], True, masks=True)}


@pytest.mark.slow
def test_first_step_is_the_same() -> None:
    alone = {**gradients(batch(), False), **gradients(uneven_masks(), False, masks=True)}
    for shared in run_gloo(one_rank, world_size=2, timeout=600):
        assert set(shared) == set(alone)
        for name, value in alone.items():
            off = (shared[name] - value).norm()  # not the largest entry: one cell at the kink of a ReLU may fall either way
            assert float(off / value.norm().clamp(min=1e-3)) < 1e-3, name
