"""Adaptive training sample selection (ATSS, arXiv 1912.02424, algorithm 1) on one anchor a cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor

from openvocab.errors import ConfigError


class ATSSMatcher:
    """Match anchors to boxes by the statistics of the IoUs around each box.

    Args:
        topk: candidates a level and box: the anchors whose centres are nearest to the box's.
        min_inside: a positive anchor's centre lies inside the box by more than this many pixels.
        pixel_offset: 0 for continuous boxes; 1 reads boxes as the official code does, which counts the last pixel as inside (its
            x2 is ours minus 1). It shifts centres by half a pixel against the box's edges.

    Raises:
        ConfigError: for `topk` below 1.
    """

    def __init__(self, *, topk: int = 9, min_inside: float = 0.01, pixel_offset: float = 0.0) -> None:
        if topk < 1:
            raise ConfigError(f"topk={topk}: ATSS needs at least one candidate a level")
        self.topk = topk
        self.min_inside = min_inside
        self.pixel_offset = pixel_offset

    @torch.no_grad()
    def __call__(self, anchors: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Return for each anchor the index of its box, or -1.

        Args:
            anchors: one (N_l, 4) a level, XYXY pixels.
            boxes: (M, 4) XYXY pixels of one picture; M may be 0.

        Returns:
            (sum of N_l,) int64.
        """
        flat = torch.cat(list(anchors))
        matched = flat.new_full((len(flat),), -1, dtype=torch.long)
        if len(boxes) == 0:
            return matched
        iou = pairwise_iou(Boxes(flat), Boxes(boxes))  # (N, M)
        candidate = self._candidates(anchors, boxes)  # (N, M) bool
        positive = candidate & (iou >= self._threshold(iou, candidate)) & self._inside(flat, boxes)
        best, index = iou.masked_fill(~positive, -1.0).max(dim=1)
        matched[best >= 0] = index[best >= 0]
        return matched

    def _candidates(self, anchors: Sequence[Tensor], boxes: Tensor) -> Tensor:
        box_centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        masks = []
        for level in anchors:
            centres = (level[:, :2] + level[:, 2:]) / 2
            distance = (centres[:, None] - box_centres[None]).pow(2).sum(-1).sqrt()
            nearest = distance.topk(min(self.topk, len(level)), dim=0, largest=False).indices
            masks.append(torch.zeros_like(distance, dtype=torch.bool).scatter_(0, nearest, True))
        return torch.cat(masks)

    @staticmethod
    def _threshold(iou: Tensor, candidate: Tensor) -> Tensor:
        """Mean plus (unbiased) standard deviation of the candidates' IoUs, (M,)."""
        count = candidate.sum(0)
        mean = (iou * candidate).sum(0) / count
        variance = ((iou - mean) ** 2 * candidate).sum(0) / (count - 1).clamp(min=1)
        return mean + variance.sqrt()

    def _inside(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        distances = edge_distances(anchors[:, None], boxes[None], self.pixel_offset)
        return distances.amin(-1) > self.min_inside


def edge_distances(anchors: Tensor, boxes: Tensor, pixel_offset: float = 0.0) -> Tensor:
    """Distances (..., 4) in pixels of the anchors' centres to the left, top, right and bottom edge of `boxes` (..., 4)."""
    centre = (anchors[..., :2] + anchors[..., 2:]) / 2
    half = 0.5 * pixel_offset
    return torch.cat([centre - half - boxes[..., :2], boxes[..., 2:] - half - centre], dim=-1)


def centerness_targets(anchors: Tensor, boxes: Tensor, pixel_offset: float = 0.0) -> Tensor:
    """FCOS centre-ness (arXiv 1904.01355, equation 3) of matched pairs: (K, 4) and (K, 4) XYXY pixels to (K,) in 0..1."""
    left, top, right, bottom = edge_distances(anchors, boxes, pixel_offset).clamp(min=0).unbind(-1)
    horizontal = torch.minimum(left, right) / torch.maximum(left, right).clamp(min=1e-9)
    vertical = torch.minimum(top, bottom) / torch.maximum(top, bottom).clamp(min=1e-9)
    return (horizontal * vertical).sqrt()
