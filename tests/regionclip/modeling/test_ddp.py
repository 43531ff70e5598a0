"""Two processes that share a batch take the same step as one process with all of it."""

from __future__ import annotations

import pytest
import torch

from openvocab.testing import run_gloo

from .tiny import build_tiny, proposals, sample


def batch() -> list[dict]:
    """Four pictures with as many boxes and regions each; nothing is left to the sampling's chance."""
    return [sample(seed, mask=True, proposals=proposals(6, seed)) for seed in range(4)]


def gradients(inputs: list[dict], parallel: bool) -> dict[str, torch.Tensor]:
    """Gradients of the first step, without find_unused_parameters."""
    model = build_tiny(mask=True, rpn=None).train()
    model.roi_heads.positive_fraction = 1.0
    runner = torch.nn.parallel.DistributedDataParallel(model) if parallel else model
    for _ in range(2):  # a second pass would notice a parameter that was left out of the first
        model.zero_grad()
        losses = runner(inputs)
        del losses["loss_mask"]  # a mean over the foreground of a process; the others are over the sampled regions
        (sum(losses.values()) + 0 * sum(p.sum() for p in model.roi_heads.mask_head.parameters())).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def uneven() -> float:
    """Two steps; in the first, one process has no ground truth, no foreground and no proposals."""
    rank = torch.distributed.get_rank()
    runner = torch.nn.parallel.DistributedDataParallel(build_tiny(mask=True, rpn=None).train())
    empty = sample(0, boxes=0, mask=True, proposals=proposals(0))
    for x in (empty if rank else sample(1, mask=True, proposals=proposals(5)), sample(2, mask=True, proposals=proposals(5))):
        runner.zero_grad()
        sum(runner([x]).values()).backward()
    return float(sum(p.grad.double().sum() for p in runner.parameters() if p.grad is not None))


def one_rank() -> tuple[dict[str, torch.Tensor], float]:
    return gradients(batch()[torch.distributed.get_rank() :: 2], True), uneven()


@pytest.mark.slow
def test_processes_keep_together() -> None:
    alone = gradients(batch(), False)
    (first, left), (second, right) = run_gloo(one_rank, timeout=600)
    for shared in (first, second):
        assert set(shared) == set(alone)
        for name, value in alone.items():
            scale = value.abs().max().clamp(min=1e-3)
            assert float((shared[name] - value).abs().max() / scale) < 1e-3, name
    assert left == right, "also if one of them has nothing to learn from"
