"""Boxes with scores, such as a teacher's: which of them are good enough to learn from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torchvision.ops import nms

from openvocab.errors import ConfigError, DataError

from .annotations import boxes_of


def check_score(value: object) -> float | None:
    """Return a box's score; None where it has none.

    Raises:
        DataError: for anything but a number from 0 to 1.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 <= value <= 1:
        raise DataError(f"the score {value!r:.40} is no number from 0 to 1")
    return float(value)


class ScoredBoxes:
    """Keep the boxes a teacher is sure of; give it to a source as `TrainSource(select=ScoredBoxes(min_score=0.5))`.

    GLIP's choice among the boxes of its caption data (microsoft/GLIP; its GLIP-L: above 0.5, no suppression, one box or more).
    Boxes without a score, which people drew, are kept. Phrases that lose all their boxes are no phrases any more, but stay words
    of the sentence; records with too few boxes left are dropped.

    Args:
        min_score: boxes of this score or less are left out.
        nms_threshold: IoU above which only the better of two boxes of a record is kept, whatever their phrases (as the released
            code does); None: no suppression.
        min_boxes: fewest boxes of a record.

    Raises:
        ConfigError: for a score or an IoU outside 0..1, or less than one box.
    """

    def __init__(self, *, min_score: float = 0.5, nms_threshold: float | None = None, min_boxes: int = 1) -> None:
        if not 0 <= min_score < 1 or (nms_threshold is not None and not 0 < nms_threshold <= 1) or min_boxes < 1:
            raise ConfigError(
                f"min_score={min_score} must be from 0 to below 1, nms_threshold={nms_threshold} above 0 to 1 or null, "
                f"min_boxes={min_boxes} at least 1"
            )
        self.min_score, self.nms_threshold, self.min_boxes = float(min_score), nms_threshold, int(min_boxes)

    def __call__(self, records: Sequence[dict]) -> list[dict]:
        """Return the records that are left, in their order; those that were given stay as they are.

        Raises:
            DataError: if none is left.
        """
        chosen = [r for r in map(self._choose, records) if len(r["annotations"]) >= self.min_boxes]
        if records and not chosen:
            wanted = f"{self.min_boxes} box(es) with a score above {self.min_score}"
            raise DataError(f"none of the {len(records)} records has {wanted}; lower min_score")
        return chosen

    def _choose(self, record: dict) -> dict:
        given = record.get("annotations", [])
        kept = [a for a in given if a.get("score") is None or a["score"] > self.min_score]
        if self.nms_threshold is not None and kept:
            kept = self._suppressed(kept)
        if len(kept) == len(given) or "phrases" not in record:
            return {**record, "annotations": kept}
        used = sorted({a["category_id"] for a in kept})
        place = {phrase: i for i, phrase in enumerate(used)}
        annotations = [{**a, "category_id": place[a["category_id"]]} for a in kept]
        return {**record, "annotations": annotations, "phrases": [record["phrases"][p] for p in used]}

    def _suppressed(self, annotations: list[dict]) -> list[dict]:
        scores = np.array([1.0 if a.get("score") is None else a["score"] for a in annotations])
        keep = nms(torch.from_numpy(boxes_of(annotations)), torch.from_numpy(scores), self.nms_threshold)
        return [annotations[i] for i in sorted(keep.tolist())]
