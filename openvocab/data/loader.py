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

from openvocab.errors import ConfigError, DataError, InputError, nearest

from .budget import BadCounter, BadSampleBudget
from .catalog import get_records
from .randomness import draw, seeded
from .stream import SampleStream, Ticket

ATTEMPTS = 50
"""Pictures that are tried in place of one that is bad or has nothing to teach, before the loader gives up."""


class TrainSource:
    """One data set of a mixture.

    Args:
        name: a registered data set (or only a label, when `records` are given).
        mapper: from a record to a model input; None means "take another record". A `DatasetMapper`, or any callable.
        weight: expected share of the samples, relative to the other sources.
        records: the records themselves, for sets that are not registered.
        keep_empty: also draw pictures without annotations; else they are left out beforehand.
    """

    def __init__(
        self,
        *,
        name: str,
        mapper: Callable[[dict], dict | None],
        weight: float = 1.0,
        records: Sequence[dict] | None = None,
        keep_empty: bool | None = None,
    ) -> None:
        self.name, self.mapper, self.weight, self._records = name, mapper, float(weight), records
        self.keep_empty = getattr(mapper, "keep_empty", False) if keep_empty is None else keep_empty
        self.skip: BadSampleBudget = getattr(mapper, "skip", None) or BadSampleBudget()

    def load(self) -> list[dict]:
        """Return the records to train on.

        Raises:
            DataError: if there are none.
        """
        records = get_records(self.name) if self._records is None else list(self._records)
        if not self.keep_empty:
            records = [r for r in records if any(not a.get("iscrowd", 0) for a in r.get("annotations", []))]
        if not records:
            raise DataError(f"data set '{self.name}' has no pictures with boxes to train on")
        return records


class _Samples(Dataset):
    """Makes sample number n; its randomness depends on (seed, n) alone."""

    def __init__(self, sources: Sequence[TrainSource], records: Sequence[list[dict]], lying: list | None, seed: int) -> None:
        self.names, self.mappers = [s.name for s in sources], [s.mapper for s in sources]
        self.records = [DatasetFromList(r, copy=False, serialize=True) for r in records]
        self.lying, self.seed = lying, seed

    def __len__(self) -> int:
        return sum(len(r) for r in self.records)

    def _another(self, ticket: Ticket, attempt: int) -> int:
        """Return an index to try instead: of the same source and, where batches are grouped, of the same shape."""
        number, source, index = ticket
        start = draw(self.seed, "instead", number, attempt) % len(self.records[source])
        if self.lying is None:
            return start
        shapes = self.lying[source]
        candidates = (i % len(shapes) for i in range(start, start + len(shapes)))
        return next(i for i in candidates if shapes[i] == shapes[index])

    def __getitem__(self, ticket: Ticket) -> tuple[dict | None, list[tuple[int, str, str]]]:
        """Return the sample (None after `ATTEMPTS` failures), and (source, file, reason) of what was bad on the way."""
        number, source, index = ticket
        bad: list[tuple[int, str, str]] = []
        for attempt in range(ATTEMPTS):
            if attempt:
                index = self._another(ticket, attempt)
            record = self.records[source][index]
            try:
                with seeded(self.seed, "sample", number, attempt):
                    sample = self.mappers[source](record)
            except (DataError, InputError) as error:
                bad.append((source, record["file_name"], f"{error}"))
                continue
            if sample is not None:
                return sample, bad
        return None, bad


def _identity(batch: list) -> list:
    return batch


