"""Losses of Sparse R-CNN (arXiv 2011.12450, section 3.3): focal, L1 and GIoU after a one-to-one matching, at every stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor
from torchvision.ops import box_area, generalized_box_iou_loss, sigmoid_focal_loss

from .matcher import HungarianMatcher
from .targets import Targets

TERMS = ("loss_ce", "loss_giou", "loss_bbox")
INSIDE = 0.5  # share of a query's box inside an ignored region from which it is not judged


class Criticism(NamedTuple):
    """What the criterion says.

    Attributes:
        losses: scalars, weighted; loss_ce, loss_giou and loss_bbox of the last stage, and with _0, _1, ... of those before it.
        by_picture: (B, 3) no gradients; the sums of each picture over stages in the order of `TERMS`, not yet divided by a count.
        boxes: (B,) true boxes of each picture.
    """

    losses: dict[str, Tensor]
    by_picture: Tensor
    boxes: Tensor


class SetCriterion:
    """Match every stage by itself and add up the losses; sums over a batch are divided by its number of boxes on all processes.

    Args:
        matcher: called as `matcher(logits, boxes, targets)`.
        cls_weight, giou_weight, l1_weight: factors of the three terms.
        alpha, gamma: of the focal loss.
    """

    def __init__(
        self,
        *,
        matcher: HungarianMatcher,
        cls_weight: float = 2.0,
        giou_weight: float = 2.0,
        l1_weight: float = 5.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        self.matcher, self.alpha, self.gamma = matcher, alpha, gamma
        self.weights = (cls_weight, giou_weight, l1_weight)

    def __call__(
        self, stages: Sequence[tuple[Tensor, Tensor]], targets: Sequence[Targets], columns: Tensor | None = None
    ) -> Criticism:
        """Judge.

        Args:
            stages: (logits (B, N, C), boxes (B, N, 4) XYXY pixels) of each stage.
            targets: B.
            columns: (B, C) bool, False on padded names; None: there are none.
        """
        counts = torch.tensor([float(len(t.labels)) for t in targets], device=stages[0][0].device)
        divisor = _mean_over_processes(counts.sum()).clamp(min=1)
        part = _columns(stages[0][0], targets, columns)
        picture_weights = counts.new_tensor([t.weight for t in targets])
        losses: dict[str, Tensor] = {}
        total = torch.zeros(len(targets), 3, device=counts.device)
        for k, (logits, boxes) in enumerate(stages):
            sums = self._stage(logits.float(), boxes.float(), targets, part) * picture_weights[:, None]
            total += sums.detach()
            suffix = "" if k == len(stages) - 1 else f"_{k}"
            losses.update({f"{term}{suffix}": value for term, value in zip(TERMS, sums.sum(0) / divisor, strict=True)})
        return Criticism(losses, total, counts)

    def _stage(self, logits: Tensor, boxes: Tensor, targets: Sequence[Targets], part: Tensor | None) -> Tensor:
        """Return the weighted sums (B, 3) of one stage."""
        matches = self.matcher(logits, boxes, targets)
        truth = torch.zeros_like(logits)
        rows = []
        for i, (target, (queries, found)) in enumerate(zip(targets, matches, strict=True)):
            if target.positives is None:
                truth[i, queries, target.labels[found]] = 1
            else:
                truth[i, queries, : target.positives.shape[1]] = target.positives[found].to(truth.dtype)
            rows.append(self._boxes(boxes[i, queries], target.boxes[found], target.size))
        focal = sigmoid_focal_loss(logits, truth, self.alpha, self.gamma, reduction="none")
        if part is not None:
            focal = focal * part
        judged = _judged(boxes, targets, matches)
        if judged is not None:
            focal = focal * judged[..., None]
        sums = torch.cat([focal.flatten(1).sum(1)[:, None], torch.stack(rows)], dim=1)
        return sums * sums.new_tensor(self.weights)

    @staticmethod
    def _boxes(ours: Tensor, truth: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the sums (2,) of GIoU and L1 losses over matched boxes (K, 4)."""
        scale = ours.new_tensor([*size[::-1]] * 2)
        giou = generalized_box_iou_loss(ours, truth, reduction="sum")
        return torch.stack([giou, F.l1_loss(ours / scale, truth / scale, reduction="sum")])


def _mean_over_processes(value: Tensor) -> Tensor:
    if comm.get_world_size() == 1:
        return value
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / comm.get_world_size()


def _columns(logits: Tensor, targets: Sequence[Targets], columns: Tensor | None) -> Tensor | None:
    """(B, 1, C) float: 1 on columns that take part; None where all do."""
    if columns is None and all(t.mask is None for t in targets):
        return None
    part = torch.ones(logits.shape[0], logits.shape[2], device=logits.device)
    if columns is not None:
        part *= columns
    for row, target in zip(part, targets, strict=True):
        if target.mask is not None:
            row[: len(target.mask)] *= target.mask
    return part[:, None]


def _judged(boxes: Tensor, targets: Sequence[Targets], matches: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
    """(B, N) float: 0 on unmatched queries that lie in a region to be ignored; None where there is no such region."""
    if all(t.ignore_boxes is None for t in targets):
        return None
    judged = torch.ones(boxes.shape[:2], device=boxes.device)
    for row, found, target, (queries, _) in zip(judged, boxes.detach(), targets, matches, strict=True):
        if target.ignore_boxes is None:
            continue
        corner = torch.max(found[:, None, :2], target.ignore_boxes[None, :, :2])
        other = torch.min(found[:, None, 2:], target.ignore_boxes[None, :, 2:])
        inside = (other - corner).clamp(min=0).prod(dim=2) / box_area(found)[:, None].clamp(min=1e-6)
        row[inside.max(dim=1).values > INSIDE] = 0
        row[queries] = 1
    return judged
