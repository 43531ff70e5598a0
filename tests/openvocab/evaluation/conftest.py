"""A tiny data set: four pictures, three categories with spread ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances

IDS = {"cat": 11, "red_car": 3, "dog": 7}  # by id: red_car, dog, cat
ORDER = ["red_car", "dog", "cat"]
TRUTH = {1: [("cat", (10, 10, 50, 60))], 2: [("dog", (5, 5, 40, 90)), ("cat", (60, 10, 99, 80))], 3: [], 4: []}


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """A COCO json of `TRUTH`."""
    rows = [(image, name, box) for image, group in TRUTH.items() for name, box in group]
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 100} for i in TRUTH],
        "categories": [{"id": v, "name": k} for k, v in IDS.items()],
        "annotations": [
            {
                "id": n,
                "image_id": image,
                "category_id": IDS[name],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
            }
            for n, (image, name, (x1, y1, x2, y2)) in enumerate(rows, start=1)
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


def output(found: list[tuple[int, tuple, float]], *, masks: bool = False) -> dict:
    """A model's output: (class index, XYXY box, score) each."""
    instances = Instances((100, 100))
    instances.pred_boxes = Boxes(torch.tensor([f[1] for f in found], dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor([f[2] for f in found], dtype=torch.float32)
    instances.pred_classes = torch.tensor([f[0] for f in found], dtype=torch.int64)
    if masks:
        instances.pred_masks = torch.zeros(len(found), 100, 100, dtype=torch.bool)
        for mask, (_, (x1, y1, x2, y2), _) in zip(instances.pred_masks, found, strict=True):
            mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    return {"instances": instances}


@pytest.fixture
def perfect() -> Callable[..., tuple[list[dict], list[dict]]]:
    """Inputs and outputs that find everything; `order`: what the model calls its classes."""

    def make(order: list[str] = ORDER, **more: bool) -> tuple[list[dict], list[dict]]:
        outputs = [
            output([(order.index(n), b, 0.9) for n, b in group if n in order], **more) for group in TRUTH.values()
        ]
        return [{"image_id": i} for i in TRUTH], outputs

    return make
