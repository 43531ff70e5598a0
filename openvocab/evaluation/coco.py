"""COCO average precision as a detectron2 evaluator."""

from __future__ import annotations

import json
import logging
import math
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

from .gather import gather_by_files
from .scoring import average_precision, kinds_of
from .truth import choose_categories, find_truth, match_names

logger = logging.getLogger(__name__)
RESULTS_FILE = "coco_instances_results.json"


def to_coco_json(instances: Instances, image_id: int | str) -> list[dict]:
    """Return COCO result dicts (boxes XYWH in pixels); "category_id" is the class index, to be mapped later."""
    boxes = BoxMode.convert(instances.pred_boxes.tensor.cpu(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
    rows = [
        {"image_id": image_id, "category_id": int(c), "bbox": b, "score": float(s)}
        for b, s, c in zip(boxes, scores, classes, strict=True)
    ]
    if instances.has("pred_masks") and rows:
        for row, code in zip(rows, _run_lengths(instances.pred_masks), strict=True):
            row["segmentation"] = code
    return rows


def _run_lengths(masks: object) -> list[dict]:
    """Encode (N, H, W) bool masks, or detectron2's BitMasks, as N run-length codes that json can hold."""
    from pycocotools import mask as rle

    tensor = masks if isinstance(masks, torch.Tensor) else masks.tensor
    codes = rle.encode(np.asfortranarray(tensor.cpu().numpy().transpose(1, 2, 0).astype(np.uint8)))
    return [{"size": [int(v) for v in c["size"]], "counts": c["counts"].decode()} for c in codes]


def _usable(row: dict) -> bool:
    return math.isfinite(row["score"]) and all(math.isfinite(v) for v in row["bbox"])


class COCODetectionEvaluator(DatasetEvaluator):
    """AP of boxes, and of masks where both the predictions and the data set have them.

    Only pictures that were processed count; a warning says so if the json has more. A picture that was processed twice
    (some samplers pad the last batch) counts once.

    Args:
        dataset_name: a registered data set; gives ground truth and the names that `pred_classes` count.
        annotations: a COCO json instead of the registered one; its names in order of the category ids.
        vocabulary: what `pred_classes` count, where it differs from the data set's names. Names are matched (by name,
            prompt or alias); predictions of names that the data set does not have are left out.
        category_names: evaluate only these categories of the data set.
        output_dir: where predictions are written (coco_instances_results.json).
        distributed: gather the predictions of all processes; results are returned on rank 0, {} elsewhere.
        max_dets: best detections a picture and category that count.

    Raises:
        EvaluationError: if no name of the vocabulary is one of the data set.
        DataError: for an unknown data set, or annotations that cannot be read.
    """

    def __init__(
        self,
        dataset_name: str | None = None,
        *,
        annotations: str | Path | None = None,
        vocabulary: Vocabulary | Sequence[str] | None = None,
        category_names: Sequence[str] | None = None,
        output_dir: str | Path | None = None,
        distributed: bool = True,
        max_dets: int = 100,
    ) -> None:
        if max_dets < 1:
            raise EvaluationError(f"max_dets={max_dets} must be at least 1")
        self.dataset_name = dataset_name or str(annotations)
        self.output_dir, self.max_dets, self.distributed = output_dir, int(max_dets), distributed
        self.truth = find_truth(dataset_name, annotations)
        self.vocabulary = self.truth.vocabulary if vocabulary is None else Vocabulary.coerce(vocabulary)
        self.categories = choose_categories(self.truth, category_names)
        self._class_to_id = match_names(self.vocabulary, self.truth)
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._rows: dict[int | str, list[dict]] = {}
        self._not_finite = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take one batch of inputs ("image_id") and outputs ("instances", boxes in pixels of the original picture).

        Raises:
            EvaluationError: for a picture that is not in the annotations, a class index beyond the vocabulary, or
                another number of outputs than inputs.
        """
        if len(inputs) != len(outputs):
            raise EvaluationError(f"the model returned {len(outputs)} outputs for {len(inputs)} pictures")
        for x, output in zip(inputs, outputs, strict=True):
            image_id = x["image_id"]
            if image_id not in self.truth.image_ids:
                raise EvaluationError(
                    f"the picture with id {image_id!r} is not in {self.truth.path}; is it of another data set?"
                )
            if image_id not in self._rows:
                self._rows[image_id] = self._rows_of(output["instances"].to("cpu"), image_id)

    def _rows_of(self, instances: Instances, image_id: int | str) -> list[dict]:
        rows = to_coco_json(instances, image_id)
        highest = max((r["category_id"] for r in rows), default=-1)
        if highest >= len(self.vocabulary):
            raise EvaluationError(
                f"the model predicts class {highest}, but the evaluator of '{self.dataset_name}' has "
                f"{len(self.vocabulary)} names; give it the model's names as vocabulary="
            )
        usable = [r for r in rows if _usable(r)]
        self._not_finite += len(rows) - len(usable)
        mapped = [{**r, "category_id": self._class_to_id.get(r["category_id"])} for r in usable]
        return [r for r in mapped if r["category_id"] in self.categories]

    def evaluate(self) -> dict:
        """Return {"bbox": {AP, AP50, ..., "AP-<name>", "AP50-<name>"}, "segm": ...} in percent, nan where undefined.

        Raises:
            EvaluationError: if no picture was processed.
        """
        rows = self._gather()
        if rows is None:
            logger.info("results of '%s' are on rank 0, this is rank %d", self.dataset_name, comm.get_rank())
            return {}
        if not rows:
            raise EvaluationError(f"no picture of '{self.dataset_name}' was processed, so there is nothing to evaluate")
        if self.output_dir is not None:
            with atomic_write(Path(self.output_dir) / RESULTS_FILE, "w") as file:
                json.dump([r for group in rows.values() for r in group], file)
        self._warn(len(rows))
        images, annotations = self.truth.read(set(rows), set(self.categories))
        return {
            kind: average_precision(
                images=images,
                annotations=annotations,
                rows=rows,
                categories=self.categories,
                kind=kind,
                max_dets=self.max_dets,
            )
            for kind in kinds_of(rows, annotations)
        }

    def _gather(self) -> dict[int | str, list[dict]] | None:
        """Rows by picture of all processes; None on other ranks than 0."""
        if not self.distributed or comm.get_world_size() == 1:
            return self._rows
        parts = gather_by_files([list(self._rows.items()), self._not_finite], self.output_dir)
        if parts is None:
            return None
        self._not_finite = sum(part[1] for part in parts)
        rows: dict[int | str, list[dict]] = {}
        for part in parts:
            for image_id, group in part[0]:
                rows.setdefault(image_id, group)
        return rows

    def _warn(self, processed: int) -> None:
        if processed < len(self.truth.image_ids):
            logger.warning(
                "'%s' is evaluated on %d of its %d pictures", self.dataset_name, processed, len(self.truth.image_ids)
            )
        if self._not_finite:
            logger.warning("%d detections with NaN or infinite box or score were left out", self._not_finite)
