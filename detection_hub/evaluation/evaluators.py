"""Which evaluator judges a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from detectron2.evaluation import DatasetEvaluator, PascalVOCDetectionEvaluator

from detection_hub.data import HubDataset
from detection_hub.data.dataset import AUTO, catalog_evaluator, check_evaluator, registered
from detection_hub.data.records import places_in
from openvocab.data import get_vocabulary
from openvocab.errors import ConfigError, DataError
from openvocab.evaluation import COCODetectionEvaluator, LVISEvaluator
from openvocab.vocabulary import Vocabulary

BY_JSON: dict[str, Callable[..., DatasetEvaluator]] = {"coco": COCODetectionEvaluator, "lvis": LVISEvaluator}
VOC = "pascal_voc"


def evaluator_of(dataset: HubDataset) -> str | Callable:
    """Return the data set's evaluator: a name of `EVALUATORS`, what the catalog says for "auto", or its own function.

    Raises:
        ConfigError: for an unknown one.
        DataError: for a data set without a test split.
    """
    if dataset.test is None:
        raise DataError(f"the data set '{dataset.name}' of the hub has no split to be tested on: give it test=...")
    kind = dataset.evaluator
    if kind == AUTO:
        kind = catalog_evaluator(dataset.test)
    check_evaluator(dataset.name, kind)
    return kind


def build_hub_evaluator(*, dataset: HubDataset, **options: object) -> DatasetEvaluator:
    """Build the evaluator of a data set's test split; predicted classes count the data set's names.

    Args:
        dataset: a `HubDataset` with a test split.
        options: of the evaluator, such as `output_dir`; the Pascal VOC one takes none.

    Raises:
        ConfigError, DataError: see `evaluator_of`; or if names of the split are none of the data set's.
    """
    kind = evaluator_of(dataset)
    name = registered(dataset.test)
    places = places_in(dataset.vocabulary, get_vocabulary(name), dataset.name, name)
    if kind == VOC:
        if places != list(range(len(dataset.vocabulary))):
            raise ConfigError(f"'{dataset.name}': the Pascal VOC evaluator needs classes in the order of '{name}', and no others")
        return PascalVOCDetectionEvaluator(name)
    make = BY_JSON[kind] if isinstance(kind, str) else kind
    return make(name, **{"vocabulary": dataset.vocabulary, **options})


def shared_names(one: HubDataset, other: HubDataset) -> dict[str, int]:
    """Return the names of `one`'s test split, as the split spells them, that `other` has too, and their places in `other`.

    They are the same if one's name, prompt or alias is a name, prompt or alias of the other.
    """
    split = registered(one.test)
    own, words, theirs = get_vocabulary(split), one.vocabulary, other.vocabulary
    found: dict[str, int] = {}
    for name, place in zip(own.names, places_in(words, own, one.name, split), strict=True):
        spellings = (words.names[place], words.prompts[place], *words.aliases[place])
        match = next((theirs.index(s) for s in spellings if s in theirs), None)
        if match is not None and match not in found.values():
            found[name] = match
    return found


def spelled_as(split_names: Mapping[str, int], words: Vocabulary) -> Vocabulary:
    """Return `words` so that an evaluator of the split knows the shared names: by what `shared_names` returned."""
    spelling = {place: name for name, place in split_names.items()}
    return Vocabulary.from_names([spelling.get(i, f"{name} (not shared)") for i, name in enumerate(words.names)])
