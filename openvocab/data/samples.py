"""From tickets to samples: the sources of a mixture, and what happens to a picture that is bad."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from detectron2.data import DatasetFromList
from detectron2.data.samplers import RepeatFactorTrainingSampler
from torch.utils.data import Dataset

from openvocab.errors import ConfigError, DataError, InputError, OpenVocabError, nearest

from .budget import BadSampleBudget
from .catalog import get_records
from .randomness import draw, seeded
from .stream import Ticket

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
        repeat_threshold: draw pictures of rare classes more often (LVIS: 0.001), see `repeats`; 0: all alike.
        select: chooses among the records that are left, such as `FewShot`; None takes all.

    Raises:
        ConfigError: for a threshold outside 0..1.
    """

    def __init__(
        self,
        *,
        name: str,
        mapper: Callable[[dict], dict | None],
        weight: float = 1.0,
        records: Sequence[dict] | None = None,
        keep_empty: bool | None = None,
        repeat_threshold: float = 0.0,
        select: Callable[[list[dict]], list[dict]] | None = None,
    ) -> None:
        if not 0 <= repeat_threshold <= 1:
            raise ConfigError(f"repeat_threshold={repeat_threshold} is a share of the pictures, 0 to 1")
        self.repeat_threshold = float(repeat_threshold)
        self.name, self.mapper, self.weight, self._records = name, mapper, float(weight), records
        self.select = select
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
        if self.select is not None:
            records = self.select(records)
        if not records:
            raise DataError(f"data set '{self.name}' has no pictures with boxes to train on")
        return records

    def repeats(self, records: Sequence[dict]) -> np.ndarray | None:
        """How often each of the records is drawn: max over its classes c of max(1, sqrt(threshold / f(c))), where f(c) is the share
        of records with c (Gupta et al. 2019, appendix B.2). Classes that the mapper does not teach, and crowds, do not count.
        """
        if not self.repeat_threshold:
            return None
        taught = getattr(self.mapper, "teaches", lambda record, annotation: True)
        slim = [
            {"annotations": [a for a in r.get("annotations", ()) if not a.get("iscrowd", 0) and taught(r, a)]} for r in records
        ]
        return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(slim, self.repeat_threshold).double().numpy()


class Samples(Dataset):
    """Makes sample number n; its randomness depends on (seed, n) alone."""

    def __init__(
        self, sources: Sequence[TrainSource], records: Sequence[list[dict]], lying: list | None, seed: int
    ) -> None:
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

    def __getitem__(self, ticket: Ticket) -> tuple[dict | OpenVocabError, list[tuple[int, str, str]]]:
        """Return the sample (or an error to raise outside the worker), and (source, file, reason) of each bad file."""
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
            except OpenVocabError as error:
                return error, bad
            if sample is not None:
                return sample, bad
        message = (
            f"{ATTEMPTS} pictures of '{self.names[source]}' in a row gave nothing to train on: each bad, or with no "
            "box left by exclude_names, min_size or a crop"
        )
        return DataError(message), bad


def as_is(batch: list) -> list:
    """Collate nothing."""
    return batch


def raised(batch: list) -> list:
    """Raise an error that travelled from a worker in place of a sample (torch would wrap it in a traceback)."""
    for sample in batch:
        if isinstance(sample, OpenVocabError):
            raise sample
    return batch


def check_names(sources: Sequence[TrainSource]) -> None:
    """Raise ConfigError if a mapper excludes or renames a name that no source has: most likely it is misspelt."""
    mappers = [(s.name, s.mapper) for s in sources if hasattr(s.mapper, "mentioned")]
    vocabularies = [v for name, mapper in mappers if (v := mapper.words(name)) is not None]
    if len(vocabularies) < len(sources):
        return  # grounding sets and other people's mappers speak of what they like
    known = [n for v in vocabularies for n in v.names]
    for name in {n: None for _, mapper in mappers for n in mapper.mentioned()}:
        if not any(name in v for v in vocabularies):
            raise ConfigError(
                f"exclude_names, super_names or synonyms: '{name}' is a name of no source.{nearest(name, known)}"
            )