class TrainLoader:
    """Endless batches (lists of model inputs) of one process, with a position that can be saved."""

    def __init__(
        self,
        *,
        dataset: _Samples,
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
            collate_fn=_identity,
            generator=torch.Generator(),  # the process's own random state is not touched
        )
        for batch in loader:
            samples = self._check(batch)
            self._position = positions.popleft()
            self._delivered += 1
            yield samples

    def _check(self, batch: list[tuple[dict | None, list]]) -> list[dict]:
        for _, bad in batch:
            for source, file, reason in bad:
                self._budgets[source].add(file, reason)
        if any(sample is None for sample, _ in batch):
            raise DataError(
                f"{ATTEMPTS} pictures in a row gave nothing to train on (data sets {self.dataset.names}): every one was bad, or lost "
                "all its boxes to exclude_names, min_size or a crop"
            )
        return [sample for sample, _ in batch]

    def _identity(self) -> dict:
        return {"seed": self.dataset.seed, "sources": [[n, len(r)] for n, r in zip(self.dataset.names, self.dataset.records, strict=True)]}

    def state_dict(self) -> dict:
        """Return the position behind the last batch that was handed out (not the ones read ahead), as plain values."""
        bad = [[[k, v] for k, v in b.reasons.items()] for b in self._budgets]
        return {"delivered": self._delivered, "position": self._position, "bad": bad, "of": self._identity()}

    def load_state_dict(self, state: dict) -> None:
        """Go on behind that batch, from the next `iter`; the number of workers and of processes may be another.

        Raises:
            DataError: if the state is of other data sets, sizes or another seed.
        """
        if state.get("of") != self._identity():
            raise DataError(f"the saved data position is of {state.get('of')}, this loader of {self._identity()}")
        self._position, self._delivered = state["position"], int(state["delivered"])
        for budget, reasons in zip(self._budgets, state["bad"], strict=True):
            budget.restore((k, v) for k, v in reasons)


def _check_names(sources: Sequence[TrainSource]) -> None:
    """Raise ConfigError if a mapper excludes or renames a name that no source has: most likely it is misspelt."""
    mappers = [(s.name, s.mapper) for s in sources if hasattr(s.mapper, "mentioned")]
    vocabularies = [v for name, mapper in mappers if (v := mapper.words(name)) is not None]
    if len(vocabularies) < len(sources):
        return  # grounding sets and other people's mappers speak of what they like
    known = [n for v in vocabularies for n in v.names]
    for name in {n: None for _, mapper in mappers for n in mapper.mentioned()}:
        if not any(name in v for v in vocabularies):
            raise ConfigError(f"exclude_names, super_names or synonyms: '{name}' is a name of no source.{nearest(name, known)}")


def build_train_loader(
    *,
    sources: Sequence[TrainSource],
    total_batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
    aspect_ratio_grouping: bool = True,
) -> TrainLoader:
    """Build the endless loader of a mixture of data sets.

    The order of samples and the randomness of each are pure functions of `seed` and the sample's number: workers, prefetching and
    the number of processes change nothing. A picture that is bad or has nothing to teach is replaced by another of its set.

    Args:
        sources: at least one.
        total_batch_size: over all processes.
        num_workers: reading processes; 0 reads in this one.
        seed: of order and augmentation.
        aspect_ratio_grouping: pictures that lie and pictures that stand get batches of their own.

    Raises:
        ConfigError: for no sources, numbers that do not fit, or excluded and renamed names that no source has.
        DataError: for an unknown or empty set; while iterating: when more files are bad than `BadSampleBudget` allows.
    """
    world, rank = comm.get_world_size(), comm.get_rank()
    sources = list(sources)
    if not sources:
        raise ConfigError("a training loader needs at least one source")
    if total_batch_size < 1 or total_batch_size % world or num_workers < 0:
        raise ConfigError(f"total_batch_size={total_batch_size} over {world} processes with num_workers={num_workers} cannot be met")
    _check_names(sources)
    records = [s.load() for s in sources]
    lying = [[r["width"] > r["height"] for r in rows] for rows in records] if aspect_ratio_grouping else None

    stream = partial(
        SampleStream,
        sizes=[len(r) for r in records],
        weights=[s.weight for s in sources],
        batch_size=total_batch_size,
        seed=seed,
        lying=lying,
    )
    dataset = _Samples(sources, records, lying, seed)
    budgets = [s.skip.counter(f"'{s.name}'", len(r)) for s, r in zip(sources, records, strict=True)]
    return TrainLoader(dataset=dataset, stream=stream, budgets=budgets, num_workers=num_workers, share=(rank, world))


class _Mapped(Dataset):
    def __init__(self, records: Sequence[dict], mapper: Callable[[dict], dict]) -> None:
        self.records, self.mapper = DatasetFromList(list(records), copy=False, serialize=True), mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        return self.mapper(self.records[index])


def build_test_loader(
    *, dataset: str | Sequence[dict], mapper: Callable[[dict], dict], num_workers: int = 0, batch_size: int = 1
) -> DataLoader:
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
    return DataLoader(
        _Mapped(records, mapper),
        batch_size=batch_size,
        sampler=InferenceSampler(len(records)),
        num_workers=num_workers,
        collate_fn=_identity,
        generator=torch.Generator(),
    )
