"""One-to-one matching of predictions and truth (DETR, arXiv 2005.12872, with Sparse R-CNN's costs)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import generalized_box_iou

from .targets import Targets

logger = logging.getLogger(__name__)
_EPS = 1e-8  # of the released code's logarithms
_WORST = 1e8  # cost of a pair that cannot be judged


class HungarianMatcher:
    """Find, for each picture, the cheapest pairs of queries and boxes; as many as there are of the fewer.

    The cost of a pair is `cls` * focal cost + `l1` * distance of XYXY / (w, h, w, h) - `giou` * GIoU in pixels.

    Args:
        cls, l1, giou: factors (2, 5, 2 in the released models).
        alpha, gamma: of the focal cost.
    """

    def __init__(
        self, *, cls: float = 2.0, l1: float = 5.0, giou: float = 2.0, alpha: float = 0.25, gamma: float = 2.0
    ) -> None:
        self.cls, self.l1, self.giou, self.alpha, self.gamma = cls, l1, giou, alpha, gamma
        self._said = False

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes: Tensor, targets: Sequence[Targets]) -> list[tuple[Tensor, Tensor]]:
        """Match.

        Args:
            logits: (B, N, C).
            boxes: (B, N, 4) XYXY pixels.
            targets: B.

        Returns:
            for each picture the matched queries (K,), ascending, and their boxes (K,), K = min(N, G), on the logits' device.
        """
        pairs = []
        for scores, found, target in zip(logits.float(), boxes.float(), targets, strict=True):
            cost = self.cost(scores, found, target)
            if not bool(torch.isfinite(cost).all()):
                self._report(found)
                cost = torch.nan_to_num(cost, nan=_WORST, posinf=_WORST, neginf=-_WORST)
            rows, columns = linear_sum_assignment(cost.cpu().numpy())
            pairs.append(tuple(torch.as_tensor(x, dtype=torch.int64, device=logits.device) for x in (rows, columns)))
        return pairs

    def cost(self, scores: Tensor, boxes: Tensor, target: Targets) -> Tensor:
        """Return the costs (N, G) of logits (N, C) and boxes (N, 4) of one picture.

        Only the columns of the picture's labels are read, so masked names take no part.
        """
        p = scores[:, target.labels].sigmoid()
        negative = (1 - self.alpha) * p**self.gamma * -(1 - p + _EPS).log()
        positive = self.alpha * (1 - p) ** self.gamma * -(p + _EPS).log()
        scale = boxes.new_tensor([*target.size[::-1]] * 2)
        distance = torch.cdist(boxes / scale, target.boxes / scale, p=1)
        return self.cls * (positive - negative) + self.l1 * distance - self.giou * generalized_box_iou(boxes, target.boxes)

    def _report(self, boxes: Tensor) -> None:
        if not self._said:
            bad = int((~torch.isfinite(boxes)).any(dim=1).sum())
            logger.warning("%d of %d predicted boxes are not finite, or their scores are: training is diverging", bad, len(boxes))
        self._said = True
