"""Losses by data set, added up over steps and processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from detectron2.utils import comm
from torch import Tensor

from .losses import TERMS


class LossLedger:
    """Sums of losses by name of the data set, so that processes with different data sets never mix them.

    Losses in the training log are means over the whole batch, whatever is in it; these are each data set's own.
    """

    def __init__(self) -> None:
        self._open: list[tuple[Sequence[str], Tensor, Tensor]] = []
        self._sums: dict[str, list[float]] = {}

    def add(self, names: Sequence[str], by_picture: Tensor, boxes: Tensor) -> None:
        """Write down B pictures: their data sets, weighted sums (B, 3) in the order of `TERMS`, and numbers of boxes (B,)."""
        self._open.append((list(names), by_picture.detach(), boxes.detach()))
        if len(self._open) >= 64:  # values are read late, because reading waits for the GPU
            self._close()

    def _close(self) -> None:
        for names, losses, boxes in self._open:
            for name, row, count in zip(names, losses.tolist(), boxes.tolist(), strict=True):
                sums = self._sums.setdefault(name, [0.0] * (len(TERMS) + 2))
                for i, value in enumerate([*row, count, 1.0]):
                    sums[i] += value
        self._open = []

    def collect(self) -> dict[str, dict[str, float]]:
        """Return what was written since the last call, on all processes: a collective call, the same result on each.

        Returns:
            data set -> {"loss_ce", "loss_giou", "loss_bbox": sums over its stages per box, as in the training loss; "boxes";
            "pictures"}, sorted by name. Pictures of no data set stand under "".
        """
        total, self._sums = self.state_dict(), {}
        result = {}
        for name in sorted(total):
            *losses, boxes, pictures = total[name]
            means = {term: value / max(boxes, 1.0) for term, value in zip(TERMS, losses, strict=True)}
            result[name] = {**means, "boxes": boxes, "pictures": pictures}
        return result

    def state_dict(self) -> dict[str, list[float]]:
        """Return the sums of all processes since the last `collect`, as plain values; a collective call."""
        self._close()
        total: dict[str, Tensor] = {}
        for sums in comm.all_gather(self._sums):
            for name, values in sums.items():
                total[name] = total.get(name, 0) + torch.tensor(values, dtype=torch.float64)
        return {name: values.tolist() for name, values in total.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Go on from `state`; one process takes the sums of all."""
        self._open = []
        self._sums = {name: list(values) for name, values in state.items()} if comm.is_main_process() else {}
