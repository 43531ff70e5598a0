"""Exponential moving average of the trainable weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ModelEma:
    """Keeps averages of the trainable parameters; frozen parameters and buffers are the model's own.

    After step t (from 1): average = d * average + (1 - d) * parameter with d = min(decay, (1 + t) / (10 + t)), so that early
    averages forget the random start (the warm-up is TensorFlow's `ExponentialMovingAverage`).

    Args:
        model: not wrapped in DistributedDataParallel.
        decay: 0 to 1.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.averages: dict[str, Tensor] = {n: p.detach().clone() for n, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are after an optimizer step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.averages.values()), [p.detach() for p in self._parameters.values()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model's parameters hold the averages; afterwards they are what they were."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.data, self.averages[name] = self.averages[name], parameter.data

    def raw(self) -> dict[str, Tensor]:
        """Return the parameters that are averaged, as they are now (not their averages)."""
        return {n: p.detach() for n, p in self._parameters.items()}

    def state_dict(self) -> dict:
        """Return the number of updates; the averages themselves are saved as the model's weights."""
        return {"updates": self.updates, "decay": self.decay}

    @torch.no_grad()
    def load(self, averages: dict[str, Tensor], updates: int) -> None:
        """Go on with saved averages."""
        self.updates = int(updates)
        for name, average in self.averages.items():
            average.copy_(averages[name])
