"""Masks of referring phrases: mean and cumulative IoU, as PhraseCut (Wu et al. 2020, arXiv 2008.01187) reports them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import IO

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from openvocab.data.annotations import decode_mask
from openvocab.errors import EvaluationError

from .gather import gather_by_files
from .keys import MASK, REFERRING, percent, protocol_kind

logger = logging.getLogger(__name__)
THRESHOLDS = (0.5, 0.7, 0.9)


class ReferringMaskEvaluator(DatasetEvaluator):
    """How well the pixels of each phrase are found, whatever the number of its instances.

    A phrase's truth is the union of its instances' masks; its prediction that of the masks of its detections. The IoU of the two is
    averaged over phrases (`mIoU`) or taken over all pixels of the set (`cIoU`, cumulative); `P@50` is the share of phrases
    with an IoU above 0.5. A phrase for which nothing is found counts with 0. PhraseCut's own code paints polygons by another
    rule, so a figure may differ from it in the digits that border pixels decide.

    Args:
        dataset_name: a registered grounding set with masks ("phrasecut_test", "refcoco_val_masks").
        records: its records, instead.
        score_threshold: weaker detections are left out of the union (ours: the papers do not say theirs).
        best_only: the best detection alone is the prediction: for sets whose phrases mean one thing (RefCOCO).
        output_dir: where processes leave their parts for rank 0 for a moment.
        distributed: gather the results of all processes; they are returned on rank 0, {} elsewhere.

    Raises:
        EvaluationError: if neither a set nor records are given, there are no phrases to evaluate, or one of them has no mask.
        DataError: for an unknown data set.
    """

    def __init__(
        self,
        dataset_name: str | None = None,
        *,
        records: Sequence[dict] | None = None,
        score_threshold: float = 0.3,
        best_only: bool = False,
        output_dir: str | None = None,
        distributed: bool = True,
    ) -> None:
        self.dataset_name = dataset_name or "records"
        self.records = _records(dataset_name) if records is None else list(records)
        self.score_threshold, self.best_only = float(score_threshold), best_only
        self.output_dir, self.distributed = output_dir, distributed
        self._places = {r["image_id"]: n for n, r in enumerate(self.records)}
        self._asked = [asked_phrases(r) for r in self.records]
        if not any(self._asked):
            raise EvaluationError(f"'{self.dataset_name}' has no phrase with a box, so there is nothing to evaluate")
        for record, asked in zip(self.records, self._asked, strict=True):
            _check_masks(record, asked, self.dataset_name)
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._rows: dict[int, list[tuple[int, int, int, int]]] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take one batch.

        Args:
            inputs: with the sentence's "image_id".
            outputs: "instances" with `scores`, `pred_classes` (places among the sentence's phrases) and `pred_masks` (N, H, W), of
                the size of the original picture.

        Raises:
            EvaluationError: for a sentence that is not in the data set, outputs without masks or of another size, or another number
                of outputs than inputs.
        """
        if len(inputs) != len(outputs):
            raise EvaluationError(f"the model returned {len(outputs)} outputs for {len(inputs)} pictures")
        for x, output in zip(inputs, outputs, strict=True):
            place = self._places.get(x["image_id"])
            if place is None:
                raise EvaluationError(f"there is no sentence with id {x['image_id']!r} in '{self.dataset_name}'")
            if place not in self._rows:
                self._rows[place] = self._compare(place, output["instances"].to("cpu"))

    def _compare(self, place: int, found: Instances) -> list[tuple[int, int, int, int]]:
        """Return (record, phrase, pixels in both, pixels in either) of each asked phrase."""
        record = self.records[place]
        size = (record["height"], record["width"])
        if not found.has("pred_masks"):
            raise EvaluationError("the model gives no masks; a GLIPv2 needs a mask_branch")
        masks, scores, classes = (found.get(k).numpy() for k in ("pred_masks", "scores", "pred_classes"))
        if masks.shape[1:] != size:
            raise EvaluationError(f"masks of {masks.shape[1:]} (height, width) for {record['image_id']!r}, whose picture is {size}")
        rows = []
        for phrase in self._asked[place]:
            chosen = np.flatnonzero((classes == phrase) & (scores >= self.score_threshold))
            if self.best_only and len(chosen):
                chosen = chosen[[scores[chosen].argmax()]]
            mine, true = masks[chosen].astype(bool).any(axis=0), true_mask(record, phrase)
            rows.append((place, phrase, int((mine & true).sum()), int((mine | true).sum())))
        return rows

    def evaluate(self) -> dict:
        """Return {"segm_referring": {"mIoU", "cIoU", "P@50", "P@70", "P@90" in percent, "phrases": how many}}; {} on ranks above 0.

        Raises:
            EvaluationError: if no sentence was processed.
        """
        table = self._gather()
        if table is None:
            return {}
        if not len(table):
            raise EvaluationError(f"no sentence of '{self.dataset_name}' was processed, so there is nothing to evaluate")
        total = sum(len(a) for a in self._asked)
        if len(table) < total:
            logger.warning("'%s' is evaluated on %d of its %d phrases", self.dataset_name, len(table), total)
        return {protocol_kind(MASK, REFERRING): summarize(table[:, 2], table[:, 3])}

    def _gather(self) -> np.ndarray | None:
        """Return the rows (P, 4) of all processes, each phrase once; None on ranks above 0. A collective call, if `distributed`."""
        mine = np.array([row for rows in self._rows.values() for row in rows], dtype=np.int64).reshape(-1, 4)
        parts = [mine]
        if self.distributed and comm.get_world_size() > 1:

            def save(file: IO) -> None:
                np.savez(file, rows=mine)

            gathered = gather_by_files(save, lambda content: content["rows"], self.output_dir)
            if gathered is None:
                return None
            parts = gathered
        rows = np.concatenate(parts)
        _, first = np.unique(rows[:, :2], axis=0, return_index=True)
        return rows[first]


