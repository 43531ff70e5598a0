from __future__ import annotations

import pytest
import torch
from torch import nn

from openvocab.engine import StopRequest, Trainer, read_settings
from openvocab.errors import ConfigError, DataError

CPU = torch.device("cpu")


class Line(nn.Module):
    """One weight; remembers the type in which it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.fit = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.fit.weight)
        self.types: set[torch.dtype] = set()

    def forward(self, batch: list[float]) -> dict[str, torch.Tensor]:
        out = self.fit(torch.tensor(batch).view(-1, 1))
        self.types.add(out.dtype)
        return {"loss_a": out.float().mean(), "loss_b": 2 * out.float().mean()}


def run(loader: object, *, steps: int = 1, model: nn.Module | None = None, **train: object) -> tuple[nn.Module, Trainer]:
    model = model or Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = read_settings({"max_iter": steps, "log_period": 1, **train})
    trainer = Trainer(model=model, optimizer=optimizer, loader=loader, settings=settings, device=CPU)
    trainer.train(0, steps)
    return model, trainer


def test_a_step_is_the_arithmetic():
    model, trainer = run([[1.0, 3.0]])
    assert model.fit.weight.item() == pytest.approx(1 - 0.1 * 3 * 2.0)
    latest = {k: v for k, (v, _) in trainer.storage.latest().items()}
    assert latest["total_loss"] == pytest.approx(6.0) and latest["loss_b"] == pytest.approx(4.0)
    assert latest["grad_norm"] == pytest.approx(6.0)


def test_clipping_by_the_norm():
    model, trainer = run([[1.0, 3.0]], clip_grad={"max_norm": 0.5})
    assert model.fit.weight.item() == pytest.approx(1 - 0.1 * 0.5, abs=1e-5)
    assert trainer.storage.latest()["grad_norm"][0] == pytest.approx(6.0)


class Steep(nn.Module):
    """A steep parameter and a flat one: gradients (30, 40) and 0.4."""

    def __init__(self) -> None:
        super().__init__()
        self.steep, self.flat = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))

    def forward(self, batch: list) -> dict:
        return {"loss": (self.steep * torch.tensor([30.0, 40.0])).sum() + 0.4 * self.flat.sum()}


def test_clipping_each_parameter_by_its_own_norm():
    model, trainer = run([[1.0]], model=Steep(), clip_grad={"max_norm": 5.0, "per_parameter": True})
    torch.testing.assert_close(model.steep.detach(), 1 - 0.1 * torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(model.flat.detach(), torch.tensor([1 - 0.1 * 0.4]))
    assert trainer.storage.latest()["grad_norm"][0] == pytest.approx((50**2 + 0.4**2) ** 0.5)


def test_accumulated_batches_are_one_batch():
    whole, _ = run([[1.0, 2.0, 5.0, 7.0]])
    parts, trainer = run([[1.0, 2.0], [5.0, 7.0]], accumulate=2)
    assert parts.fit.weight.item() == pytest.approx(whole.fit.weight.item())
    assert trainer.storage.latest()["loss_a"][0] == pytest.approx(3.75)


def test_bfloat16_computes_in_it_and_keeps_float32_weights():
    model, _ = run([[1.0, 3.0]], amp={"enabled": True})
    assert model.types == {torch.bfloat16} and model.fit.weight.dtype == torch.float32
    assert run([[1.0]])[0].types == {torch.float32}


def test_float16_needs_a_gpu():
    with pytest.raises(ConfigError, match="bfloat16"):
        run([[1.0]], amp={"enabled": True, "dtype": "float16"})


def test_a_finite_loader_is_begun_again_and_an_empty_one_is_an_error():
    _, trainer = run([[1.0], [2.0]], steps=5)
    assert trainer.done == 5
    with pytest.raises(DataError, match="no batches"):
        run([])


def test_reading_processes_are_ended_with_the_run():
    ended = []

    def batches() -> object:
        try:
            while True:
                yield [1.0]
        finally:
            ended.append(True)

    class Endless:
        def __iter__(self) -> object:
            return batches()

    _, trainer = run(Endless(), steps=2)
    assert ended == [True] and trainer.done == 2


@pytest.mark.parametrize("output", [[1], {}, None])
def test_a_model_without_losses_is_named(output):
    class Silent(Line):
        def forward(self, batch: list[float]) -> object:
            return output

    with pytest.raises(ConfigError, match="dict of losses"):
        run([[1.0]], model=Silent())


def test_one_loss_may_be_a_tensor():
    class Single(Line):
        def forward(self, batch: list[float]) -> torch.Tensor:
            return self.fit(torch.tensor(batch).view(-1, 1)).mean()

    model, trainer = run([[2.0]], model=Single())
    assert trainer.storage.latest()["total_loss"][0] == pytest.approx(2.0)
    assert model.fit.weight.item() == pytest.approx(0.8)


def test_a_stop_ends_after_the_present_step():
    model = Line()
    stop = StopRequest(max_seconds=1e-9)
    settings = read_settings({"max_iter": 9})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model=model, optimizer=optimizer, loader=[[1.0]], settings=settings, device=CPU, stop=stop)
    trainer.train(3, 9)
    assert trainer.stopping and trainer.done == 4 and not trainer.signalled


def test_an_infinite_gradient_of_a_finite_loss_makes_no_step(tmp_path):
    class Root(Line):
        def forward(self, batch: list[float]) -> dict[str, torch.Tensor]:
            return {"loss": (self.fit.weight - 1).abs().sqrt().sum()}  # its slope at 0 is infinite

    from openvocab.errors import NonFiniteLossError

    model = Root()
    with pytest.raises(NonFiniteLossError, match="gradient"):
        run([[1.0]], model=model, output_dir=str(tmp_path))
    assert model.fit.weight.item() == 1.0
