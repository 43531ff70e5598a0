"""Data sets in GLIP's tab-separated form: pictures in base64, labels, sizes, each in a file of its own, and a yaml that names them.

    img: cc3m.img.tsv          a row a picture: key, (more columns,) base64 of the file
    label: cc3m.label.tsv      a row a sample: key, json
    hw: cc3m.hw.tsv            optional, a row a picture: key, {"height", "width"} as json, or "HEIGHT WIDTH"
    linelist: some.linelist    optional, a number a line: the rows to take, any of them several times
    imageid2idx: some.json     optional, {"img_id" of a label: row of its picture}
    labelmap: names.json       detection only: {name: number}, maybe below "label_to_idx"; or a .tsv with a name a line
                               (also as jsondict)

(microsoft/GLIP, maskrcnn_benchmark/data/datasets/tsv.py and caption.py.) A caption's label is {"caption", "img_h", "img_w",
"bboxes", "tokens_positive", "scores"}: a list of boxes with the spans and score of each (its format v1), or boxes and scores nested
by phrase (v2). A detection label is a list of {"class", "rect", maybe "conf"}, or that below "objects". Boxes are XYXY pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from detectron2.structures import BoxMode

from openvocab.errors import DataError, nearest

from .budget import BadSampleBudget
from .coco_json import read_json, safe_join
from .grounding import as_spans, has_area, new_sentence
from .scores import check_score
from .tsv_rows import TsvRows, place_of, read_row

FIELDS = ("img", "label", "hw", "linelist", "imageid2idx", "labelmap", "jsondict")


@dataclass(frozen=True)
class Sample:
    """A label row: its number, its json, and where its picture stands: an address for `read_image`, and (height, width)."""

    number: int
    label: dict | list
    picture: str
    size: tuple[int, int]


class TsvCollection:
    """The files that a yaml names, relative to it; pictures stay on the disk.

    Args:
        path: the yaml.

    Raises:
        DataError: if it cannot be read, names something unknown, or a file is missing or lies outside its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent
        fields = _read_yaml(path)
        for needed in ("img", "label"):
            if needed not in fields:
                raise DataError(f"{path} has no '{needed}'; it names {', '.join(fields) or 'nothing'}")
        self.picture_file = str(fields["img"])
        self.pictures, self.labels = (TsvRows(self._file(fields[k])) for k in ("img", "label"))
        self.sizes = TsvRows(self._file(fields["hw"])) if "hw" in fields else None
        self._lines, self._picture_rows = (fields.get(k) for k in ("linelist", "imageid2idx"))
        self._names = fields.get("labelmap", fields.get("jsondict"))

    def _file(self, name: object) -> Path:
        return Path(safe_join(self.folder, name))

    @cached_property
    def numbers(self) -> Sequence[int]:
        """The label rows to take, in order.

        Raises:
            DataError: for a line list that cannot be read.
        """
        if self._lines is None:
            return range(len(self.labels))
        try:
            return [int(line) for line in self._file(self._lines).read_text(encoding="utf-8").split()]
        except (OSError, ValueError) as error:
            raise DataError(f"the line list {self._file(self._lines)} cannot be read: {error}") from error

    @cached_property
    def names(self) -> tuple[str, ...] | None:
        """The class names in order of their numbers; None for captions.

        Raises:
            DataError: for a label map that cannot be read.
        """
        if self._names is None:
            return None
        path = self._file(self._names)
        if path.suffix == ".tsv":
            rows = TsvRows(path)
            return tuple(rows[i][0].decode("utf-8", "replace") for i in range(len(rows)))
        content = read_json(path)
        table = content.get("label_to_idx", content) if isinstance(content, dict) else None
        if not isinstance(table, dict) or not all(isinstance(v, int) for v in table.values()):
            raise DataError(f"{path} is no label map: it must be {{name: number}}")
        return tuple(sorted(table, key=table.__getitem__))

    @cached_property
    def _row_of_picture(self) -> Mapping[str, int] | None:
        if self._picture_rows is None:
            return None
        content = read_json(self._file(self._picture_rows))
        if not isinstance(content, dict):
            raise DataError(f"{self._file(self._picture_rows)} must be {{img_id: row}}")
        return content

    def samples(self) -> Iterator[Sample | DataError]:
        """Read the label rows one after the other; a damaged one comes as the error that says why."""
        with open(self.labels.path, "rb") as file:
            for number in self.numbers:
                try:
                    columns = read_row(file, self.labels.offset(number))
                    yield self._sample(number, columns)
                except DataError as error:
                    yield DataError(f"row {number} of {self.labels.path}: {error}")

    def _sample(self, number: int, columns: Sequence[bytes]) -> Sample:
        label = _as_json(columns, "label")
        if isinstance(label, list) and label and isinstance(label[0], dict) and "caption" in label[0]:
            label = label[0]
        if not isinstance(label, (dict, list)):
            raise DataError(f"the label {label!r:.60} is neither an object nor a list")
        row = self._picture_row(number, label)
        return Sample(number, label, place_of(self.picture_file, self.pictures.offset(row)), self._size(row, label))

    def _picture_row(self, number: int, label: dict | list) -> int:
        if self._row_of_picture is None:
            return number
        key = label.get("img_id") if isinstance(label, dict) else None
        row = self._row_of_picture.get(str(key))
        if not isinstance(row, int):
            raise DataError(f"img_id {key!r:.40} is not in {self._picture_rows}")
        return row

    def _size(self, row: int, label: dict | list) -> tuple[int, int]:
        """(height, width); (0, 0) where nobody says."""
        if isinstance(label, dict) and "img_h" in label:
            return label["img_h"], label.get("img_w")
        return (0, 0) if self.sizes is None else _size_of(self.sizes[row])


