"""The endless order of samples from shards: a pure function of the seed, kept apart from reading them.

openvocab's `SampleStream` orders sets whose size is known; shards are only known as they are read, so that their order comes from
a shuffle of the files and a buffer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from openvocab.data.randomness import draw, generator
from openvocab.errors import ConfigError, DataError

from .shards import Cursor, Place, Shards

logger = logging.getLogger(__name__)
SPARES = 4


@dataclass(frozen=True)
class Ticket:
    """A sample to be read: its number, its place, and places to try if that one is broken."""

    number: int
    place: Place
    spares: tuple[Place, ...]


class Lane:
    """One of L walks: its share of the shards, in an order drawn for each epoch, through a buffer from which samples are drawn.

    With fewer shards than lanes each lane walks through all and takes every L-th sample.

    Args:
        shards: the files.
        seed: of all order.
        lane: this one's number, 0..L-1.
        lanes: L.
        buffer_size: samples from which the next is drawn; 1 keeps the order of the files.
    """

    def __init__(self, *, shards: Shards, seed: int, lane: int, lanes: int, buffer_size: int) -> None:
        self.shards, self.seed, self.lane, self.lanes, self.buffer_size = shards, seed, lane, lanes, buffer_size
        self.epoch, self.turn, self.row, self.drawn = 0, 0, 0, 0
        self.cursor: Cursor | None = None
        self.buffer: list[Place] = []
        self._walk: Iterator[tuple[Place, Cursor]] | None = None
        self._found = 0

    def _order(self) -> list[int]:
        count = len(self.shards.names)
        order = generator(self.seed, "shards", self.epoch).permutation(count).tolist()
        return order[self.lane :: self.lanes] if count >= self.lanes else order

    def _takes(self, row: int) -> bool:
        return len(self.shards.names) >= self.lanes or row % self.lanes == self.lane

    def _next_place(self) -> Place:
        """Return the next sample in the order of the files; begins a new epoch where one ends."""
        while True:
            order = self._order()
            if self.turn >= len(order):
                if not self._found:
                    raise DataError(f"an epoch over {len(order)} shards, such as {self.shards.names[order[0]]}, gave no sample")
                self.epoch, self.turn, self._found = self.epoch + 1, 0, 0
                continue
            found = self._step(order[self.turn])
            if found is None:
                self.turn, self.row, self.cursor, self._walk = self.turn + 1, 0, None, None
            elif self._takes(found[0]):
                self._found += 1
                return found[1]

    def _step(self, shard: int) -> tuple[int, Place] | None:
        """The next sample of a shard with its row, or None at its end; a damaged shard ends where the damage begins."""
        if self._walk is None:
            self._walk = self.shards.scan(shard, self.cursor)
        try:
            place, self.cursor = next(self._walk)
        except StopIteration:
            return None
        except (DataError, OSError) as error:
            logger.warning("the rest of a shard is left out: %s", error)
            return None
        self.row += 1
        return self.row - 1, place

    def next(self, number: int) -> Ticket:
        """Return the ticket of sample `number`.

        Raises:
            DataError: if a whole epoch has no sample.
        """
        while len(self.buffer) < self.buffer_size:
            self.buffer.append(self._next_place())
        chosen = draw(self.seed, "buffer", self.lane, self.drawn) % len(self.buffer)
        self.drawn += 1
        self.buffer[chosen], self.buffer[-1] = self.buffer[-1], self.buffer[chosen]
        place = self.buffer.pop()
        spares = {self.buffer[draw(self.seed, "spare", number, i) % len(self.buffer)] for i in range(SPARES) if self.buffer}
        return Ticket(number, place, tuple(sorted(spares)))

    def state_dict(self) -> dict:
        """Return plain values from which the lane goes on."""
        return {
            "epoch": self.epoch,
            "turn": self.turn,
            "row": self.row,
            "drawn": self.drawn,
            "found": self._found,
            "cursor": None if self.cursor is None else list(self.cursor),
            "buffer": [list(p) for p in self.buffer],
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state` was taken."""
        self.epoch, self.turn, self.row = int(state["epoch"]), int(state["turn"]), int(state["row"])
        self.drawn, self._found = int(state["drawn"]), int(state["found"])
        self.cursor = None if state["cursor"] is None else tuple(int(v) for v in state["cursor"])
        self.buffer = [tuple(int(v) for v in p) for p in state["buffer"]]
        self._walk = None


class PairStream:
    """The batches of one process: sample n of all comes from lane n mod L, and belongs to process n mod W.

    Args:
        shards: the files.
        batch_size: of all processes together; a multiple of W.
        seed: of the order.
        lanes: L, a multiple of W. A run goes on with another number of processes as long as that divides L.
        buffer_size: of all lanes together.
        rank, world: this process, and W.

    Raises:
        ConfigError: for numbers that do not fit.
    """

    def __init__(
        self, *, shards: Shards, batch_size: int, seed: int, lanes: int, buffer_size: int, rank: int = 0, world: int = 1
    ) -> None:
        if batch_size < 1 or batch_size % world or lanes < 1 or lanes % world or buffer_size < 1:
            raise ConfigError(
                f"total_batch_size={batch_size} and lanes={lanes} must be multiples of the {world} processes, "
                f"buffer_size={buffer_size} at least 1"
            )
        self.batch_size, self.rank, self.world, self.batches = batch_size, rank, world, 0
        each = max(buffer_size // lanes, 1)
        self.count = lanes
        self.lanes = {
            lane: Lane(shards=shards, seed=seed, lane=lane, lanes=lanes, buffer_size=each) for lane in range(rank, lanes, world)
        }

    def next_batch(self) -> list[Ticket]:
        """Return this process's tickets of the next batch."""
        first = self.batches * self.batch_size
        self.batches += 1
        numbers = (n for n in range(first, first + self.batch_size) if n % self.world == self.rank)
        return [self.lanes[n % self.count].next(n) for n in numbers]

    def state_dict(self) -> dict:
        """Return plain values; only of this process's lanes."""
        return {"batches": self.batches, "lanes": {str(k): lane.state_dict() for k, lane in self.lanes.items()}}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state`, of the lanes of all processes, was taken."""
        self.batches = int(state["batches"])
        for number, lane in self.lanes.items():
            lane.load_state_dict(state["lanes"][str(number)])
