"""Looking a COCO-json folder over before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from openvocab.errors import DataError, InputError, VocabularyError
from openvocab.vocabulary import Vocabulary

from .coco_json import check_box, read_coco, safe_join, sorted_categories
from .image import read_image, upright_size

TOLERANCE = 1.0
"""Pixels that a box may reach over the edge of its picture."""


@dataclass
class Report:
    """What `verify_coco` found.

    Attributes:
        images, annotations: their numbers.
        boxes: boxes of each class name.
        problems: for each kind of problem, a sentence for each case; training or evaluation would stumble over these.
        remarks: the same for what is only worth knowing.
    """

    images: int
    annotations: int
    boxes: dict[str, int]
    problems: dict[str, list[str]] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def lines(self, *, most: int = 5) -> list[str]:
        """Return the report as text, at most `most` cases of each kind."""
        result = [f"{self.images} images, {self.annotations} annotations, {len(self.boxes)} classes"]
        width = max((len(n) for n in self.boxes), default=0)
        result += [f"  {name:<{width}}  {count}" for name, count in self.boxes.items()]
        for word, kinds in (("PROBLEM", self.problems), ("remark", self.remarks)):
            for kind, cases in kinds.items():
                result.append(f"{word}: {kind}: {len(cases)}")
                result += [f"  {case}" for case in cases[:most]]
                result += [f"  and {len(cases) - most} more"] if len(cases) > most else []
        return result


class _Checker:
    def __init__(self, content: dict, images: Path, decode: bool) -> None:
        self.content, self.folder, self.decode = content, images, decode
        self.problems: dict[str, list[str]] = {}
        self.remarks: dict[str, list[str]] = {}
        self.sizes: dict[object, tuple[int, int]] = {}
        self.boxes: Counter[int] = Counter()

    def problem(self, kind: str, case: str) -> None:
        self.problems.setdefault(kind, []).append(case)

    def remark(self, kind: str, case: str) -> None:
        self.remarks.setdefault(kind, []).append(case)

    def image(self, image: object) -> None:
        if not isinstance(image, dict) or "id" not in image:
            return self.problem("image entries without id", f"{image!r:.80}")
        if image["id"] in self.sizes:
            self.problem("image ids that are there twice", f"{image['id']} ({image.get('file_name')})")
        size = (image.get("width"), image.get("height"))
        self.sizes[image["id"]] = size
        if not all(isinstance(v, int) and v > 0 for v in size):
            return self.problem("images without usable width and height", f"{image.get('file_name')}: {size}")
        try:
            path = Path(safe_join(self.folder, image.get("file_name")))
        except DataError as error:
            return self.problem("file names that leave the folder", str(error))
        if not path.is_file():
            return self.problem("missing files", str(path))
        self.file(path, size)
        return None

    def file(self, path: Path, size: tuple[int, int]) -> None:
        try:
            if self.decode:
                read_image(path, size=(size[1], size[0]))
            elif upright_size(path) != size:
                found = upright_size(path)
                turned = found[::-1] == size
                say = self.remark if turned else self.problem
                kind = (
                    "sizes as stored, before the photo is turned by EXIF"
                    if turned
                    else "sizes that differ from the file"
                )
                say(kind, f"{path}: {found[0]} x {found[1]}, the json says {size[0]} x {size[1]}")
        except InputError as error:
            self.problem("unreadable pictures, or of another size", str(error))

    def annotation(self, raw: object, known: set[object], seen: set[object]) -> None:
        if not isinstance(raw, dict):
            return self.problem("annotations that are no objects", f"{raw!r:.80}")
        label = f"annotation {raw.get('id')}"
        if "id" not in raw or raw["id"] in seen:
            self.problem("annotation ids that are missing or there twice", label)
        seen.add(raw.get("id"))
        if raw.get("category_id") not in known:
            return self.problem("unknown categories", f"{label}: category {raw.get('category_id')!r}")
        if raw.get("image_id") not in self.sizes:
            return self.problem("annotations of unknown images", f"{label}: image {raw.get('image_id')!r}")
        wrong = check_box(raw.get("bbox"))
        if wrong == "empty":
            return self.remark("boxes without area (left out in training)", f"{label}: {raw['bbox']}")
        if wrong:
            return self.problem("unusable boxes", f"{label}: {wrong}")
        self.boxes[raw["category_id"]] += 1
        return self.inside(raw["bbox"], self.sizes[raw["image_id"]], label)

    def inside(self, box: list[float], size: tuple[int, int], label: str) -> None:
        x, y, w, h = box
        width, height = (v if isinstance(v, int) else 0 for v in size)
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            self.problem("boxes wholly outside their picture", f"{label}: {box} in {width} x {height}")
        elif min(x, y) < -TOLERANCE or x + w > width + TOLERANCE or y + h > height + TOLERANCE:
            self.remark("boxes that reach over the edge (clipped in training)", f"{label}: {box} in {width} x {height}")


def verify_coco(annotations: str | Path, images: str | Path, *, decode: bool = False) -> Report:
    """Check a COCO json against its pictures.

    Args:
        annotations: the json.
        images: the folder of pictures.
        decode: read every picture in full (finds photos that are cut short); else only the headers.

    Raises:
        DataError: if the file is no COCO json at all.
    """
    annotations = Path(annotations)
    content = read_coco(annotations)
    categories = sorted_categories(content, annotations)
    checker = _Checker(content, Path(images), decode)
    for image in content["images"]:
        checker.image(image)
    seen: set[object] = set()
    for raw in content["annotations"]:
        checker.annotation(raw, {c["id"] for c in categories}, seen)
    try:
        Vocabulary.from_names([c["name"] for c in categories])
    except VocabularyError as error:
        checker.problem("names that cannot form a vocabulary (give vocabulary=[...] when registering)", str(error))
    empty = [
        str(i)
        for i in checker.sizes
        if i not in {a.get("image_id") for a in content["annotations"] if isinstance(a, dict)}
    ]
    if empty:
        checker.remarks["images without annotations (not trained on)"] = empty
    boxes = {str(c["name"]): checker.boxes[c["id"]] for c in categories}
    return Report(len(content["images"]), len(content["annotations"]), boxes, checker.problems, checker.remarks)
