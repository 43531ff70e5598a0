from __future__ import annotations

import pytest
import torch

from openvocab.engine import ModelEma

from .toys import ToyDetector


def stepped(decay: float, steps: int) -> tuple[ToyDetector, ModelEma, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = ToyDetector()
    ema = ModelEma(model, decay=decay)
    seen = [model.fit.weight.detach().clone()]
    for _ in range(steps):
        with torch.no_grad():
            model.fit.weight += torch.randn_like(model.fit.weight)
        seen.append(model.fit.weight.detach().clone())
        ema.update()
    return model, ema, seen


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.9])
def test_the_average_is_the_formula(decay):
    _, ema, seen = stepped(decay, 5)
    expected = seen[0]
    for t, weight in enumerate(seen[1:], start=1):
        d = min(decay, (1 + t) / (10 + t))
        expected = d * expected + (1 - d) * weight
    assert torch.allclose(ema.averages["fit.weight"], expected, atol=1e-6)


def test_frozen_parameters_and_buffers_are_the_models_own():
    _, ema, _ = stepped(0.9, 1)
    assert "anchor" not in ema.averages and not any("running" in n for n in ema.averages)


def test_applied_swaps_and_swaps_back_when_the_block_raises():
    model, ema, seen = stepped(0.9, 3)
    average = ema.averages["fit.weight"].clone()
    with pytest.raises(RuntimeError), ema.applied():
        assert torch.equal(model.fit.weight, average)
        raise RuntimeError
    assert torch.equal(model.fit.weight, seen[-1]) and torch.equal(ema.averages["fit.weight"], average)


def test_the_optimizer_still_moves_the_weights_after_a_swap():
    model, ema, _ = stepped(0.9, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with ema.applied():
        pass
    before = model.fit.weight.detach().clone()
    model.fit.weight.sum().backward()
    optimizer.step()
    assert torch.allclose(model.fit.weight, before - 1)
