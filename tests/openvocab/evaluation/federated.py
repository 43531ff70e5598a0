"""Random federated worlds, and the official answers to them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as rle

from openvocab.evaluation.lvis_api import lvis_api

SIDE = 120
FREQUENCIES = {2: "r", 5: "c", 9: "f", 11: "f", 14: "r"}
NAMES = {c: f"thing_{c}" for c in FREQUENCIES}


def make_lvis(seed: int, *, images: int, most: int, levels: int, masks: bool) -> tuple[dict, dict[int, list[dict]]]:
    """An LVIS json, and detections of each picture: {"class", "box" (XYXY float32), "score", "mask"}.

    `levels` scores only, so that many are equal. Category 14 is never annotated.
    """
    rng = np.random.default_rng(seed)
    ids = [int(i) for i in rng.permutation(500)[:images] + 1]
    categories = list(FREQUENCIES)
    pictures, annotations, found = [], [], {}
    for image in ids:
        shown = [int(c) for c in rng.permutation(categories[:-1])[: rng.integers(0, 4)]]
        absent = [int(c) for c in rng.permutation([c for c in categories if c not in shown])[: rng.integers(0, 3)]]
        loose = [c for c in shown if rng.random() < 0.4] + [c for c in categories if c not in shown and rng.random() < 0.1]
        pictures.append(
            {"id": image, "height": SIDE, "width": SIDE, "neg_category_ids": absent, "not_exhaustive_category_ids": loose}
        )
        near = []
        for category in shown:
            for _ in range(rng.integers(1, 4)):
                x, y = (float(v) for v in rng.integers(0, 60, 2))
                w, h = (float(v) for v in rng.choice([6, 20, 40, 100], 2))
                corners = [x, y, x + w, y, x + w, y + h, x, y + h]
                area = w * h * float(rng.choice([0.5, 1.0, 1.0, 0.0] if rng.random() < 0.1 else [0.5, 1.0]))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image,
                        "category_id": category,
                        "bbox": [x, y, w, h],
                        "area": area,
                        "segmentation": [corners],
                    }
                )
                near.append((category, (x, y, x + w, y + h)))
        found[image] = [_detection(rng, near, levels, masks) for _ in range(rng.integers(0, most))]
    rows = [{"id": c, "name": NAMES[c], "frequency": f} for c, f in FREQUENCIES.items()]
    return {"images": pictures, "annotations": annotations, "categories": rows}, found


def _detection(rng: np.random.Generator, near: list, levels: int, masks: bool) -> dict:
    category, box = near[rng.integers(len(near))] if near and rng.random() < 0.8 else (5, (10.0, 10.0, 40.0, 40.0))
    if rng.random() < 0.2:
        category = int(rng.choice(list(FREQUENCIES)))
    box = np.clip(np.asarray(box) + rng.normal(0, 4, 4).round(1), 0, SIDE).astype(np.float32)
    box[2:] = np.maximum(box[2:], box[:2])  # now and then without area
    score = np.float32(rng.integers(1, levels + 1) / (levels + 1))
    row = {"class": list(FREQUENCIES).index(category), "box": box, "score": score}
    if masks:
        row["mask"] = np.zeros((SIDE, SIDE), bool)
        x1, y1, x2, y2 = box.astype(int)
        row["mask"][y1:y2, x1:x2] = rng.random((max(y2 - y1, 0), max(x2 - x1, 0))) < 0.8
    return row


def to_batch(found: dict[int, list[dict]]) -> tuple[list[dict], list[dict]]:
    """Inputs and outputs of a model."""
    outputs = []
    for group in found.values():
        instances = Instances((SIDE, SIDE))
        instances.pred_boxes = Boxes(torch.tensor(np.array([r["box"] for r in group]).reshape(-1, 4)))
        instances.scores = torch.tensor([float(r["score"]) for r in group])
        instances.pred_classes = torch.tensor([r["class"] for r in group], dtype=torch.int64)
        if any("mask" in r for r in group):
            instances.pred_masks = torch.tensor(np.array([r["mask"] for r in group]))
        outputs.append({"instances": instances})
    return [{"image_id": i} for i in found], outputs


def to_results(found: dict[int, list[dict]], kind: str) -> list[dict]:
    """COCO's result dicts, as detectron2's LVIS evaluator hands them to lvis-api."""
    rows = []
    for image in sorted(found):
        for r in found[image]:
            x1, y1, x2, y2 = r["box"]
            row = {"image_id": image, "category_id": list(FREQUENCIES)[r["class"]], "score": float(r["score"])}
            if kind == "bbox":
                row["bbox"] = [float(v) for v in (x1, y1, x2 - x1, y2 - y1)]
            else:
                row["segmentation"] = rle.encode(np.asfortranarray(r["mask"].astype(np.uint8)))
            rows.append(row)
    return rows


def official(content: dict, rows: list[dict], kind: str, folder: Path, *, max_dets: int = 300) -> dict[str, float]:
    """What lvis-api says, in percent, nan for its -1; read from a file, as its users do."""
    path = folder / "official.json"
    path.write_text(json.dumps(content))
    with lvis_api() as api:
        truth = api.LVIS(str(path))
        run = api.LVISEval(truth, api.LVISResults(truth, rows, max_dets=max_dets), iou_type=kind)
        run.run()
    return {k: 100 * float(v) if v > -1 else float("nan") for k, v in run.get_results().items() if k.startswith("AP")}
