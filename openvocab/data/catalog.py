"""Data sets by name: registered into detectron2's catalogs, their names kept in a table of our own.

detectron2's `MetadataCatalog` refuses to change `thing_classes` within a process, so class names never go there:
`get_vocabulary` is the way to them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from openvocab.errors import DataError, VocabularyError
from openvocab.vocabulary import Vocabulary

from .coco_json import load_coco_records, read_coco, sorted_categories
from .grounding import load_mdetr_records, load_odvg_records
from .phrasecut import load_phrasecut_records
from .questions import load_caption_records, load_vqa_records
from .tsv import TsvCollection, load_tsv_records

ROOT_ENV = "DETECTRON2_DATASETS"
READERS: dict[str, Callable[..., list[dict]]] = {
    "coco": load_coco_records,
    "mdetr": load_mdetr_records,
    "odvg": load_odvg_records,
    "phrasecut": load_phrasecut_records,
    "vqa": load_vqa_records,
    "captions": load_caption_records,
    "tsv": load_tsv_records,
}


def folder_of(root: str | Path | None) -> Path:
    """Return the folder of a data set; a relative one lies below `datasets_root`."""
    return datasets_root() / Path(root or "").expanduser()


@dataclass(frozen=True)
class Entry:
    """Where a data set lies and how it is read.

    Attributes:
        name: in detectron2's catalogs.
        annotations: the json (jsonl, yaml of a "tsv" set) file.
        images: the folder of its pictures.
        vocabulary: names in order of the sorted category ids; None: those of the json.
        captions: a COCO captions json, or None.
        masks: a COCO json that lends its masks to an "mdetr" set, or None.
        pictures: the COCO json that knows the pictures of a "vqa" set, or None.
        answers: the annotations of a "vqa" set, or None.
        reader: "coco", "mdetr", "odvg", "phrasecut", "vqa", "captions" or "tsv".
        evaluator_type: for detectron2.
        automatic: found by its name, so that a change of the environment may move it.
    """

    name: str
    annotations: Path
    images: Path
    vocabulary: Vocabulary | None = None
    captions: Path | None = None
    masks: Path | None = None
    pictures: Path | None = None
    answers: Path | None = None
    reader: str = "coco"
    evaluator_type: str = "coco"
    automatic: bool = False

    def load(self) -> list[dict]:
        """Read the records."""
        more = {
            "coco": {"captions": self.captions},
            "mdetr": {"masks": self.masks},
            "vqa": {"pictures": self.pictures, "answers": self.answers},
        }
        return READERS[self.reader](self.annotations, self.images, self.name, **more.get(self.reader, {}))


_ENTRIES: dict[str, Entry] = {}
_VOCABULARIES: dict[str, Vocabulary] = {}
_OF_OTHERS: set[str] = set()  # names that detectron2 or the user had registered before we found files for them


def datasets_root() -> Path:
    """Return $DETECTRON2_DATASETS, read at every call, or ./datasets."""
    return Path(os.environ.get(ROOT_ENV) or "datasets").expanduser()


def _set_metadata(name: str, **values: object) -> None:
    """Set fields that detectron2 would refuse to change: the entry is made anew, with the other fields it had."""
    old = MetadataCatalog.get(name).as_dict()
    MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(**{k: v for k, v in {**old, **values}.items() if k != "name"})


def publish(entry: Entry) -> None:
    """Put an entry into our table and detectron2's catalogs, in place of one of the same name."""
    if entry.name in DatasetCatalog.list():
        if entry.name not in _ENTRIES:
            _OF_OTHERS.add(entry.name)
        DatasetCatalog.remove(entry.name)
    DatasetCatalog.register(entry.name, lambda: get_records(entry.name))
    paths = {"json_file": str(entry.annotations), "image_root": str(entry.images)}
    _set_metadata(entry.name, **paths, evaluator_type=entry.evaluator_type)
    _ENTRIES[entry.name] = entry
    _VOCABULARIES.pop(entry.name, None)


def register(entry: Entry) -> None:
    """Register a data set; the same once more changes nothing.

    Raises:
        DataError: if the name belongs to another data set.
    """
    known = _ENTRIES.get(entry.name)
    if known == entry:
        return
    foreign = entry.name in _OF_OTHERS or (known is None and entry.name in DatasetCatalog.list())
    if foreign or (known is not None and not known.automatic):
        where = known.annotations if known else "a data set of detectron2 or of your own"
        raise DataError(f"the data set name '{entry.name}' is taken by {where}; choose another name")
    publish(entry)


