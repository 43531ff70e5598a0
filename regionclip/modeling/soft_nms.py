"""Soft-NMS (Bodla et al. 2017, arXiv 1704.04503), without a compiled operator."""

from __future__ import annotations

import torch
from torch import Tensor

from openvocab.errors import ConfigError

METHODS = ("gaussian", "linear", "hard")


class SoftNMS:
    """Lower the scores of boxes that overlap a better one of their class, instead of dropping them.

    The best box is picked; every other box of its class has its score multiplied by exp(-IoU^2 / sigma) ("gaussian"), 1 - IoU
    where IoU is above the threshold ("linear"), or 0 there ("hard"); and so on with what is left.

    Boxes of different classes never meet. The released code moves classes apart by offsets added to the coordinates; that is the
    same but for the rounding of large offsets (an eighth of a pixel at 1203 classes), which is not copied.

    Args:
        method: "gaussian", "linear" or "hard".
        sigma: of "gaussian".
        threshold: of "linear" and "hard".
        prune: boxes whose score falls to this or below are dropped.

    Raises:
        ConfigError: for another method, or a sigma not above 0.
    """

    def __init__(self, *, method: str = "gaussian", sigma: float = 0.5, threshold: float = 0.5, prune: float = 0.001) -> None:
        if method not in METHODS:
            raise ConfigError(f"method='{method}' of soft-NMS is not one of {', '.join(METHODS)}")
        if sigma <= 0:
            raise ConfigError(f"sigma={sigma} of soft-NMS must be above 0")
        self.method, self.sigma, self.threshold, self.prune = method, sigma, threshold, prune

    def __call__(
        self, boxes: Tensor, scores: Tensor, classes: Tensor, *, most: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Suppress.

        Args:
            boxes: (N, 4) XYXY.
            scores: (N,).
            classes: (N,) integers.
            most: stop after so many picks. Exact: later picks never score higher.

        Returns:
            rows of the picked boxes in the order of picking, and their scores at that time, which never rise.
        """
        scores, rows = scores.detach().clone(), torch.arange(len(boxes), device=boxes.device)
        picked, kept = [], []
        while len(rows) and (most is None or len(picked) < most):
            best = scores.argmax()
            picked.append(rows[best])
            kept.append(scores[best])
            scores = scores * self._decay(boxes, boxes[best], classes == classes[best])
            alive = scores > self.prune
            alive[best] = False
            boxes, scores, classes, rows = boxes[alive], scores[alive], classes[alive], rows[alive]
        if not picked:
            return rows, scores
        return torch.stack(picked), torch.stack(kept)

    def _decay(self, boxes: Tensor, best: Tensor, same: Tensor) -> Tensor:
        """Factors (N,) for boxes (N, 4) beside the picked one (4,)."""
        iou = torch.where(same, overlaps(boxes, best), 0.0)
        if self.method == "gaussian":
            return torch.exp(-(iou**2) / self.sigma)
        factor = 1 - iou if self.method == "linear" else torch.zeros_like(iou)
        return torch.where(iou > self.threshold, factor, 1.0)


def overlaps(boxes: Tensor, box: Tensor) -> Tensor:
    """IoU (N,) of boxes (N, 4) with one box (4,), XYXY; 0 for a pair without area."""
    corner, other = torch.maximum(boxes[:, :2], box[:2]), torch.minimum(boxes[:, 2:], box[2:])
    inter = (other - corner).clamp(min=0).prod(dim=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    union = areas + (box[2:] - box[:2]).prod() - inter
    return torch.where(inter > 0, inter / union, 0.0)
