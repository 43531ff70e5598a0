"""A loader of image-text pairs from shards that is resumed exactly; the counterpart of `openvocab.data.build_train_loader`."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from openvocab.data.randomness import seeded
from openvocab.data.samples import as_is
from openvocab.errors import ConfigError, DataError, InputError, OpenVocabError

from .shards import Shards
from .stream import PairStream, Ticket

logger = logging.getLogger(__name__)
GIVE_UP = 1000
"""Broken samples in a row after which the data is thought to be wrong as a whole."""
_SHOWN = 20

Read = tuple[dict | OpenVocabError | None, list[str]]
"""A sample (None: neither it nor its spares could be read; an error: to be raised), and what was broken on the way."""


class _Pairs(Dataset):
    """Reads sample number n; its randomness depends on (seed, n) alone."""

    def __init__(self, shards: Shards, mapper: Callable[[dict], dict | None], seed: int) -> None:
        self.shards, self.mapper, self.seed = shards, mapper, seed

    def __getitem__(self, ticket: Ticket) -> Read:
        broken: list[str] = []
        for attempt, place in enumerate((ticket.place, *ticket.spares)):
            try:
                record = self.shards.read(place)
                with seeded(self.seed, "sample", ticket.number, attempt):
                    sample = self.mapper(record)
            except (DataError, InputError, OSError) as error:
                broken.append(f"{self.shards.names[place[0]]} at byte {place[1]}: {error}")
                continue
            except OpenVocabError as error:
                return error, broken
            if sample is not None:
                return sample, broken
        return None, broken


class PairLoader:
    """Endless batches (lists of model inputs) of one process, with a position that can be saved.

    Attributes:
        broken: how many samples could not be read so far, on this process.
    """

    def __init__(
        self,
        *,
        shards: Shards,
        mapper: Callable[[dict], dict | None],
        total_batch_size: int,
        num_workers: int,
        seed: int,
        lanes: int,
        buffer_size: int,
    ) -> None:
        self._options = {
            "shards": shards, "batch_size": total_batch_size, "seed": seed, "lanes": lanes, "buffer_size": buffer_size,
            "rank": comm.get_rank(), "world": comm.get_world_size(),
        }  # fmt: skip
        self.dataset, self.num_workers = _Pairs(shards, mapper, seed), num_workers
        self._position = PairStream(**self._options).state_dict()
        self.broken, self._in_a_row = 0, 0

    def __iter__(self) -> Iterator[list[dict]]:
        stream, positions = PairStream(**self._options), deque()
        stream.load_state_dict(self._position)

        def tickets() -> Iterator[list[Ticket]]:
            while True:
                batch = stream.next_batch()
                positions.append(stream.state_dict())
                yield batch

        loader = DataLoader(
            self.dataset,
            batch_sampler=tickets(),
            num_workers=self.num_workers,
            collate_fn=as_is,
            generator=torch.Generator(),  # the process's own random state is not touched
        )
        for batch in loader:
            samples = self._check(batch)
            self._position = positions.popleft()
            if samples:
                yield samples

    def _check(self, batch: list[Read]) -> list[dict]:
        for sample, broken in batch:
            for reason in broken:
                self.broken += 1
                if self.broken <= _SHOWN or self.broken % 1000 == 0:
                    logger.warning("broken sample number %d is left out: %s", self.broken, reason)
            if isinstance(sample, OpenVocabError):
                raise sample
            self._in_a_row = self._in_a_row + len(broken) if sample is None else 0
            if self._in_a_row >= GIVE_UP:
                raise DataError(f"{self._in_a_row} samples in a row are broken; the last: {broken[-1]}")
        return [sample for sample, _ in batch if sample is not None]

    def _signature(self) -> dict:
        names = [Path(n).name for n in self._options["shards"].names]
        numbers = {k: self._options[k] for k in ("batch_size", "seed", "lanes", "buffer_size")}
        return {**numbers, "shards": len(names), "first": names[0], "last": names[-1]}

    def state_dict(self) -> dict:
        """Return the position behind the last batch that was handed out, of all processes; a collective call."""
        parts = comm.all_gather({"position": self._position, "broken": self.broken})
        lanes = {k: v for part in parts for k, v in part["position"]["lanes"].items()}
        batches = [p["position"]["batches"] for p in parts]  # a process whose whole batch was broken is one ahead
        return {"batches": batches, "lanes": lanes, "broken": [p["broken"] for p in parts], "of": self._signature()}

    def load_state_dict(self, state: dict) -> None:
        """Go on behind that batch, from the next `iter`; the number of workers, and of processes if it divides `lanes`, may change.

        Raises:
            DataError: if the state is of other shards, another seed, or other sizes.
        """
        if state.get("of") != self._signature():
            raise DataError(f"the saved data position is of {state.get('of')}, this loader of {self._signature()}")
        rank, batches = self._options["rank"], state["batches"]
        same = len(batches) == self._options["world"]
        self._position = {"batches": batches[rank] if same else max(batches), "lanes": state["lanes"]}
        self.broken = int(state["broken"][rank]) if same else 0


def build_pair_loader(
    *,
    shards: Shards,
    mapper: Callable[[dict], dict | None],
    total_batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
    lanes: int | None = None,
    buffer_size: int = 1000,
) -> PairLoader:
    """Build the endless, shuffled loader of image-text pairs in shards.

    Samples that cannot be read are counted and logged, and another takes their place.

    Args:
        shards: `TarShards` or `TsvShards`.
        mapper: from {"key", "content", "captions"} to a model input: a `PairMapper`; None means "take another".
        total_batch_size: over all processes.
        num_workers: reading processes of each.
        seed: of order and augmentation.
        lanes: walks through the shards, a multiple of the number of processes; by default one a process. With the number given,
            the order does not depend on how many processes there are.
        buffer_size: samples among which the next is drawn, over all lanes.

    Raises:
        ConfigError: for numbers that do not fit.
        DataError: while iterating, if there is no sample at all, or `GIVE_UP` in a row are broken.
    """
    if num_workers < 0:
        raise ConfigError(f"num_workers={num_workers} must be 0 or more")
    return PairLoader(
        shards=shards,
        mapper=mapper,
        total_batch_size=total_batch_size,
        num_workers=num_workers,
        seed=seed,
        lanes=comm.get_world_size() if lanes is None else lanes,
        buffer_size=buffer_size,
    )
