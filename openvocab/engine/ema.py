"""Exponential moving average of the trainable weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Keeps e <- d e + (1 - d) w for each trainable weight, with d = min(decay, (1 + step) / (10 + step)).

    Args:
        model: whose weights.
        decay: the final d.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.step = decay, 0
        self._weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().clone() for n, p in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an optimizer step."""
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        names = list(self._weights)
        torch._foreach_lerp_([self.average[n] for n in names], [self._weights[n].detach() for n in names], 1 - decay)
        self.step += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the model for the length of the block."""
        kept = {n: p.detach().clone() for n, p in self._weights.items()}
        self._copy(self.average)
        try:
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._weights.items():
            parameter.copy_(values[name])

    def state_dict(self) -> dict:
        """Averages and the number of updates."""
        return {"average": self.average, "step": self.step}

    def load_state_dict(self, state: Mapping) -> None:
        """Undo `state_dict`."""
        self.step = int(state["step"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)
