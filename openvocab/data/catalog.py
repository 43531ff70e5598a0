"""Data sets by name: registered into detectron2's catalogs, their names kept in a table of our own.

detectron2's `MetadataCatalog` refuses to change `thing_classes` within a process, so class names never go there:
`get_vocabulary` is the way to them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from openvocab.errors import DataError, VocabularyError, nearest
from openvocab.vocabulary import Vocabulary

from .coco_json import load_coco_records, read_coco, sorted_categories
from .grounding import load_mdetr_records, load_odvg_records

ROOT_ENV = "DETECTRON2_DATASETS"
READERS: dict[str, Callable[..., list[dict]]] = {
    "coco": load_coco_records,
    "mdetr": load_mdetr_records,
    "odvg": load_odvg_records,
}


@dataclass(frozen=True)
class Entry:
    """Where a data set lies and how it is read.

    Attributes:
        name: in detectron2's catalogs.
        annotations: the json (or jsonl) file.
        images: the folder of its pictures.
        vocabulary: names in order of the sorted category ids; None: those of the json.
        captions: a COCO captions json, or None.
        reader: "coco", "mdetr" or "odvg".
        evaluator_type: for detectron2.
        automatic: found by its name, so that a change of the environment may move it.
    """

    name: str
    annotations: Path
    images: Path
    vocabulary: Vocabulary | None = None
    captions: Path | None = None
    reader: str = "coco"
    evaluator_type: str = "coco"
    automatic: bool = False

    def load(self) -> list[dict]:
        """Read the records."""
        more = {"captions": self.captions} if self.reader == "coco" else {}
        return READERS[self.reader](self.annotations, self.images, self.name, **more)


_ENTRIES: dict[str, Entry] = {}
_VOCABULARIES: dict[str, Vocabulary] = {}


def datasets_root() -> Path:
    """Return $DETECTRON2_DATASETS, read at every call, or ./datasets."""
    return Path(os.environ.get(ROOT_ENV) or "datasets").expanduser()


def publish(entry: Entry) -> None:
    """Put an entry into our table and detectron2's catalogs, in place of one of the same name."""
    old = MetadataCatalog.get(entry.name).as_dict() if entry.name in MetadataCatalog.list() else {}
    if entry.name in DatasetCatalog.list():
        DatasetCatalog.remove(entry.name)
    if old:
        MetadataCatalog.remove(entry.name)
    paths = {"json_file": str(entry.annotations), "image_root": str(entry.images)}
    old = {k: v for k, v in old.items() if k not in ("name", "evaluator_type")}
    MetadataCatalog.get(entry.name).set(**{**old, **paths}, evaluator_type=entry.evaluator_type)
    DatasetCatalog.register(entry.name, lambda: get_records(entry.name))
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
    if (known is not None and not known.automatic) or (known is None and entry.name in DatasetCatalog.list()):
        where = known.annotations if known else "a data set of detectron2 or of your own"
        raise DataError(f"the data set name '{entry.name}' is taken by {where}; choose another name")
    publish(entry)


def _as_vocabulary(value: Vocabulary | Sequence[str] | str | Path | None) -> Vocabulary | None:
    if value is None or isinstance(value, Vocabulary):
        return value
    if isinstance(value, (str, Path)):
        is_file = isinstance(value, Path) or value.endswith((".txt", ".json"))
        return Vocabulary.from_file(value) if is_file else Vocabulary.builtin(value)
    return Vocabulary.from_names(list(value))


def register_coco_folder(
    name: str,
    *,
    annotations: str | Path,
    images: str | Path = "images",
    root: str | Path | None = None,
    vocabulary: Vocabulary | Sequence[str] | str | Path | None = None,
    captions: str | Path | None = None,
) -> None:
    """Register a folder with a COCO json and pictures under `name`.

    Args:
        name: for configs and detectron2's catalogs.
        annotations: the json, below `root`.
        images: the folder of pictures, below `root`.
        root: the data set's folder; a relative one lies below $DETECTRON2_DATASETS (read now; default ./datasets).
        vocabulary: names or prompts of your own, in order of the sorted category ids: a `Vocabulary`, a list, a built-in's name,
            or a .txt/.json file. By default the names of the json.
        captions: a COCO captions json, below `root`.

    Raises:
        DataError: if the json is missing, no COCO json, does not fit the vocabulary, or the name is taken by another set.
    """
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"a data set's name must be a text, got {name!r}")
    folder = datasets_root() / Path(root or "").expanduser()
    entry = Entry(
        name=name,
        annotations=folder / annotations,
        images=folder / images,
        vocabulary=_as_vocabulary(vocabulary),
        captions=None if captions is None else folder / captions,
    )
    if _ENTRIES.get(name) == entry:
        return
    for path in (entry.annotations, entry.images, entry.captions):
        if path is not None and not path.exists():
            raise DataError(f"data set '{name}': there is no {path}; check root='{root}' and {ROOT_ENV} ('{datasets_root()}')")
    register(entry)
    try:
        get_vocabulary(name)
    except (DataError, VocabularyError):
        unregister(name)
        raise


def register_from_yaml(path: str | Path) -> list[str]:
    """Register every data set of a yaml file, one a line: `my_train: {root: my, annotations: train.json, images: images}`.

    The fields are the arguments of `register_coco_folder`. The file is read by yaml's safe loader.

    Returns:
        the names.

    Raises:
        DataError: for an unreadable file, an unknown field, or what `register_coco_folder` refuses.
    """
    import yaml

    known = ("root", "annotations", "images", "vocabulary", "captions")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"the data set list {path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise DataError(f"{path} must hold lines like 'my_train: {{root: my, annotations: train.json, images: images}}'")
    for name, fields in content.items():
        for field in fields:
            if field not in known:
                raise DataError(f"{path}: '{name}' has the unknown field '{field}'.{nearest(field, known)}")
        if "annotations" not in fields:
            raise DataError(f"{path}: '{name}' has no field 'annotations'")
        register_coco_folder(name, **fields)
    return list(content)


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
    if entry.reader != "coco":
        raise DataError(f"'{entry.name}' is a grounding set: what to look for stands in its captions, it has no list of names")
    if entry.automatic and not entry.annotations.is_file():
        names = MetadataCatalog.get(entry.name).get("thing_classes")  # detectron2 knows the names of COCO and LVIS
        if entry.vocabulary is not None or names:
            return entry.vocabulary or Vocabulary.from_names(list(names))
    categories = sorted_categories(read_coco(entry.annotations), entry.annotations)
    ids = {c["id"]: i for i, c in enumerate(categories)}
    MetadataCatalog.get(entry.name).set(thing_dataset_id_to_contiguous_id=ids)
    if entry.vocabulary is None:
        try:
            return Vocabulary.from_names([c["name"] for c in categories])
        except VocabularyError as error:
            raise DataError(f"the names in {entry.annotations} cannot be used ({error}); give vocabulary=[...] instead") from error
    if entry.automatic and all(c["name"] in entry.vocabulary for c in categories):
        return entry.vocabulary.subset([entry.vocabulary.index(c["name"]) for c in categories])
    if len(entry.vocabulary) != len(categories):
        raise DataError(f"'{entry.name}': the vocabulary has {len(entry.vocabulary)} names, the json {len(categories)} categories")
    return entry.vocabulary


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