def summarize(intersections: np.ndarray, unions: np.ndarray) -> dict[str, float]:
    """Return the figures for phrases whose prediction and truth share `intersections` (P,) of `unions` (P,) pixels."""
    iou = intersections / np.maximum(unions, 1)
    result = {"mIoU": percent(iou.mean()), "cIoU": percent(intersections.sum() / max(int(unions.sum()), 1))}
    result.update({f"P@{round(100 * t)}": percent((iou > t).mean()) for t in THRESHOLDS})
    return {**result, "phrases": float(len(iou))}


def asked_phrases(record: Mapping) -> list[int]:
    """Return which phrases of a grounding record are evaluated: those of "phrases_eval", or else all, where they have boxes."""
    named = {a["category_id"] for a in record["annotations"]}
    wanted = record.get("phrases_eval")
    if wanted is None:
        return sorted(named)
    spans = [sorted(tuple(s) for s in phrase) for phrase in wanted]
    return [i for i, phrase in enumerate(record["phrases"]) if i in named and sorted(tuple(s) for s in phrase) in spans]


def true_mask(record: Mapping, phrase: int) -> np.ndarray:
    """Return the pixels of a phrase's instances, (H, W) bool.

    Raises:
        DataError: for a mask that cannot be decoded.
    """
    size = (record["height"], record["width"])
    parts = [decode_mask(a["segmentation"], size) for a in record["annotations"] if a["category_id"] == phrase]
    return np.any(parts, axis=0)


def _records(name: str | None) -> list[dict]:
    from openvocab.data import get_records

    if name is None:
        raise EvaluationError("give the evaluator a dataset_name or records")
    return get_records(name)


def _check_masks(record: Mapping, asked: Sequence[int], name: str) -> None:
    if any(a["category_id"] in asked and not a.get("segmentation") for a in record["annotations"]):
        raise EvaluationError(
            f"a box of the sentence '{record['caption'][:60]}' in '{name}' has no mask; RefCOCO's masks come with "
            "'refcoco_val_masks' and the like"
        )
