"""Registering folders: COCO json by one call or by one line of a yaml file, grounding and tsv files by one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openvocab.errors import DataError, VocabularyError, nearest
from openvocab.vocabulary import Vocabulary

from .catalog import ROOT_ENV, Entry, datasets_root, folder_of, get_vocabulary, is_registered, register, unregister
from .tsv import TsvCollection

GROUNDING_READERS = ("mdetr", "odvg", "phrasecut")


def _as_vocabulary(value: Vocabulary | Sequence[str] | str | Path | None, folder: Path) -> Vocabulary | None:
    if value is None or isinstance(value, Vocabulary):
        return value
    if isinstance(value, (str, Path)):
        is_file = isinstance(value, Path) or value.endswith((".txt", ".json"))
        return Vocabulary.from_file(folder / value) if is_file else Vocabulary.builtin(str(value))
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
        vocabulary: names or prompts of your own, in order of the sorted category ids: a `Vocabulary`, a list, a
            built-in's name, or a .txt/.json file below `root`. By default the names of the json.
        captions: a COCO captions json, below `root`.

    Raises:
        DataError: if the json is missing, no COCO json, does not fit the vocabulary, or the name is already taken.
    """
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"a data set's name must be a text, got {name!r}")
    folder = folder_of(root)
    entry = Entry(
        name=name,
        annotations=folder / annotations,
        images=folder / images,
        vocabulary=_as_vocabulary(vocabulary, folder),
        captions=None if captions is None else folder / captions,
    )
    if is_registered(entry):
        return
    for path in (entry.annotations, entry.images, entry.captions):
        if path is not None and not path.exists():
            raise DataError(
                f"data set '{name}': there is no {path}; check root='{root}' and {ROOT_ENV} ('{datasets_root()}')"
            )
    register(entry)
    try:
        get_vocabulary(name)
    except (DataError, VocabularyError):
        unregister(name)
        raise


def register_grounding_folder(
    name: str,
    *,
    annotations: str | Path,
    images: str | Path = "images",
    root: str | Path | None = None,
    masks: str | Path | None = None,
    reader: str = "mdetr",
) -> None:
    """Register sentences whose phrases have boxes, and maybe masks, under `name`.

    Args:
        name: for configs and detectron2's catalogs.
        annotations: the file, below `root`.
        images: the folder of pictures, below `root`.
        root: as for `register_coco_folder`.
        masks: a COCO json below `root` that lends its masks to an "mdetr" file (see `load_mdetr_records`).
        reader: "mdetr", "odvg" or "phrasecut" (GLIP's tsv files: `register_tsv_folder`).

    Raises:
        DataError: for an unknown reader, a file that is missing, or a name that is already taken.
    """
    if reader not in GROUNDING_READERS:
        hint, known = nearest(reader, GROUNDING_READERS), ", ".join(GROUNDING_READERS)
        raise DataError(f"reader='{reader}' reads no phrases with boxes.{hint} Readers: {known}; or call register_tsv_folder")
    folder = folder_of(root)
    more = {"masks": None if masks is None else folder / masks, "reader": reader}
    entry = Entry(name=name, annotations=folder / annotations, images=folder / images, **more)
    for path in (entry.annotations, entry.images, entry.masks):
        if path is not None and not path.exists():
            raise DataError(f"data set '{name}': there is no {path}; check root='{root}' and {ROOT_ENV} ('{datasets_root()}')")
    register(entry)


def register_tsv_folder(name: str, *, collection: str | Path, root: str | Path | None = None) -> None:
    """Register GLIP's tab-separated files under `name`: captions whose phrases have boxes, or, with a label map, class names.

    Args:
        name: for configs and detectron2's catalogs.
        collection: the yaml that names the files (see `tsv`), below `root`.
        root: as for `register_coco_folder`.

    Raises:
        DataError: if the yaml or a file it names is missing or cannot be used, or the name is already taken.
    """
    path = folder_of(root) / collection
    TsvCollection(path)
    register(Entry(name=name, annotations=path, images=path.parent, reader="tsv"))


def register_from_yaml(path: str | Path) -> list[str]:
    """Register every data set of a yaml file, one a line: `my_train: {root: my, annotations: train.json, images:
    images}`.

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
        raise DataError(
            f"{path} must hold lines like 'my_train: {{root: my, annotations: train.json, images: images}}'"
        )
    for name, fields in content.items():
        for field in fields:
            if field not in known:
                raise DataError(f"{path}: '{name}' has the unknown field '{field}'.{nearest(field, known)}")
        if "annotations" not in fields:
            raise DataError(f"{path}: '{name}' has no field 'annotations'")
        register_coco_folder(name, **fields)
    return list(content)
