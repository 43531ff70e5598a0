"""COCO average precision on faster-coco-eval, as a detectron2 evaluator."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm

from openvocab.errors import EvaluationError
from openvocab.io import atomic_write
from openvocab.vocabulary import Vocabulary

from .keys import BOX, HEADLINE, MASK, percent

logger = logging.getLogger(__name__)


def to_coco_json(instances: Instances, image_id: int) -> list[dict]:
    """Return COCO result dicts (boxes XYWH in pixels); "category_id" is the class index, to be mapped later."""
    boxes = BoxMode.convert(instances.pred_boxes.tensor.cpu(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
    rows = [
        {"image_id": image_id, "category_id": int(c), "bbox": b, "score": float(s)}
        for b, s, c in zip(boxes, scores, classes, strict=True)
    ]
    if instances.has("pred_masks"):
        from pycocotools import mask as rle

        for row, mask in zip(rows, instances.pred_masks.cpu().numpy(), strict=True):
            code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            row["segmentation"] = {**code, "counts": code["counts"].decode()}
    return rows


class COCODetectionEvaluator(DatasetEvaluator):
    """AP of boxes, and of masks where the predictions have them.

    Args:
        dataset_name: a registered data set; gives ground truth and the names that `pred_classes` count.
        annotations: a COCO json instead of the registered one.
        vocabulary: what `pred_classes` count, where it differs from the data set's names. Names are matched (by name, prompt or
            alias); predictions of names that the data set does not have are left out.
        category_names: evaluate only these categories of the data set.
        output_dir: where predictions are written (coco_instances_results.json).
        distributed: gather the predictions of all processes; results are returned on rank 0, {} elsewhere.
        max_dets: best detections a picture and category that count.

    Raises:
        EvaluationError: if no name of the vocabulary is one of the data set.
    """

    def __init__(
        self,
        dataset_name: str | None = None,
        *,
        annotations: str | Path | None = None,
        vocabulary: Vocabulary | Sequence[str] | None = None,
        category_names: Sequence[str] | None = None,
        output_dir: str | None = None,
        distributed: bool = True,
        max_dets: int = 100,
    ) -> None:
        self.dataset_name, self.output_dir, self.max_dets = dataset_name, output_dir, max_dets
        self.distributed = distributed and comm.get_world_size() > 1
        self._json, own = _truth(dataset_name, annotations)
        with open(self._json, encoding="utf-8") as file:
            categories = sorted(json.load(file)["categories"], key=lambda c: c["id"])
        self._ids = {own.names[i]: c["id"] for i, c in enumerate(categories)} if own else {c["name"]: c["id"] for c in categories}
        names = own or Vocabulary.from_names(list(self._ids))
        spoken = names if vocabulary is None else Vocabulary.coerce(vocabulary)
        self._class_to_id = _match(spoken, names, self._ids)
        chosen = names.names if category_names is None else [names.names[names.index(n)] for n in category_names]
        self._evaluated = {self._ids[n]: n for n in chosen}
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._rows: list[dict] = []
        self._images: list[int] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take one batch of inputs and the model's outputs."""
        for x, out in zip(inputs, outputs, strict=True):
            self._images.append(x["image_id"])
            for row in to_coco_json(out["instances"].to("cpu"), x["image_id"]):
                category = self._class_to_id.get(row["category_id"])
                if category in self._evaluated:
                    self._rows.append({**row, "category_id": category})

    def evaluate(self) -> dict:
        """Return {"bbox": {AP, AP50, ..., "AP-<name>", "AP50-<name>"}, "segm": ...} in percent, nan where undefined."""
        rows, images = self._rows, self._images
        if self.distributed:
            gathered = gather_by_files([rows, images])
            if gathered is None:
                logger.info("results of %s are on rank 0", self.dataset_name)
                return {}
            rows = [r for part in gathered for r in part[0]]
            images = [i for part in gathered for i in part[1]]
        if self.output_dir:
            with atomic_write(Path(self.output_dir) / "coco_instances_results.json", "w") as file:
                json.dump(rows, file)
        kinds = [BOX, MASK] if rows and all("segmentation" in r for r in rows) else [BOX]
        return {kind: self._score(rows, sorted(set(images)), kind) for kind in kinds}

    def _score(self, rows: list[dict], images: list[int], kind: str) -> dict[str, float]:
        if not rows:
            truth = self._count_truth(images)
            undefined = not any(truth.values())
            result = dict.fromkeys(HEADLINE, float("nan") if undefined else 0.0)
            for category, name in self._evaluated.items():
                value = 0.0 if truth.get(category) else float("nan")
                result[f"AP-{name}"], result[f"AP50-{name}"] = value, value
            return result
        from faster_coco_eval import COCO, COCOeval_faster

        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(self._json))
            run = COCOeval_faster(truth, truth.loadRes(rows), iouType=kind)
            run.params.imgIds, run.params.catIds = images, list(self._evaluated)
            run.params.maxDets = [1, 10, self.max_dets]
            run.evaluate()
            run.accumulate()
        precision = np.asarray(run.eval["precision"])  # (10 IoUs, 101 recalls, K, 4 areas, 3 limits)
        return self._summary(precision, run.params)

    def _summary(self, precision: np.ndarray, params: object) -> dict[str, float]:
        def ap(part: np.ndarray) -> float:
            part = part[part > -1]
            return percent(part.mean() if part.size else -1.0)

        half, three_quarters = (int(np.argmin(np.abs(np.asarray(params.iouThrs) - t))) for t in (0.5, 0.75))
        all_sizes = precision[:, :, :, 0, -1]
        result = {"AP": ap(all_sizes), "AP50": ap(all_sizes[half]), "AP75": ap(all_sizes[three_quarters])}
        result.update({f"AP{s}": ap(precision[:, :, :, i, -1]) for i, s in enumerate("sml", start=1)})
        for k, category in enumerate(params.catIds):
            name = self._evaluated[category]
            result[f"AP-{name}"] = ap(all_sizes[:, :, k])
            result[f"AP50-{name}"] = ap(all_sizes[half, :, k])
        return result

    def _count_truth(self, images: list[int]) -> dict[int, int]:
        with open(self._json, encoding="utf-8") as file:
            annotations = json.load(file).get("annotations", [])
        wanted, counts = set(images), {}
        for a in annotations:
            if a["image_id"] in wanted and not a.get("iscrowd", 0):
                counts[a["category_id"]] = counts.get(a["category_id"], 0) + 1
        return counts


