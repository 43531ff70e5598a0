"""Phrase grounding on Flickr30k Entities (Plummer et al. 2015): recall of each phrase's best boxes (GLIP's protocol)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.structures import Instances
from torchvision.ops import box_iou

from openvocab.data.annotations import boxes_of
from openvocab.errors import ConfigError, EvaluationError

from .keys import ANY_BOX, MERGED_BOX, RECALL, percent, protocol_kind
from .phrases import PhraseEvaluator

NEVER = 2**31
"""In the place of a rank: no box of the phrase hits."""


class Flickr30kEvaluator(PhraseEvaluator):
    """Recall@k of phrases in sentences: how often one of the k best boxes of a phrase overlaps the truth by an IoU of 0.5.

    Both protocols are measured in one pass, by MDETR's names: "any" (one of the phrase's true boxes is a hit) and "merged" (the
    one box around all of them is the truth). Phrases without boxes do not count; a phrase for which nothing is found is a miss.
    `upper` is the recall of all boxes that the model returns. The released code also gives figures for types of phrases (people,
    animals, ...), which stand in Flickr30k Entities' own files and not in MDETR's: not here.

    Args:
        dataset_name: a registered grounding set in MDETR's form ("flickr30k_val", "flickr30k_test").
        records: its records, instead.
        topk: the numbers k.
        iou_threshold: least IoU of a hit.
        output_dir: where processes leave their parts for rank 0 for a moment.
        distributed: gather the results of all processes; they are returned on rank 0, {} elsewhere.

    Raises:
        EvaluationError: if neither a set nor records are given, or there are no phrases to evaluate.
        ConfigError: for k below 1, or a threshold outside 0..1.
        DataError: for an unknown data set.
    """

    columns = 4

    def __init__(
        self,
        dataset_name: str | None = None,
        *,
        records: Sequence[dict] | None = None,
        topk: Sequence[int] = (1, 5, 10),
        iou_threshold: float = 0.5,
        output_dir: str | None = None,
        distributed: bool = True,
    ) -> None:
        if not topk or min(topk) < 1 or not 0 < iou_threshold <= 1:
            raise ConfigError(f"topk={list(topk)} must be numbers from 1, and iou_threshold={iou_threshold} above 0 and at most 1")
        super().__init__(dataset_name, records=records, output_dir=output_dir, distributed=distributed)
        self.topk, self.iou_threshold = tuple(int(k) for k in topk), float(iou_threshold)

    def rows_of(self, place: int, found: Instances) -> list[tuple[int, ...]]:
        """Return (record, phrase, rank of the first box that hits any true box, the same for the merged box) of each asked phrase.

        Args:
            place: of the record.
            found: with `scores`, `pred_classes` and `pred_boxes` (XYXY pixels of the original picture).

        Raises:
            EvaluationError: for a class that is no phrase of the sentence, or scores and boxes that are not finite.
        """
        record = self.records[place]
        boxes, scores = found.pred_boxes.tensor.double(), found.scores.double()
        self._check(record, boxes, scores, found.pred_classes)
        order = scores.argsort(descending=True, stable=True)
        boxes, classes = boxes[order], found.pred_classes[order]
        rows = []
        for phrase in self._asked[place]:
            own = boxes[classes == phrase]
            true = torch.from_numpy(boxes_of([a for a in record["annotations"] if a["category_id"] == phrase])).double()
            merged = torch.cat([true[:, :2].amin(dim=0), true[:, 2:].amax(dim=0)])[None]
            rows.append((place, phrase, self._rank(own, true), self._rank(own, merged)))
        return rows

    def _check(self, record: dict, boxes: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor) -> None:
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < len(record["phrases"]):
            raise EvaluationError(
                f"the model gives class {int(classes.max())} for the sentence '{record['caption'][:60]}', which has "
                f"{len(record['phrases'])} phrases: were the pictures asked for their 'caption'?"
            )
        if not (torch.isfinite(boxes).all() and torch.isfinite(scores).all()):
            raise EvaluationError(
                f"a box or score for the sentence '{record['caption'][:60]}' is not finite: the model has diverged"
            )

    def _rank(self, boxes: torch.Tensor, truth: torch.Tensor) -> int:
        """Return the place of the first of the boxes (N, 4) that hits one of the true ones (M, 4), or `NEVER`."""
        hits = (box_iou(boxes, truth) >= self.iou_threshold).any(dim=1).nonzero()
        return int(hits[0]) if len(hits) else NEVER

    def summary(self, table: np.ndarray) -> dict:
        """Return {"recall_any": {"R@1", "R@5", "R@10", "upper" in percent, "phrases": how many}, "recall_merged": the same}."""
        kinds = ((ANY_BOX, table[:, 2]), (MERGED_BOX, table[:, 3]))
        return {protocol_kind(RECALL, name): self._recalls(ranks) for name, ranks in kinds}

    def _recalls(self, ranks: np.ndarray) -> dict[str, float]:
        recalls = {f"R@{k}": percent((ranks < k).mean()) for k in self.topk}
        return {**recalls, "upper": percent((ranks < NEVER).mean()), "phrases": float(len(ranks))}
