"""COCO-style json files -> detectron2's list of dicts, with every record checked."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path, PureWindowsPath
from typing import Any

from detectron2.structures import BoxMode

from openvocab.errors import DataError

from .budget import BadCounter, BadSampleBudget

logger = logging.getLogger(__name__)


def read_json(path: Path) -> Any:
    """Read a json file.

    Raises:
        DataError: if it is missing, unreadable, or no json.
    """
    if not path.is_file():
        raise DataError(f"there is no annotation file {path}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"the annotation file {path} cannot be read: {error}") from error
    except ValueError as error:
        raise DataError(f"the annotation file {path} is no json: {error}") from error


def read_coco(path: Path) -> dict:
    """Read a COCO json and check that its lists are there.

    Raises:
        DataError: as `read_json`, or if "images" is no list.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{path} is no COCO json: it has no list 'images'")
    for key in ("annotations", "categories"):
        if not isinstance(content.setdefault(key, []), list):
            raise DataError(f"{path} is no COCO json: '{key}' is no list")
    return content


def sorted_categories(content: dict, path: Path) -> list[dict]:
    """Return the categories in order of their ids, which is the order of the contiguous ids.

    Raises:
        DataError: for a category without id or name, or an id that is there twice.
    """
    seen: dict[int, str] = {}
    for category in content["categories"]:
        if not isinstance(category, dict) or not isinstance(category.get("id"), int) or "name" not in category:
            raise DataError(f"{path}: the category {category!r:.80} has no integer 'id' or no 'name'")
        if category["id"] in seen:
            raise DataError(
                f"{path}: category id {category['id']} is there twice ('{seen[category['id']]}', '{category['name']}')"
            )
        seen[category["id"]] = category["name"]
    return sorted(content["categories"], key=lambda c: c["id"])


def safe_join(folder: Path, name: object) -> str:
    """Join a picture's name to its folder.

    Raises:
        DataError: if the name is no string, absolute, or leaves the folder through "..".
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise DataError(f"file_name {name!r} is no file name")
    windows = PureWindowsPath(name)
    if name.startswith(("/", "\\")) or windows.drive:
        raise DataError(f"file_name '{name}' is absolute; it must be relative to the images folder {folder}")
    depth = 0
    for part in windows.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise DataError(f"file_name '{name}' leaves the images folder {folder}")
    return str(folder / name)


def _image_name(image: dict) -> object:
    if "file_name" not in image and isinstance(image.get("coco_url"), str):
        return "/".join(image["coco_url"].split("/")[-2:])  # LVIS: "train2017/000000391895.jpg"
    return image.get("file_name")


def image_record(image: object, folder: Path, name: str, path: Path) -> dict:
    """Return a picture's entry as a detectron2 dict without annotations.

    Raises:
        DataError: if its file name, id or size cannot be used; `path` is named as the file it comes from.
    """
    if not isinstance(image, dict):
        raise DataError(f"{path}: the image entry {image!r:.80} is no object")
    file_name = safe_join(folder, _image_name(image))
    sizes = image.get("height"), image.get("width")
    if not all(isinstance(v, int) and v > 0 for v in sizes) or not isinstance(image.get("id"), (int, str)):
        raise DataError(
            f"{path}: the image '{image.get('file_name')}' has no usable id, height or width: {image!r:.160}"
        )
    record = {"file_name": file_name, "height": sizes[0], "width": sizes[1], "image_id": image["id"], "annotations": []}
    for key in ("pos_category_ids", "neg_category_ids", "not_exhaustive_category_ids"):
        if key in image:
            record[key] = image[key]
    return {**record, "dataset_source": name}


def check_box(box: object) -> str | None:
    """Say what is wrong with an XYWH box in pixels: None when nothing is, "empty" when it has no area."""
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return f"bbox {box!r:.60} is not four numbers"
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in box):
        return f"bbox {box!r:.60} is not four finite numbers"
    return "empty" if box[2] <= 0 or box[3] <= 0 else None


def _annotation(raw: object, records: dict, position: dict[int, int]) -> tuple[dict | None, str | None]:
    """Return (annotation, None), (None, reason) for a bad one, or (None, "empty")."""
    if not isinstance(raw, dict):
        return None, f"{raw!r:.60} is no object"
    if raw.get("image_id") not in records:
        return None, f"image_id {raw.get('image_id')!r:.40} is not among the images"
    if raw.get("category_id") not in position:
        return None, f"category_id {raw.get('category_id')!r:.40} is not among the categories"
    wrong = check_box(raw.get("bbox"))
    if wrong:
        return None, wrong
    result = {
        "bbox": raw["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": position[raw["category_id"]],
        "iscrowd": int(bool(raw.get("iscrowd", 0))),
    }
    if raw.get("segmentation"):
        result["segmentation"] = raw["segmentation"]
    return result, None


def _attach(content: dict, records: dict, position: dict[int, int], bad: BadCounter) -> None:
    empty = 0
    for number, raw in enumerate(content["annotations"]):
        annotation, wrong = _annotation(raw, records, position)
        if annotation is not None:
            records[raw["image_id"]]["annotations"].append(annotation)
        elif wrong == "empty":
            empty += 1
        else:
            bad.add(
                str(number),
                f"annotation {raw.get('id', f'number {number}') if isinstance(raw, dict) else number}: {wrong}",
            )
    if empty:
        logger.info("%s: %d boxes without area left out", bad.what, empty)


def _attach_captions(path: Path, records: dict) -> None:
    for raw in read_coco(path)["annotations"]:
        record = records.get(raw.get("image_id"))
        if record is not None and isinstance(raw.get("caption"), str) and raw["caption"].strip():
            record.setdefault("captions", []).append(" ".join(raw["caption"].split()))
    for record in records.values():
        if "captions" in record:
            record["caption"] = record["captions"][0]


def load_coco_records(
    annotations: Path, images: Path, name: str, *, captions: Path | None = None, budget: BadSampleBudget | None = None
) -> list[dict]:
    """Read a COCO (or LVIS) json into detectron2's standard dicts.

    Args:
        annotations: the json with boxes.
        images: the folder its file names are relative to.
        name: goes into "dataset_source".
        captions: a COCO captions json; its texts become "captions" (list) and "caption" (the first).
        budget: how many broken annotations are skipped; boxes without area are left out without being counted.

    Returns:
        dicts with "annotations" in XYWH pixels and contiguous "category_id" (positions in the sorted category ids).

    Raises:
        DataError: for an unreadable file, a picture's name that leaves its folder, an image without id or size, an
        image id that
            is there twice, or more broken annotations than the budget allows.
    """
    content = read_coco(annotations)
    position = {c["id"]: i for i, c in enumerate(sorted_categories(content, annotations))}
    records: dict[int | str, dict] = {}
    for image in content["images"]:
        record = image_record(image, images, name, annotations)
        if record["image_id"] in records:
            raise DataError(f"{annotations}: image id {record['image_id']} is there twice")
        records[record["image_id"]] = record
    bad = (budget or BadSampleBudget()).counter(f"the annotations of '{name}'", len(content["annotations"]))
    _attach(content, records, position, bad)
    if captions is not None:
        _attach_captions(captions, records)
    return list(records.values())
