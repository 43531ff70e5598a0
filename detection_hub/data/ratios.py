"""Shares of data sets that follow their losses (ours)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from openvocab.errors import ConfigError


class LossDriven:
    """Draw the data sets whose losses have fallen least more often.

    A data set's progress is its smoothed loss over its first one. Its weight is multiplied by (progress / mean progress) ** power,
    kept within 1 / limit .. limit. Losses of different data sets are never compared with each other, only what became of them.

    Args:
        power: 0 changes nothing.
        limit: of the factor.
        smoothing: share of the old value that stays at each observation.

    Raises:
        ConfigError: for numbers out of range.
    """

    def __init__(self, *, power: float = 1.0, limit: float = 3.0, smoothing: float = 0.7) -> None:
        if power < 0 or limit < 1 or not 0 <= smoothing < 1:
            raise ConfigError(f"power={power} must be 0 or more, limit={limit} 1 or more, smoothing={smoothing} in 0..1")
        self.power, self.limit, self.smoothing = float(power), float(limit), float(smoothing)
        self.first: dict[str, float] = {}
        self.now: dict[str, float] = {}

    def observe(self, losses: Mapping[str, float]) -> None:
        """Take the data sets' losses since the last observation; those that were not drawn are not in it."""
        for name, value in losses.items():
            if math.isfinite(value) and value > 0:
                self.first.setdefault(name, value)
                self.now[name] = self.smoothing * self.now.get(name, value) + (1 - self.smoothing) * value

    def factors(self) -> dict[str, float]:
        """Return a factor for each data set that was seen."""
        progress = {name: self.now[name] / self.first[name] for name in self.now}
        mean = sum(progress.values()) / max(len(progress), 1)
        return {n: min(max((p / mean) ** self.power, 1 / self.limit), self.limit) for n, p in progress.items()}

    def state_dict(self) -> dict:
        """Return plain values."""
        return {"first": dict(self.first), "now": dict(self.now)}

    def load_state_dict(self, state: Mapping) -> None:
        """Undo `state_dict`."""
        self.first, self.now = dict(state["first"]), dict(state["now"])
