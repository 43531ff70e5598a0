"""Sentences with boxes from ShapesWorld as registered grounding sets, for configs that must run in seconds."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .world import ShapesWorld
from .writer import WrittenSet, write_coco


def shapes_grounding(*, num: int, seed: int = 0, image_size: int = 128, split: str = "train") -> str:
    """Write sentences such as "a red circle and two blue squares" with boxes for their phrases, two each for `num` pictures, to a
    folder of the system's temporary ones, register them as a grounding set, and return its name.
    """
    return _registered("grounding", num, seed, image_size, split, captions=2)


def shapes_pseudo(*, num: int, seed: int = 0, image_size: int = 128, split: str = "train") -> str:
    """The same with one sentence a picture, in the form of tools/pseudo_boxes.py: true boxes, as of a teacher that never errs."""
    return _registered("pseudo", num, seed, image_size, split, captions=1)


def _registered(kind: str, num: int, seed: int, image_size: int, split: str, captions: int) -> str:
    from detectron2.data import DatasetCatalog

    from openvocab.data import register_grounding_folder

    name = f"shapes_{kind}_{split}_{num}_{seed}_{image_size}"
    if name not in DatasetCatalog.list():
        folder = Path(tempfile.mkdtemp(prefix="openvocab_shapes_"))
        kinds = {"captions": captions, "referring": 0, "questions": 0}
        written = write_coco(folder, num, seed, split=split, world=ShapesWorld(image_size=image_size), **kinds)
        file, reader = (written.files["grounding"], "mdetr") if kind == "grounding" else (_as_odvg(written), "odvg")
        register_grounding_folder(name, root=folder.resolve(), annotations=file.name, reader=reader)
    return name


def _as_odvg(written: WrittenSet) -> Path:
    from openvocab.io import atomic_write

    path = written.folder / "pseudo_boxes.jsonl"
    with atomic_write(path, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in _odvg_rows(json.loads(written.files["grounding"].read_text())))
    return path


def _odvg_rows(content: dict) -> Iterator[dict]:
    """Turn a json in MDETR's form into lines of ODVG's."""
    for image in content["images"]:
        regions = []
        for a in (a for a in content["annotations"] if a["image_id"] == image["id"]):
            x, y, w, h = a["bbox"]
            regions.append({"bbox": [x, y, x + w, y + h], "tokens_positive": a["tokens_positive"], "score": 1.0})
        row = {k: image[k] for k in ("height", "width", "id")}
        yield {**row, "filename": image["file_name"], "grounding": {"caption": image["caption"], "regions": regions}}