def _read_yaml(path: Path) -> dict:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"the list of tsv files {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold lines like 'img: cc3m.img.tsv' and 'label: cc3m.label.tsv'")
    for key in content:
        if key not in FIELDS:
            raise DataError(f"{path}: '{key}' is unknown.{nearest(key, FIELDS)} Known: {', '.join(FIELDS)}")
    return {k: v for k, v in content.items() if v is not None}


def _as_json(columns: Sequence[bytes], what: str) -> object:
    if len(columns) < 2:
        raise DataError(f"it has {len(columns)} column(s); a key and a {what} are needed")
    try:
        return json.loads(columns[1])
    except (ValueError, RecursionError) as error:
        raise DataError(f"the {what} is no json: {error}") from error


def _size_of(columns: Sequence[bytes]) -> tuple[int, int]:
    if len(columns) > 1 and len(numbers := columns[1].split()) == 2 and all(n.isdigit() for n in numbers):
        return int(numbers[0]), int(numbers[1])
    content = _as_json(columns, "size")
    content = content[0] if isinstance(content, list) and content else content
    if not isinstance(content, dict):
        raise DataError(f"the size {content!r:.60} is no {{height, width}}")
    return content.get("height"), content.get("width")


# ---- records ----------------------------------------------------------------------------------------------------------


def load_tsv_records(annotations: Path, images: Path, name: str, *, budget: BadSampleBudget | None = None) -> list[dict]:
    """Read the labels of a collection; pictures are read when they are needed, from their rows.

    Args:
        annotations: the yaml.
        images: not used: the yaml names the file of pictures.
        name: goes into "dataset_source".
        budget: how many damaged rows are skipped. Those of pictures show when they are read, and have the mapper's own budget.

    Returns:
        with a label map detectron2's dicts, else dicts as in `grounding`; "file_name" is the picture's address, "image_id" counts
        the samples. Rows without boxes have no annotations.

    Raises:
        DataError: for a collection that cannot be read, or more damaged rows than the budget allows.
    """
    collection = TsvCollection(annotations)
    classes = None if collection.names is None else {n: i for i, n in enumerate(collection.names)}
    bad = (budget or BadSampleBudget()).counter(f"the rows of '{name}'", len(collection.numbers))
    records = []
    for number, sample in enumerate(collection.samples()):
        try:
            if isinstance(sample, DataError):
                raise sample
            if classes is None:
                record = _caption_record(sample, collection, name)
            else:
                record = _box_record(sample, collection, name, classes)
            records.append({**record, "image_id": number})
        except DataError as error:
            bad.add(str(number), f"{error}" if isinstance(sample, DataError) else f"row {sample.number}: {error}")
    return records


