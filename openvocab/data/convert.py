"""Pascal VOC xml and YOLO txt annotations -> COCO json."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from openvocab.errors import DataError

from .image import IMAGE_SUFFIXES, upright_size
from .xml_input import read_xml


def list_images(folder: Path) -> list[Path]:
    """Return the pictures of a folder and its subfolders, sorted.

    Raises:
        DataError: if there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        raise DataError(f"there is no picture ({', '.join(sorted(IMAGE_SUFFIXES))}) in {folder}")
    return found


class _Coco:
    """Collects a COCO json."""

    def __init__(self, names: Sequence[str] | None) -> None:
        self.ids = {n: i for i, n in enumerate(names or (), start=1)}
        self.fixed, self.images, self.annotations = names is not None, [], []

    def image(self, file_name: str, width: int, height: int) -> int:
        self.images.append({"id": len(self.images) + 1, "file_name": file_name, "width": width, "height": height})
        return len(self.images)

    def category(self, name: str, where: str) -> int:
        if name not in self.ids:
            if self.fixed:
                raise DataError(f"{where}: '{name}' is not among the names {sorted(self.ids)}")
            self.ids[name] = len(self.ids) + 1
        return self.ids[name]

    def box(self, image: int, category: int, box: Iterable[float], **more: object) -> None:
        x, y, w, h = (round(float(v), 3) for v in box)
        base = {"id": len(self.annotations) + 1, "image_id": image, "category_id": category, "bbox": [x, y, w, h]}
        self.annotations.append({**base, "area": round(w * h, 3), "iscrowd": 0, **more})

    def finish(self) -> dict:
        categories = [{"id": i, "name": n} for n, i in self.ids.items()]
        if not categories:
            raise DataError("no annotation was found, so there are no categories to write")
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


def _numbers(element: Element | None, keys: Sequence[str], where: str) -> list[float]:
    try:
        values = [float(element.findtext(k)) for k in keys]
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{where}: no usable numbers {', '.join(keys)}") from error
    if not all(math.isfinite(v) for v in values):
        raise DataError(f"{where}: {', '.join(keys)} are not finite: {values}")
    return values


def voc_to_coco(
    annotations: str | Path, images: str | Path, *, names: Sequence[str] | None = None, one_based: bool = True
) -> dict:
    """Convert a folder of Pascal VOC xml files.

    Args:
        annotations: the folder of xml files, named as the pictures.
        images: the folder of pictures; ones without xml become pictures without boxes.
        names: the classes in order; None: in order of appearance.
        one_based: pixels count from 1 and xmax, ymax belong to the box, as VOC defines it; else coordinates are taken
            as they are.

    Returns:
        a COCO json's content; VOC's "difficult" is kept as a field of the annotation.

    Raises:
        DataError: for unreadable or unsafe xml, an unknown class, or an empty folder.
    """
    folder, result = Path(images), _Coco(names)
    for path in list_images(folder):
        width, height = upright_size(path)
        image = result.image(path.relative_to(folder).as_posix(), width, height)
        file = Path(annotations) / path.relative_to(folder).with_suffix(".xml")
        if file.is_file():
            _add_voc(read_xml(file), image, str(file), result, one_based)
    return result.finish()


def _add_voc(root: Element, image: int, where: str, result: _Coco, one_based: bool) -> None:
    for item in root.iter("object"):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{where}: an object has no name")
        left, top, right, bottom = _numbers(item.find("bndbox"), ("xmin", "ymin", "xmax", "ymax"), where)
        if one_based:
            left, top = left - 1, top - 1
        if right > left and bottom > top:
            more = {"difficult": 1} if (item.findtext("difficult") or "0").strip() == "1" else {}
            result.box(image, result.category(name, where), (left, top, right - left, bottom - top), **more)


def yolo_to_coco(labels: str | Path, images: str | Path, *, names: Sequence[str]) -> dict:
    """Convert a folder of YOLO txt files: a line a box, `class cx cy w h` (or a polygon `class x1 y1 x2 y2 x3 y3 ...`),
    all as shares of the picture's width and height.

    Args:
        labels: the folder of txt files, named as the pictures.
        images: the folder of pictures; ones without txt become pictures without boxes.
        names: the classes in order of their numbers.

    Raises:
        DataError: for a line of another form, an unknown class number, or an empty folder.
    """
    folder, result = Path(images), _Coco(list(names))
    for path in list_images(folder):
        width, height = upright_size(path)
        image = result.image(path.relative_to(folder).as_posix(), width, height)
        file = Path(labels) / path.relative_to(folder).with_suffix(".txt")
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
        for number, line in enumerate(lines, start=1):
            if line.strip():
                _add_yolo(line.split(), image, (width, height), f"{file}, line {number}", result)
    return result.finish()


def _add_yolo(words: list[str], image: int, size: tuple[int, int], where: str, result: _Coco) -> None:
    try:
        cls, values = int(words[0]), [float(w) for w in words[1:]]
    except ValueError as error:
        raise DataError(f"{where}: '{' '.join(words)[:80]}' is not a class number and shares") from error
    polygon = len(values) >= 6 and len(values) % 2 == 0
    if (len(values) != 4 and not polygon) or not all(math.isfinite(v) and -1 <= v <= 2 for v in values):
        raise DataError(
            f"{where}: '{' '.join(words)[:80]}' is neither 'class cx cy w h' nor a polygon, in shares of the picture"
        )
    if not 0 <= cls < len(result.ids):
        raise DataError(f"{where}: class {cls}, but there are {len(result.ids)} names")
    if polygon:
        xs, ys = [v * size[0] for v in values[::2]], [v * size[1] for v in values[1::2]]
        box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        points = [round(v, 2) for pair in zip(xs, ys, strict=True) for v in pair]
        result.box(image, cls + 1, box, segmentation=[points])
    else:
        cx, cy, w, h = (v * s for v, s in zip(values, (*size, *size), strict=True))
        result.box(image, cls + 1, (cx - w / 2, cy - h / 2, w, h))


def read_names(path: str | Path) -> list[str]:
    """Read class names: a text file with one a line, or YOLO's data.yaml (its "names").

    Raises:
        DataError: if the file is missing or holds no names.
    """
    import yaml

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        value = yaml.safe_load(text).get("names") if path.suffix in (".yaml", ".yml") else text.splitlines()
    except (OSError, UnicodeDecodeError, AttributeError, yaml.YAMLError) as error:
        raise DataError(f"the names in {path} cannot be read: {error}") from error
    if isinstance(value, dict):
        value = [value[k] for k in sorted(value)]
    names = [str(n).strip() for n in value or () if str(n).strip()]
    if not names:
        raise DataError(f"{path} holds no names")
    return names
