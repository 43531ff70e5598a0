"""Loaders: an endless, balanced, seeded mixture of data sets that is resumed exactly; and a plain one for tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from detectron2.data import DatasetFromList
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from openvocab.errors import ConfigError, DataError, OpenVocabError

from .budget import BadCounter
from .catalog import get_records
from .samples import Samples, TrainSource, as_is, check_names, raised
from .stream import SampleStream, Ticket


class TrainLoader:
    """Endless batches (lists of model inputs) of one process, with a position that can be saved."""

    def __init__(
        self,
        *,
        dataset: Samples,
        stream: Callable[[], SampleStream],
        budgets: Sequence[BadCounter],
        num_workers: int,
        share: tuple[int, int],
    ) -> None:
        self.dataset, self.num_workers = dataset, num_workers
        self._stream, self._budgets, self._share = stream, list(budgets), share
        self._position = stream().state_dict()
        self._delivered = 0

    def __iter__(self) -> Iterator[list[dict]]:
        rank, world = self._share
        stream, positions = self._stream(), deque()
        stream.load_state_dict(self._position)

        def tickets() -> Iterator[list[Ticket]]:
            while True:
                batch = stream.next_batch()
                positions.append(stream.state_dict())
                yield batch[rank::world]

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
            self._delivered += 1
            yield samples

    def _check(self, batch: list[tuple[dict | OpenVocabError, list]]) -> list[dict]:
        for _, bad in batch:
            for source, file, reason in bad:
                self._budgets[source].add(file, reason)
        return raised([sample for sample, _ in batch])

    def _signature(self) -> dict:
        sizes = [[n, len(r)] for n, r in zip(self.dataset.names, self.dataset.records, strict=True)]
        return {"seed": self.dataset.seed, "sources": sizes}

    def state_dict(self) -> dict:
        """Return the position behind the last batch that was handed out (not the ones read ahead), as plain values."""
        bad = [[[k, v] for k, v in b.reasons.items()] for b in self._budgets]
        return {"delivered": self._delivered, "position": self._position, "bad": bad, "of": self._signature()}

    def load_state_dict(self, state: dict) -> None:
        """Go on behind that batch, from the next `iter`; the number of workers and of processes may be another.

        Raises:
            DataError: if the state is of other data sets, sizes or another seed.
        """
        if state.get("of") != self._signature():
            raise DataError(f"the saved data position is of {state.get('of')}, this loader of {self._signature()}")
        self._position, self._delivered = state["position"], int(state["delivered"])
        for budget, reasons in zip(self._budgets, state["bad"], strict=True):
            budget.restore((k, v) for k, v in reasons)


def build_train_loader(
    *,
    sources: Sequence[TrainSource],
    total_batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
    aspect_ratio_grouping: bool = True,
    stream: Callable[..., SampleStream] = SampleStream,
) -> TrainLoader:
    """Build the endless loader of a mixture of data sets.

    The order of samples and the randomness of each are pure functions of `seed` and the sample's number: workers,
    prefetching and the number of processes change nothing. A picture that is bad or has nothing to teach is replaced by
    another of its set.

    Args:
        sources: at least one.
        total_batch_size: over all processes.
        num_workers: reading processes; 0 reads in this one.
        seed: of order and augmentation.
        aspect_ratio_grouping: pictures that lie and pictures that stand get batches of their own.
        stream: makes the order of samples; called with the arguments of `SampleStream`.

    Raises:
        ConfigError: for no sources, numbers that do not fit, or excluded and renamed names that no source has.
        DataError: for an unknown or empty set; while iterating: when more files are bad than `BadSampleBudget` allows.
    """
    world, rank = comm.get_world_size(), comm.get_rank()
    sources = list(sources)
    if not sources:
        raise ConfigError("a training loader needs at least one source")
    if total_batch_size < 1 or total_batch_size % world or num_workers < 0:
        raise ConfigError(
            f"total_batch_size={total_batch_size} over {world} processes with num_workers={num_workers} cannot be met"
        )
    check_names(sources)
    records = [s.load() for s in sources]
    lying = [[r["width"] > r["height"] for r in rows] for rows in records] if aspect_ratio_grouping else None

    order = partial(
        stream,
        sizes=[len(r) for r in records],
        weights=[s.weight for s in sources],
        batch_size=total_batch_size,
        seed=seed,
        lying=lying,
        repeats=[s.repeats(r) for s, r in zip(sources, records, strict=True)],
    )
    dataset = Samples(sources, records, lying, seed)
    budgets = [s.skip.counter(f"'{s.name}'", len(r)) for s, r in zip(sources, records, strict=True)]
    return TrainLoader(dataset=dataset, stream=order, budgets=budgets, num_workers=num_workers, share=(rank, world))


class _Mapped(Dataset):
    def __init__(self, records: Sequence[dict], mapper: Callable[[dict], dict]) -> None:
        self.records, self.mapper = DatasetFromList(list(records), copy=False, serialize=True), mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict | OpenVocabError:
        try:
            return self.mapper(self.records[index])
        except OpenVocabError as error:
            return error


class TestLoader(DataLoader):
    """torch's loader; a bad picture raises its own sentence, from whichever process."""

    __test__ = False  # no pytest class

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in super().__iter__():
            yield raised(batch)


def build_test_loader(
    *, dataset: str | Sequence[dict], mapper: Callable[[dict], dict], num_workers: int = 0, batch_size: int = 1
) -> TestLoader:
    """Build a loader that gives every picture once, in order; each process gets its share.

    Nothing is skipped here: a bad picture raises, because a figure over fewer pictures would be another figure.

    Args:
        dataset: a data set's name, or its records.
        mapper: from a record to a model input.
        num_workers: reading processes.
        batch_size: of each process.

    Raises:
        DataError: for an unknown or empty set.
        ConfigError: for numbers that do not fit.
    """
    if batch_size < 1 or num_workers < 0:
        raise ConfigError(f"batch_size={batch_size} and num_workers={num_workers} must be at least 1 and 0")
    records = get_records(dataset) if isinstance(dataset, str) else list(dataset)
    if not records:
        raise DataError(f"data set {dataset!r:.60} has no pictures")
    return TestLoader(
        _Mapped(records, mapper),
        batch_size=batch_size,
        sampler=InferenceSampler(len(records)),
        num_workers=num_workers,
        collate_fn=as_is,
        generator=torch.Generator(),
    )