def captions_of(label: dict | list) -> list[object]:
    """Return the texts of a label as they are: its "caption", or its list of "captions"."""
    if not isinstance(label, dict) or "caption" in label or not isinstance(label.get("captions"), list):
        return [label.get("caption") if isinstance(label, dict) else None]
    return label["captions"]


def _checked_size(sample: Sample) -> tuple[int, int]:
    if not all(isinstance(v, int) and v > 0 for v in sample.size):
        found = " x ".join(map(str, sample.size))
        raise DataError(f"its picture's size is {found} (height x width); name a file of sizes as 'hw' in the yaml")
    return sample.size


def _caption_record(sample: Sample, collection: TsvCollection, name: str) -> dict:
    height, width = _checked_size(sample)
    texts = captions_of(sample.label)  # several are joined by a blank, as in the released code
    text = texts[0] if len(texts) == 1 else " ".join(map(str, texts))
    entry = {"caption": text, "height": height, "width": width, "file_name": sample.picture}
    record = new_sentence(entry, collection.folder, name, collection.path)
    for spans, box, score in _boxes(sample.label):
        if has_area(box):
            record.add(as_spans(spans, record.base["caption"]), box, BoxMode.XYXY_ABS, score=check_score(score))
    return record.finish()


def _boxes(label: dict) -> Iterator[tuple[object, object, object]]:
    """Give (spans, box, score) of each box of a caption's label."""
    boxes, spans, scores = (label.get(k, []) for k in ("bboxes", "tokens_positive", "scores"))
    if not all(isinstance(x, list) for x in (boxes, spans, scores)):
        raise DataError("'bboxes', 'tokens_positive' and 'scores' must be lists")
    scores = scores or [None] * len(boxes)
    if not len(boxes) == len(spans) == len(scores):
        raise DataError(f"{len(spans)} phrases, {len(boxes)} boxes and {len(scores)} scores: each box needs its phrase and score")
    for of, box, score in zip(spans, boxes, scores, strict=True):
        if isinstance(box, list) and all(isinstance(b, list) for b in box):  # v2: the boxes of a phrase; it may have none
            nested = [None] * len(box) if score is None else score
            if not isinstance(nested, list) or len(nested) != len(box):
                raise DataError(f"a phrase has {len(box)} boxes and the scores {score!r:.60}")
            yield from ((of, b, s) for b, s in zip(box, nested, strict=True))
        else:
            yield of, box, score


def _box_record(sample: Sample, collection: TsvCollection, name: str, classes: Mapping[str, int]) -> dict:
    height, width = _checked_size(sample)
    objects = sample.label.get("objects", []) if isinstance(sample.label, dict) else sample.label
    annotations = []
    for thing in objects if isinstance(objects, list) else [objects]:
        label = thing.get("class") if isinstance(thing, dict) else None
        if not isinstance(label, str) or label not in classes:
            hint = f".{nearest(label, classes)}" if isinstance(label, str) else ""
            raise DataError(f"{thing!r:.80} has no class of the label map{hint}")
        if has_area(thing.get("rect")):
            row = {"bbox": thing["rect"], "bbox_mode": BoxMode.XYXY_ABS, "category_id": classes[label], "iscrowd": 0}
            score = check_score(thing.get("conf"))
            annotations.append(row if score is None else {**row, "score": score})
    file_name = safe_join(collection.folder, sample.picture)
    return {"file_name": file_name, "height": height, "width": width, "annotations": annotations, "dataset_source": name}
