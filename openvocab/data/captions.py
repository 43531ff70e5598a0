"""Pictures with captions but no boxes, as a teacher takes them: COCO's json, tab-separated or json lines, GLIP's tsv files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openvocab.errors import DataError

from .coco_json import read_coco, safe_join
from .tsv import TsvCollection, captions_of

_NAME_KEYS = ("filename", "file_name", "image")


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture's file, relative to its folder, and one caption of it."""

    file_name: str
    caption: str


def read_captions(path: str | Path, images: str | Path) -> list[CaptionedPicture]:
    """Read pictures and captions, one entry a caption, in the order of the file.

    Args:
        path: a COCO captions json; a .tsv with a file name and a caption in each line (more columns are left alone); a .jsonl whose
            lines have "filename" (or "file_name", "image") and "caption"; a .yaml that names GLIP's tsv files (see `tsv`), whose
            pictures stay in their rows; or a folder, of whose .jsonl files all are read.
        images: the folder of the pictures.

    Raises:
        DataError: for a missing or unreadable file, another ending, a line that cannot be used, a file name that leaves the folder,
            or no captions at all.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"there is no file or folder with captions {path}")
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    found = [row for file in files for row in _rows(file, Path(images))]
    if not found:
        raise DataError(f"{path} holds no captions" + (" (no .jsonl files)" if not files else ""))
    for row in found:
        safe_join(Path(images), row.file_name)
    return found


def _rows(path: Path, images: Path) -> Iterator[CaptionedPicture]:
    readers = {".json": _coco, ".tsv": _tsv, ".jsonl": _json_lines}
    if path.suffix in (".yaml", ".yml"):
        return _collection(path, images)
    if path.suffix not in readers:
        raise DataError(f"captions are read from {', '.join(readers)}, .yaml files, not from {path}")
    return readers[path.suffix](path)


def _collection(path: Path, images: Path) -> Iterator[CaptionedPicture]:
    collection = TsvCollection(path)
    try:
        below = collection.folder.resolve().relative_to(images.resolve())
    except ValueError:
        raise DataError(f"the pictures of {path} stand in files beside it: their folder is {collection.folder}") from None
    for sample in collection.samples():
        if isinstance(sample, DataError):
            raise sample
        for text in captions_of(sample.label):
            yield _entry((below / sample.picture).as_posix(), text, f"row {sample.number} of {collection.labels.path}")


def _coco(path: Path) -> Iterator[CaptionedPicture]:
    content = read_coco(path)
    names = {i.get("id"): i.get("file_name") for i in content["images"] if isinstance(i, dict)}
    for number, row in enumerate(content["annotations"]):
        row = row if isinstance(row, dict) else {}
        yield _entry(names.get(row.get("image_id")), row.get("caption"), f"{path}, caption number {number}")


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}, line {number}", line.rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the captions {path} cannot be read: {error}") from error


def _tsv(path: Path) -> Iterator[CaptionedPicture]:
    for where, line in _lines(path):
        columns = line.split("\t")
        yield _entry(columns[0], columns[1] if len(columns) > 1 else None, where)


def _json_lines(path: Path) -> Iterator[CaptionedPicture]:
    for where, line in _lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is no json: {error}") from error
        row = row if isinstance(row, dict) else {}
        yield _entry(next((row[k] for k in _NAME_KEYS if k in row), None), row.get("caption"), where)


def _entry(name: object, caption: object, where: str) -> CaptionedPicture:
    if not isinstance(name, str) or not name.strip() or not isinstance(caption, str) or not caption.strip():
        raise DataError(f"{where}: the file name {name!r:.60} and the caption {caption!r:.60} must be texts that are not blank")
    return CaptionedPicture(name.strip(), " ".join(caption.split()))
