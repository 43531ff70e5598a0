"""The endless order of training samples: a pure function of the seed, kept apart from reading anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openvocab.errors import DataError

from .randomness import generator

Ticket = tuple[int, int, int]
"""(sample number, source, index in the source)"""
_BLOCK = 1024


class SampleStream:
    """Global batches of tickets, the same in every process.

    Sample n comes from source s with probability weight_s / sum of weights; within a source every index is used once,
    in random order, before any is used again. With `lying` given, pictures that lie and pictures that stand go into
    batches of their own, so that little is padded. Grouping happens on global batches, of which rank r takes tickets r,
    r + world, ...: what the processes read together does not depend on their number.

    Args:
        sizes: number of records of each source.
        weights: expected share of the samples, in any unit.
        batch_size: of all processes together.
        seed: of the order.
        lying: for each source, whether each picture is wider than high; None: no grouping.
        repeats: for each source, how often each index is used (at least 1, fractions on average) before all are used again; None:
            once.

    Raises:
        DataError: for no sources, an empty one, a negative weight, no weight above 0, or repeats below 1.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        seed: int,
        lying: Sequence[Sequence[bool]] | None = None,
        repeats: Sequence[np.ndarray | None] | None = None,
    ) -> None:
        if not sizes or min(sizes) < 1:
            raise DataError(f"a training mixture needs sources with records, got sizes {list(sizes)}")
        if not all(np.isfinite(w) and w >= 0 for w in weights) or sum(weights) <= 0:
            raise DataError(f"weights must be numbers >= 0, at least one above 0, got {list(weights)}")
        self.sizes, self.batch_size, self.seed, self.lying = list(sizes), batch_size, seed, lying
        self.repeats = [None if r is None else np.asarray(r, dtype=np.float64) for r in repeats or [None] * len(self.sizes)]
        for size, times in zip(self.sizes, self.repeats, strict=True):
            if times is not None and (times.shape != (size,) or not np.isfinite(times).all() or times.min() < 1):
                raise DataError(f"repeats must be {size} numbers, 1 or more, one an index")
        self.rounds = [n if r is None else round(r.sum()) for n, r in zip(self.sizes, self.repeats, strict=True)]
        self.shares = np.asarray(weights, dtype=np.float64) / sum(weights)
        self.number, self.used = 0, [0] * len(self.sizes)
        self.waiting: list[list[Ticket]] = [[], []]
        self._block: tuple[int, np.ndarray] = (-1, np.empty(0))
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def _source(self, number: int) -> int:
        block = number // _BLOCK
        if self._block[0] != block:
            drawn = generator(self.seed, "source", block).choice(len(self.sizes), size=_BLOCK, p=self.shares)
            self._block = block, drawn
        return int(self._block[1][number % _BLOCK])

    def _index(self, source: int) -> int:
        epoch, place = divmod(self.used[source], self.rounds[source])
        if self._orders.get(source, (-1,))[0] != epoch:
            self._orders[source] = epoch, self._order(source, generator(self.seed, "order", source, epoch))
        self.used[source] += 1
        return int(self._orders[source][1][place])

    def _order(self, source: int, random: np.random.Generator) -> np.ndarray:
        """One round of a source's indices, in random order: repeats are rounded down, and the fractions that this leaves decide who
        is used once more. They lie end to end, under a randomly shifted comb with so many teeth that all rounds are equally long.
        """
        repeats, size = self.repeats[source], self.sizes[source]
        if repeats is None:
            return random.permutation(size)
        whole, ends = np.floor(repeats).astype(np.int64), np.cumsum(repeats % 1)
        count = self.rounds[source] - int(whole.sum())
        teeth = (np.arange(count) + random.random()) * (ends[-1] / max(count, 1))
        again = np.minimum(np.searchsorted(ends, teeth, side="right"), size - 1)
        return random.permutation(np.concatenate([np.repeat(np.arange(size), whole), again]))

    def _next(self) -> Ticket:
        source = self._source(self.number)
        ticket = self.number, source, self._index(source)
        self.number += 1
        return ticket

    def next_batch(self) -> list[Ticket]:
        """Return the next global batch."""
        while True:
            ticket = self._next()
            group = 0 if self.lying is None else int(self.lying[ticket[1]][ticket[2]])
            self.waiting[group].append(ticket)
            if len(self.waiting[group]) == self.batch_size:
                batch, self.waiting[group] = self.waiting[group], []
                return batch

    def state_dict(self) -> dict:
        """Return plain numbers from which the stream goes on."""
        return {
            "number": self.number,
            "used": list(self.used),
            "waiting": [[list(t) for t in group] for group in self.waiting],
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state` was taken."""
        self.number, self.used = int(state["number"]), [int(u) for u in state["used"]]
        self.waiting = [[(int(n), int(s), int(i)) for n, s, i in group] for group in state["waiting"]]