def is_registered(entry: Entry) -> bool:
    """Say whether this very entry is registered."""
    return _ENTRIES.get(entry.name) == entry


def unregister(name: str) -> None:
    """Forget a data set of ours."""
    if _ENTRIES.pop(name, None) is not None:
        _VOCABULARIES.pop(name, None)
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def ensure_registered(name: str) -> None:
    """Make `name` known if it is one of the sets that register by their name alone (see `known_sets`).

    Raises:
        DataError: for an unknown name; says where it was looked for and which variable to set.
    """
    from .known_sets import explain_unknown, resolve

    entry = _ENTRIES.get(name)
    if entry is None or entry.automatic:
        found = resolve(name)
        if found is not None and found != entry:
            publish(found)
    if name not in _ENTRIES and name not in DatasetCatalog.list():
        raise DataError(explain_unknown(name))


def _read_vocabulary(entry: Entry) -> Vocabulary:
    if entry.reader == "tsv" and (names := TsvCollection(entry.annotations).names) is not None:
        return Vocabulary.from_names(list(names))
    if entry.reader != "coco":
        kind = {"vqa": "set of questions", "captions": "set of captions"}.get(entry.reader, "grounding set")
        raise DataError(
            f"'{entry.name}' is a {kind}: what to look for stands in its texts, it has no list of names"
        )
    if entry.vocabulary is not None and entry.automatic and not entry.annotations.is_file():
        return entry.vocabulary  # a benchmark's names are known without its files
    categories = sorted_categories(read_coco(entry.annotations), entry.annotations)
    ids = {c["id"]: i for i, c in enumerate(categories)}
    _set_metadata(entry.name, thing_dataset_id_to_contiguous_id=ids)
    if entry.vocabulary is None:
        try:
            return Vocabulary.from_names([c["name"] for c in categories])
        except VocabularyError as error:
            raise DataError(
                f"the names in {entry.annotations} cannot be used ({error}); give vocabulary=[...] instead"
            ) from error
    places = [entry.vocabulary.index(c["name"]) for c in categories if c["name"] in entry.vocabulary]
    if entry.automatic and len(set(places)) == len(categories):
        return entry.vocabulary.subset(places)  # the json may hold a part of a benchmark's classes
    _check_order(entry, [c["name"] for c in categories])
    return entry.vocabulary


def _check_order(entry: Entry, names: list[str]) -> None:
    """Raise DataError unless the entry's words can stand for the json's `names`, one by one."""
    words = entry.vocabulary
    if len(words) != len(names):
        raise DataError(f"'{entry.name}': the vocabulary has {len(words)} names, the json {len(names)} categories")
    for i, name in enumerate(names):
        if names.count(name) == 1 and name in words and words.index(name) != i:
            raise DataError(
                f"'{entry.name}': '{name}' is name {words.index(name)} of the vocabulary, but {i} of the json; "
                "give the names in order of the category ids"
            )


def get_vocabulary(name: str) -> Vocabulary:
    """Return the names of a data set, in the order of its contiguous class ids.

    Raises:
        DataError: for an unknown set, or one without names.
    """
    ensure_registered(name)
    if name not in _VOCABULARIES:
        if name in _ENTRIES:
            _VOCABULARIES[name] = _read_vocabulary(_ENTRIES[name])
        else:
            names = MetadataCatalog.get(name).get("thing_classes")
            if not names:
                raise DataError(f"the data set '{name}' has no class names; register it with register_coco_folder")
            _VOCABULARIES[name] = Vocabulary.from_names(list(names))
    return _VOCABULARIES[name]


def get_records(name: str) -> list[dict]:
    """Return a data set's dicts: detectron2's, with "dataset_source" and, where there are any, "caption" and "phrases".

    Raises:
        DataError: for an unknown set, missing or damaged annotations, or file names that leave the images folder.
    """
    ensure_registered(name)
    entry = _ENTRIES.get(name)
    if entry is None:
        return [{"dataset_source": name, **record} for record in DatasetCatalog.get(name)]
    if not entry.annotations.is_file() and entry.automatic:
        raise DataError(f"data set '{name}': there is no {entry.annotations}; set {ROOT_ENV} (now '{datasets_root()}')")
    if entry.reader == "coco":
        get_vocabulary(name)
    return entry.load()
