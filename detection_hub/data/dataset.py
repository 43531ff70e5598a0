"""`HubDataset`: a data set of a hub as a value. `Hub`: several of them, checked."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from inspect import signature

from detectron2.data import MetadataCatalog

from detection_hub.context import DatasetContext, Flags
from openvocab.data import ensure_registered, get_vocabulary
from openvocab.errors import ConfigError, DataError, VocabularyError, nearest
from openvocab.vocabulary import Vocabulary

from .derived import DerivedSet

logger = logging.getLogger(__name__)
RESERVED = ("hub", "mean")  # rows of results
AUTO = "auto"
EVALUATORS = ("coco", "lvis", "pascal_voc")
"""Known by name: COCO's AP, LVIS's with 300 detections a picture, and detectron2's Pascal VOC. OpenImages' own
metric (its hierarchy and group-of boxes) is not here; its expanded annotations are judged by COCO's AP."""
MIN_SIZES, MAX_SIZE, TEST_SIZE = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800), 1333, 800  # Sparse R-CNN's

Split = str | DerivedSet
"""A registered name, or what is made of one."""


def plain(value: object) -> object:
    """Turn what a config holds into lists and dicts; all else stays."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [plain(v) for v in value]
    return value


def _split(source: Split | Mapping | None) -> Split | None:
    """A dict, as yaml has it, is a derived set."""
    return DerivedSet(**source) if isinstance(source, Mapping) else source


def set_name(source: Split) -> str:
    """Return the name under which a split is registered."""
    return source if isinstance(source, str) else source.name


class HubDataset:
    """A data set: names, conventions, what its labels mean, how often and at what size it is seen, and who judges it.

    Labels are its own: 0..C-1 count its names, in training and in predictions. Nothing is read before it is needed, but where
    `classes` is None the names are those of the first split. (No dataclass: OmegaConf would take an instance for a config.)

    Args:
        name: the key of its vector, and of its row in results.
        train: registered data sets (or `DerivedSet`s) that are joined; one may stand alone.
        test: one of those, or None.
        classes: a `Vocabulary`, a list of names or the name of a built-in one ("lvis"); must hold every name of `train` and `test`.
            None: those of the first split.
        aliases: name -> words by which the text encoder hears it ("RBC" -> "red blood cell").
        templates: of prompts, such as "a photo of a {}"; (): the hub's.
        description: a sentence, kept for people.
        flags, label_policy, hierarchy, weights, loss_weight: see `DatasetContext.create`.
        ratio: how often its pictures are drawn, beside what its size says (`alpha` of the loader).
        repeat_threshold: pictures of names rarer than this share of all are repeated (LVIS: 1e-3); 0: none.
        min_sizes: short sides in training, one drawn for a picture.
        max_size: longest long side.
        test_size: short side in tests.
        evaluator: "coco", "lvis", ... (see `evaluation.EVALUATORS`); "auto": what the catalog says of `test`; or a function
            (dataset_name, **options) -> evaluator.
        keep_empty: train on pictures without boxes too; only right where an unlabelled thing is none.

    Raises:
        ConfigError: for a name that is blank or "hub", no split, an alias to nothing or of no name, or numbers out of range.
        VocabularyError: for `classes` that are no names.
    """

    def __init__(
        self,
        *,
        name: str,
        train: Sequence[Split] | Split = (),
        test: Split | None = None,
        classes: Vocabulary | Sequence[str] | str | None = None,
        aliases: Mapping[str, str] | None = None,
        templates: Sequence[str] = (),
        description: str = "",
        flags: Flags = None,
        label_policy: str = "exhaustive",
        hierarchy: Mapping[str, Sequence[str]] | None = None,
        weights: Sequence[float] = (),
        loss_weight: float = 1.0,
        ratio: float = 1.0,
        repeat_threshold: float = 0.0,
        min_sizes: Sequence[int] = MIN_SIZES,
        max_size: int = MAX_SIZE,
        test_size: int = TEST_SIZE,
        evaluator: str | Callable = AUTO,
        keep_empty: bool = False,
    ) -> None:
        several = isinstance(train, Sequence) and not isinstance(train, str)
        self.name, self.description = name, description
        self.train = tuple(_split(s) for s in (train if several else [train]) if s)
        self.test = _split(test)
        self.classes = classes if classes is None or isinstance(classes, Vocabulary) else self._names(classes)
        self.aliases, self.templates = {str(k): v for k, v in (aliases or {}).items()}, tuple(templates)
        self.flags, self.label_policy, self.loss_weight = plain(flags), label_policy, loss_weight
        self.hierarchy, self.weights = plain(hierarchy), tuple(weights)
        self.ratio, self.repeat_threshold = float(ratio), float(repeat_threshold)
        self.min_sizes, self.max_size, self.test_size = tuple(int(s) for s in min_sizes), int(max_size), int(test_size)
        self.evaluator, self.keep_empty = evaluator, keep_empty
        self._check()

    def _check(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or self.name in RESERVED:
            raise ConfigError(f"{self.name!r} cannot name a data set of the hub: it is blank, or a row of results")
        if not self.splits and self.classes is None:
            raise ConfigError(f"'{self.name}' has neither train, test nor classes, so it has no names")
        for key in ("ratio", "repeat_threshold"):
            value = getattr(self, key)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"'{self.name}': {key}={value} must be 0 or more")
        if self.evaluator != AUTO:
            check_evaluator(self.name, self.evaluator)
        sizes = (*self.min_sizes, self.test_size, self.max_size)
        if not self.min_sizes or min(sizes) < 1 or max(sizes) > self.max_size:
            shown = f"{list(self.min_sizes)} and {self.test_size}"
            raise ConfigError(f"'{self.name}': sizes {shown} must lie in 1..max_size={self.max_size}")
        for raw, prompt in self.aliases.items():
            if not str(prompt or "").strip():
                raise ConfigError(f"'{self.name}': the alias of '{raw}' is empty; write the words by which it is to be known")
        if self.classes is not None:
            self.context()  # what is wrong with flags, policy, hierarchy and weights shows now

    def _names(self, classes: Sequence[str] | str) -> Vocabulary:
        try:
            return Vocabulary.builtin(classes) if isinstance(classes, str) else Vocabulary.from_names(classes)
        except VocabularyError as error:
            raise VocabularyError(f"the classes of '{self.name}' cannot be used: {error}") from error

    def __repr__(self) -> str:
        return f"HubDataset({self.name!r}, train={list(map(set_name, self.train))}, test={self.test and set_name(self.test)!r})"

    @property
    def splits(self) -> tuple[Split, ...]:
        """All of `train` and `test`."""
        return (*self.train, *([] if self.test is None else [self.test]))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Its names, with the aliases as prompts.

        Raises:
            DataError: if it has no `classes` and its first split is not there.
            ConfigError: for an alias of a name that it does not have.
        """
        words = self.classes if self.classes is not None else get_vocabulary(registered(self.splits[0]))
        prompts = list(words.prompts)
        for raw, prompt in self.aliases.items():
            if raw not in words:
                raise ConfigError(f"'{self.name}': an alias is given for '{raw}', no name of it.{nearest(raw, words.names)}")
            prompts[words.index(raw)] = str(prompt).strip()
        return replace(words, prompts=tuple(prompts), templates=tuple(self.templates) or words.templates)

    @property
    def evaluator_name(self) -> str:
        """What a checkpoint keeps of `evaluator`; for "auto" what the catalog says, or "auto" where the test split is not there."""
        if not isinstance(self.evaluator, str):
            return getattr(self.evaluator, "__qualname__", str(self.evaluator))
        if self.evaluator != AUTO:
            return self.evaluator
        try:
            return "coco" if self.test is None else catalog_evaluator(self.test)
        except DataError:
            return AUTO

    def context(self) -> DatasetContext:
        """Return what the detector must know of it.

        Raises:
            ConfigError, DataError: as `DatasetContext.create`, and `vocabulary`.
        """
        return DatasetContext.create(
            self.name,
            self.vocabulary,
            flags=self.flags,
            label_policy=self.label_policy,
            evaluator=self.evaluator_name,
            description=self.description,
            sources=[s for s in dict.fromkeys(set_name(s) for s in self.splits) if s != self.name],
            hierarchy=self.hierarchy,
            weights=self.weights,
            loss_weight=self.loss_weight,
        )