def _truth(dataset_name: str | None, annotations: str | Path | None) -> tuple[Path, Vocabulary | None]:
    if annotations is not None:
        path, vocabulary = Path(annotations), None
    elif dataset_name is not None:
        from detectron2.data import MetadataCatalog

        from openvocab.data import ensure_registered, get_vocabulary

        ensure_registered(dataset_name)
        path, vocabulary = Path(MetadataCatalog.get(dataset_name).json_file), get_vocabulary(dataset_name)
    else:
        raise EvaluationError("give the evaluator a dataset_name or an annotations file")
    if not path.is_file():
        raise EvaluationError(f"there is no annotation file {path}")
    return path, vocabulary


def _match(spoken: Vocabulary, names: Vocabulary, ids: dict[str, int]) -> dict[int, int]:
    table, lost = {}, []
    for i, (name, prompt) in enumerate(zip(spoken.names, spoken.prompts, strict=True)):
        key = next((k for k in (name, prompt) if k in names), None)
        if key is None:
            lost.append(name)
        else:
            table[i] = ids[names.names[names.index(key)]]
    if not table:
        raise EvaluationError(f"none of the names {list(spoken.names[:5])} is a name of the data set {list(names.names[:5])}")
    if lost:
        logger.warning("%d names are not in the data set and are not evaluated, such as '%s'", len(lost), lost[0])
    return table


def gather_by_files(value: object) -> list | None:
    """Collect a value of every process on rank 0 through files, which takes no more memory than the values; None elsewhere."""
    folder = comm.all_gather(tempfile.mkdtemp(prefix="openvocab_eval_") if comm.is_main_process() else "")[0]
    torch.save(value, Path(folder) / f"{comm.get_rank()}.pth")
    comm.synchronize()
    if not comm.is_main_process():
        return None
    parts = []
    for rank in range(comm.get_world_size()):
        path = Path(folder) / f"{rank}.pth"
        parts.append(torch.load(path, weights_only=True))  # plain lists, dicts and numbers
        path.unlink()
    Path(folder).rmdir()
    return parts
