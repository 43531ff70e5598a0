"""Masks of referring phrases: mean and cumulative IoU, as PhraseCut (Wu et al. 2020, arXiv 2008.01187) reports them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from detectron2.structures import Instances

from openvocab.data.annotations import decode_mask
from openvocab.errors import EvaluationError

from .keys import MASK, REFERRING, percent, protocol_kind
from .phrases import PhraseEvaluator

THRESHOLDS = (0.5, 0.7, 0.9)


class ReferringMaskEvaluator(PhraseEvaluator):
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

    columns = 4

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
        super().__init__(dataset_name, records=records, output_dir=output_dir, distributed=distributed)
        self.score_threshold, self.best_only = float(score_threshold), best_only
        for record, asked in zip(self.records, self._asked, strict=True):
            _check_masks(record, asked, self.dataset_name)

    def rows_of(self, place: int, found: Instances) -> list[tuple[int, ...]]:
        """Return (record, phrase, pixels in both, pixels in either) of each asked phrase.

        Args:
            place: of the record.
            found: with `scores`, `pred_classes` and `pred_masks` (N, H, W), of the size of the original picture.

        Raises:
            EvaluationError: for outputs without masks or of another size.
        """
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

    def summary(self, table: np.ndarray) -> dict:
        """Return {"segm_referring": {"mIoU", "cIoU", "P@50", "P@70", "P@90" in percent, "phrases": how many}}."""
        return {protocol_kind(MASK, REFERRING): summarize(table[:, 2], table[:, 3])}


def summarize(intersections: np.ndarray, unions: np.ndarray) -> dict[str, float]:
    """Return the figures for phrases whose prediction and truth share `intersections` (P,) of `unions` (P,) pixels."""
    iou = intersections / np.maximum(unions, 1)
    result = {"mIoU": percent(iou.mean()), "cIoU": percent(intersections.sum() / max(int(unions.sum()), 1))}
    result.update({f"P@{round(100 * t)}": percent((iou > t).mean()) for t in THRESHOLDS})
    return {**result, "phrases": float(len(iou))}


def true_mask(record: Mapping, phrase: int) -> np.ndarray:
    """Return the pixels of a phrase's instances, (H, W) bool.

    Raises:
        DataError: for a mask that cannot be decoded.
    """
    size = (record["height"], record["width"])
    parts = [decode_mask(a["segmentation"], size) for a in record["annotations"] if a["category_id"] == phrase]
    return np.any(parts, axis=0)


def _check_masks(record: Mapping, asked: Sequence[int], name: str) -> None:
    if any(a["category_id"] in asked and not a.get("segmentation") for a in record["annotations"]):
        raise EvaluationError(
            f"a box of the sentence '{record['caption'][:60]}' in '{name}' has no mask; RefCOCO's masks come with "
            "'refcoco_val_masks' and the like"
        )