def registered(source: Split) -> str:
    """Return the name of a split, which is made and registered now if it is derived."""
    return source if isinstance(source, str) else source.register()


def check_evaluator(name: str, kind: str | Callable) -> None:
    """Make sure that a data set's evaluator is a name of `EVALUATORS`, or a function.

    Raises:
        ConfigError: else.
    """
    if isinstance(kind, str) and kind not in EVALUATORS:
        raise ConfigError(
            f"'{name}': there is no evaluator '{kind}'.{nearest(kind, EVALUATORS)} Known: {', '.join(EVALUATORS)}; "
            "or give a function (dataset_name, **options) -> evaluator"
        )


def catalog_evaluator(split: Split) -> str:
    """Return the `evaluator_type` of a split in detectron2's catalog; a derived set is a COCO json.

    Raises:
        DataError: for a split that nobody registered and that is not found by its name.
    """
    if not isinstance(split, str):
        return "coco"
    ensure_registered(split)
    return MetadataCatalog.get(split).get("evaluator_type") or "coco"


class Hub:
    """Data sets of one detector; their order means nothing.

    Args:
        datasets: `HubDataset`s, or dicts of their fields.

    Raises:
        ConfigError: for none, two of one name, or a split that two of them have (a picture's split says whose it is).
        DataError: for a dict with unknown fields; else as `HubDataset`.
    """

    def __init__(self, datasets: Sequence[HubDataset | Mapping]) -> None:
        rows = [d if isinstance(d, HubDataset) else read_dataset(d) for d in datasets]
        if not rows:
            raise ConfigError("a hub needs at least one data set")
        owners: dict[str, str] = {}
        for row in rows:
            for word in {row.name, *(set_name(s) for s in row.splits)}:
                if word in owners:
                    what = "data set" if word == row.name == owners[word] else "split"
                    raise ConfigError(f"two data sets of the hub have the {what} '{word}': '{owners[word]}' and '{row.name}'")
                owners[word] = row.name
        self._rows = {row.name: row for row in sorted(rows, key=lambda r: r.name)}

    def __iter__(self) -> Iterator[HubDataset]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def __getitem__(self, name: str) -> HubDataset:
        """Return a data set.

        Raises:
            DataError: for an unknown one.
        """
        if name not in self._rows:
            raise DataError(f"the hub has no data set '{name}'.{nearest(name, self._rows)} Known: {', '.join(self._rows)}")
        return self._rows[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Of its data sets, sorted."""
        return tuple(self._rows)

    def only(self, *names: str) -> Hub:
        """Return the hub of these data sets.

        Raises:
            DataError: for an unknown one.
        """
        return Hub([self[name] for name in names])

    def contexts(self) -> list[DatasetContext]:
        """Return what the detector must know: for `model.set_datasets`, or the `datasets` of a `HubAdapter`."""
        return [row.context() for row in self]


def hub_contexts(*, datasets: Sequence[HubDataset | Mapping]) -> list[DatasetContext]:
    """For configs: the contexts of data sets, checked together.

    A data set whose names stand in a split that is not here, and nowhere else, is left out with a warning: a trained hub's weights
    bring it along, and predict with no data set on the disk. Its loaders refuse all the same.
    """
    found = []
    for row in Hub(datasets):
        try:
            found.append(row.context())
        except DataError as error:
            if row.classes is not None:
                raise
            logger.warning("the names of '%s' must come from the weights, or from classes=[...]: %s", row.name, error)
    return found


def read_dataset(value: Mapping) -> HubDataset:
    """Build a `HubDataset` from a dict, as yaml has it.

    Raises:
        DataError: for unknown fields; else as `HubDataset`.
    """
    known = list(signature(HubDataset).parameters)
    for key in value:
        if key not in known:
            raise DataError(f"a data set of the hub has no field '{key}'.{nearest(key, known)} Fields: {', '.join(known)}")
    if "name" not in value:
        raise DataError(f"a data set of the hub needs a 'name', got {sorted(value)}")
    return HubDataset(**value)
