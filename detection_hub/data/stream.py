"""The endless order of a hub's training samples: which data sets share a batch, and shares that change."""

from __future__ import annotations

import numpy as np

from openvocab.data.randomness import generator
from openvocab.data.stream import SampleStream, Ticket
from openvocab.errors import ConfigError, nearest

GROUPINGS = ("mixed", "per_gpu", "per_step")
BLOCK = 1024

Change = tuple[int, list[float]]
"""(number of the first batch for which these weights hold, a weight a source)"""


class HubStream(SampleStream):
    """Global batches of tickets, the same in every process; rank r takes tickets r, r + world, ... of each.

    "mixed": a batch mixes data sets. "per_gpu": the pictures of one process are of one data set, those of another may be of
    another. "per_step": all pictures of a step are of one data set. In each, pictures that lie and that stand may be kept apart.
    Pictures wait until such a batch is full; none is dropped, and shares hold in the long run.

    Args:
        grouping: see above.
        world: number of processes.
        changes: a list that may grow while the stream runs; later weights in place of `weights`.
        options: of `SampleStream`.

    Raises:
        ConfigError: for an unknown grouping.
        DataError: as `SampleStream`.
    """

    def __init__(
        self,
        *,
        grouping: str = "mixed",
        world: int = 1,
        changes: list[Change] | None = None,
        **options: object,
    ) -> None:
        super().__init__(**options)
        if grouping not in GROUPINGS:
            raise ConfigError(f"grouping='{grouping}' is none of {', '.join(GROUPINGS)}.{nearest(grouping, GROUPINGS)}")
        self.grouping, self.changes = grouping, [] if changes is None else changes
        self.parts = world if grouping == "per_gpu" else 1
        self.batches = 0
        self.queues: dict[tuple[int, int], list[Ticket]] = {}

    def _source(self, number: int) -> int:
        """A uniform number for each sample, and the shares of the present batch: as pure as shares that never change."""
        block = number // BLOCK
        if self._block[0] != block:
            self._block = block, generator(self.seed, "source", block).random(BLOCK)
        weights = next((w for start, w in reversed(self.changes) if start <= self.batches), None)
        edges = np.cumsum(self.shares if weights is None else weights)
        return int(np.searchsorted(edges / edges[-1], self._block[1][number % BLOCK], side="right"))

    def _wait(self, ticket: Ticket) -> list[Ticket]:
        """Put a ticket in its queue, and return that queue."""
        _, source, index = ticket
        shape = 0 if self.lying is None else int(self.lying[source][index])
        queue = self.queues.setdefault((-1 if self.grouping == "mixed" else source, shape), [])
        queue.append(ticket)
        return queue

    def next_batch(self) -> list[Ticket]:
        """Return the next global batch."""
        size, full = self.batch_size // self.parts, []
        while len(full) < self.parts:
            queue = self._wait(self._next())
            if len(queue) >= size:
                full.append(queue[:size])
                del queue[:size]
        self.batches += 1
        return [ticket for together in zip(*full, strict=True) for ticket in together]

    def state_dict(self) -> dict:
        """Return plain values from which the stream goes on."""
        queues = [[list(key), [list(t) for t in tickets]] for key, tickets in self.queues.items() if tickets]
        return {"number": self.number, "batches": self.batches, "used": list(self.used), "queues": queues}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state` was taken; with another grouping, those that wait find their new queues."""
        self.number, self.batches = int(state["number"]), int(state["batches"])
        self.used = [int(u) for u in state["used"]]
        self.queues = {}
        for n, s, i in sorted(ticket for _, tickets in state["queues"] for ticket in tickets):
            self._wait((int(n), int(s), int(i)))
