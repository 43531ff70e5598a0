"""PhraseCut (Wu et al. 2020, arXiv 2008.01187) as its authors publish it: a phrase, its instances' boxes and polygons a task."""

from __future__ import annotations

from pathlib import Path

from detectron2.structures import BoxMode

from openvocab.errors import DataError

from .budget import BadSampleBudget
from .coco_json import check_box, read_json
from .grounding import SentenceRecord, new_sentence

IMAGE_FILES = ("image_data_split.json", "image_data_split3000.json")


def load_phrasecut_records(
    annotations: Path, images: Path, name: str, *, sizes: Path | None = None, budget: BadSampleBudget | None = None
) -> list[dict]:
    """Read `refer_<split>.json`; each task becomes a grounding dict whose one phrase is the whole sentence.

    Args:
        annotations: a list of tasks {"task_id", "image_id", "phrase", "instance_boxes": XYWH pixels each, "Polygons": for each
            instance its polygons, each a list of [x, y]}.
        images: the folder of `<image_id>.jpg`.
        name: goes into "dataset_source".
        sizes: the json with "image_id", "width" and "height" of the pictures; by default `image_data_split.json` beside the tasks.
        budget: how many broken tasks are skipped.

    Returns:
        dicts as in `grounding`; "image_id" is the task's id, "segmentation" the polygons.

    Raises:
        DataError: for an unreadable file, or too many broken tasks.
    """
    tasks = read_json(annotations)
    if not isinstance(tasks, list):
        raise DataError(f"{annotations} is no PhraseCut file: it must hold a list of tasks")
    known = _sizes(sizes or _sizes_beside(annotations))
    bad = (budget or BadSampleBudget()).counter(f"the tasks of '{name}'", len(tasks))
    records = []
    for number, task in enumerate(tasks):
        try:
            records.append(_record(task, known, images, name, annotations))
        except DataError as error:
            bad.add(str(number), f"task number {number}: {error}")
    return records


def _sizes_beside(annotations: Path) -> Path:
    places = [annotations.parent / file for file in IMAGE_FILES]
    return next((p for p in places if p.is_file()), places[0])


def _sizes(path: Path) -> dict[object, tuple[int, int]]:
    """Return {image id: (height, width)}."""
    rows = read_json(path)
    try:
        return {row["image_id"]: (row["height"], row["width"]) for row in rows}
    except (TypeError, KeyError) as error:
        raise DataError(f"{path} must be a list of pictures with 'image_id', 'height' and 'width' ({error!r})") from error


def _record(task: object, sizes: dict, images: Path, name: str, path: Path) -> dict:
    if not isinstance(task, dict):
        raise DataError(f"{task!r:.60} is no object")
    picture = task.get("image_id")
    if picture not in sizes:
        raise DataError(f"the picture {picture!r} is not in the list of pictures")
    height, width = sizes[picture]
    entry = {"file_name": f"{picture}.jpg", "height": height, "width": width}
    record = new_sentence({**entry, "id": task.get("task_id"), "caption": task.get("phrase")}, images, name, path)
    boxes, polygons = task.get("instance_boxes"), task.get("Polygons")
    if not isinstance(boxes, list) or not isinstance(polygons, list) or not boxes or len(boxes) != len(polygons):
        raise DataError(f"task {task.get('task_id')!r} does not have as many 'Polygons' as 'instance_boxes', and at least one")
    for box, parts in zip(boxes, polygons, strict=True):
        _add(record, box, parts)
    return record.finish()


def _add(record: SentenceRecord, box: object, parts: object) -> None:
    """Add an instance; one without area is left out."""
    wrong = check_box(box)
    if wrong == "empty":
        return
    if wrong:
        raise DataError(wrong)
    try:
        flat = [[float(v) for point in part for v in (point[0], point[1])] for part in parts]
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise DataError(f"the polygons {parts!r:.60} are not lists of [x, y]: {error}") from error
    usable = [part for part in flat if len(part) >= 6]
    if usable:
        record.add(((0, len(record.base["caption"])),), box, BoxMode.XYWH_ABS, mask=usable)
