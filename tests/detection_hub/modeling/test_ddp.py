"""Two processes that hold different data sets, without find_unused_parameters."""

from __future__ import annotations

import pytest
import torch

from openvocab.testing import run_gloo

from ..conftest import awake, build_tiny, sample


def batch() -> list[dict]:
    """Two data sets, two pictures each, with as many boxes."""
    return [sample("animals", 0), sample("animals", 1), sample("things", 2), sample("things", 3)]


def gradients(inputs: list[dict], parallel: bool) -> dict[str, torch.Tensor]:
    model = awake(build_tiny()).train()
    runner = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=False) if parallel else model
    sum(runner(inputs).values()).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def one_step() -> dict[str, torch.Tensor]:
    rank = torch.distributed.get_rank()
    return gradients(batch()[2 * rank : 2 * rank + 2], True)


def several_steps() -> tuple[dict, dict, float]:
    """Each rank has a data set of its own; in the last step the second has no boxes at all."""
    rank = torch.distributed.get_rank()
    name = ["animals", "things"][rank]
    model = awake(build_tiny()).train()
    runner = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    total = torch.zeros(2)
    for step in range(3):
        boxes = 0 if rank == 1 and step == 2 else 2
        losses = runner([sample(name, 10 * rank + step, boxes=boxes)])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        total[0] += sum(float(v.detach()) for k, v in losses.items() if k.startswith("loss_ce")) * (2 if step < 2 else 1)
    shared = model.dataset_losses()
    check = torch.cat([p.detach().flatten() for p in model.parameters()]).double().sum()
    return shared, {"own": total[0].item()}, float(check)


@pytest.mark.slow
def test_the_first_step_is_that_of_one_process() -> None:
    alone = gradients(batch(), False)
    for shared in run_gloo(one_step, timeout=300.0):
        assert set(shared) == set(alone)
        for name, value in alone.items():
            assert float((shared[name] - value).abs().max() / value.abs().max().clamp(min=1e-3)) < 1e-3, name


@pytest.mark.slow
def test_data_sets_losses_are_not_mixed() -> None:
    (first, own, check), (second, other, same) = run_gloo(several_steps, timeout=300.0)
    assert first == second and check == same
    assert first["animals"]["boxes"] == 6 and first["things"]["boxes"] == 4 and first["things"]["pictures"] == 3
    # a rank's loss is its sum over the mean number of boxes: 2 in two steps, 1 in the last
    assert first["animals"]["loss_ce"] * 6 == pytest.approx(own["own"], rel=1e-3)
    assert first["things"]["loss_ce"] * 4 == pytest.approx(other["own"], rel=1e-3)
