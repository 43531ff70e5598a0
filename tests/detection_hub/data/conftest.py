"""Small registered sets: ConventionShapes A and B, twelve pictures each, and a json of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from detection_hub.data import HubDataset
from openvocab.data import register_coco_folder
from openvocab.data.catalog import unregister
from openvocab.testing.quick import convention_dataset

SIZES = {"min_sizes": [48, 64], "max_size": 64, "test_size": 48}


def shapes(convention: str, split: str = "train", num: int = 12) -> str:
    """Register pictures of a convention, once; return their set's name."""
    return convention_dataset(convention=convention, num=num, split=split)


def shapes_dataset(convention: str, **more: object) -> HubDataset:
    """A data set of the hub that reads them."""
    fields = {"name": convention, "train": shapes(convention), "test": shapes(convention, "val"), "flags": ["tight"], **SIZES}
    return HubDataset(**{**fields, **more})


def truth(name: str) -> dict:
    """The json of a registered set."""
    return json.loads(Path(MetadataCatalog.get(name).json_file).read_text())


@pytest.fixture
def register(tmp_path: Path) -> Callable[..., str]:
    """Write and register a json with pictures of 40 x 30 pixels; forget it afterwards."""
    made = []

    def make(name: str, boxes: list[list[tuple]], names: list[str], **more: object) -> str:
        """`boxes`: for each picture (name's place, x, y, w, h); `more`: what every image entry has besides."""
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        for i in range(len(boxes)):
            Image.new("RGB", (40, 30), (i, 90, 90)).save(folder / "images" / f"{i}.png")
        rows = [(i, box) for i, several in enumerate(boxes) for box in several]
        content = {
            "images": [{"id": i + 1, "file_name": f"{i}.png", "width": 40, "height": 30, **more} for i in range(len(boxes))],
            "annotations": [
                {"id": n + 1, "image_id": i + 1, "category_id": 10 * c + 10, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                for n, (i, (c, *box)) in enumerate(rows)
            ],
            "categories": [{"id": 10 * c + 10, "name": n, "frequency": "f"} for c, n in enumerate(names)],
        }
        (folder / "instances.json").write_text(json.dumps(content))
        register_coco_folder(name, root=folder, annotations="instances.json")
        made.append(name)
        return name

    yield make
    for name in made:
        unregister(name)
