"""What two processes make of parts is what one makes of the whole: losses and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from openvocab.testing.gloo import run_gloo
from regionclip.pretraining.gather import gather_with_gradient
from regionclip.pretraining.losses import image_text_loss

DIM = 6


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(5, DIM, generator=generator), torch.randn(5, DIM, generator=generator)


def network() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(DIM, DIM)


CUTS = [[0, 2, 4], [0, 1, 5], [0, 0, 5]]  # even, uneven, and one rank that has nothing


def one_rank() -> list[tuple[float, torch.Tensor, list]]:
    """Train on rows cuts[r]..cuts[r + 1] inside DistributedDataParallel."""
    rank, results = dist.get_rank(), []
    for cuts in CUTS:
        x, y = (t[cuts[rank] : cuts[rank + 1]] for t in batch())
        model = nn.parallel.DistributedDataParallel(network())
        features = model(x)
        loss = image_text_loss(gather_with_gradient(features), gather_with_gradient(y), 0.2) + features.sum() * 0.0
        loss.backward()
        labels = gather_with_gradient(torch.arange(cuts[rank], cuts[rank + 1]))
        results.append((loss.item(), model.module.weight.grad, labels.tolist()))
    return results


@pytest.mark.slow
def test_two_ranks_equal_one_with_the_whole_batch() -> None:
    ranks = run_gloo(one_rank)
    for i, cuts in enumerate(CUTS):
        x, y = (t[: cuts[-1]] for t in batch())
        model = network()
        loss = image_text_loss(model(x), y, 0.2)
        loss.backward()
        for value, gradient, labels in (r[i] for r in ranks):
            assert value == pytest.approx(loss.item(), abs=1e-6)
            torch.testing.assert_close(gradient, model.weight.grad, atol=1e-6, rtol=1e-5)
            assert labels == list(range(cuts[-1]))


def test_one_process_gathers_itself() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert gather_with_gradient(x) is x
