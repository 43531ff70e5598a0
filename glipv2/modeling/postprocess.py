"""From logits to detections: phrase scores, decoding, non-maximum suppression, as microsoft/GLIP's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import batched_nms

from openvocab.errors import ConfigError

AGGREGATES = ("mean", "max", "power")


def phrase_scores(logits: Tensor, token_map: Tensor, aggregate: str = "mean") -> Tensor:
    """Scores of phrases from the probabilities of their tokens.

    Args:
        logits: (N, T) alignment of cells and tokens.
        token_map: (P, T) bool, the tokens of each phrase; one without any has score 0.
        aggregate: over a phrase's tokens, `"mean"` (GLIP), `"max"`, or `"power"`, the geometric mean (its variant for LVIS).

    Returns:
        (N, P) in 0..1.
    """
    logits = logits.float()
    if aggregate == "max":
        prob = F.pad(logits.sigmoid(), (0, 1))  # a phrase without tokens has score 0
        return torch.stack([prob[:, F.pad(row, (0, 1), value=True)].amax(dim=1) for row in token_map], dim=1)
    weights = token_map.to(logits.dtype)
    counts = weights.sum(dim=1, keepdim=True)
    weights = (weights / counts.clamp(min=1)).t()
    if aggregate == "power":
        return (F.logsigmoid(logits) @ weights).exp() * (counts[:, 0] > 0)
    return logits.sigmoid() @ weights


class GroundingPostProcessor:
    """Turn one picture's head output into `Instances`.

    Args:
        box2box_transform: decodes deltas.
        score_threshold: of a phrase's score, before centre-ness is taken in.
        pre_nms_topk: candidates kept a level.
        nms_threshold: IoU above which the weaker of two boxes of one phrase is dropped.
        max_detections: kept over all phrases.
        aggregate: see `phrase_scores`.
        inclusive_boxes: a box ends at its last pixel where it is brought to the picture's size, as in the released code: there
            the pixel's width is added after scaling, as microsoft/GLIP's.

    Raises:
        ConfigError: for an unknown aggregate.
    """

    def __init__(
        self,
        *,
        box2box_transform: object,
        score_threshold: float = 0.05,
        pre_nms_topk: int = 1000,
        nms_threshold: float = 0.6,
        max_detections: int = 100,
        aggregate: str = "mean",
        inclusive_boxes: bool = False,
    ) -> None:
        if aggregate not in AGGREGATES:
            raise ConfigError(f"aggregate='{aggregate}' is not one of {', '.join(AGGREGATES)}")
        self.box2box_transform = box2box_transform
        self.score_threshold, self.pre_nms_topk = score_threshold, pre_nms_topk
        self.nms_threshold, self.max_detections, self.aggregate = nms_threshold, max_detections, aggregate
        self.inclusive_boxes = inclusive_boxes

    def candidates(
        self,
        anchors: Sequence[Tensor],
        deltas: Sequence[Tensor],
        centerness: Sequence[Tensor],
        logits: Sequence[Tensor],
        token_map: Tensor,
        image_size: tuple[int, int],
    ) -> Instances:
        """Return scored boxes of all levels before suppression.

        Args:
            anchors: per level (N, 4) XYXY pixels.
            deltas: per level (N, 4).
            centerness: per level (N,) logits.
            logits: per level (N, T).
            token_map: (P, T) bool.
            image_size: (height, width) of the picture without padding; boxes are clipped to it.
        """
        boxes, scores, classes = [], [], []
        for anchor, delta, centre, logit in zip(anchors, deltas, centerness, logits, strict=True):
            score = phrase_scores(logit, token_map, self.aggregate)
            keep = score > self.score_threshold
            score = (score * centre.float().sigmoid()[:, None])[keep]
            cell, phrase = keep.nonzero(as_tuple=True)
            score, order = score.topk(min(self.pre_nms_topk, len(score)))
            boxes.append(self.box2box_transform.apply_deltas(delta[cell[order]], anchor[cell[order]]))
            scores.append(score.sqrt())
            classes.append(phrase[order])
        result = Instances(image_size)
        result.pred_boxes = Boxes(torch.cat(boxes))
        result.pred_boxes.clip(image_size)
        result.scores, result.pred_classes = torch.cat(scores), torch.cat(classes)
        return result

    def proposals(
        self,
        anchors: Sequence[Tensor],
        deltas: Sequence[Tensor],
        centerness: Sequence[Tensor],
        logits: Sequence[Tensor],
        token_map: Tensor,
        image_size: tuple[int, int],
        topk: int = 100,
    ) -> tuple[Tensor, Tensor]:
        """Return the cells that any phrase likes best: boxes (M, 4) and their scores for all phrases (M, P), M <= topk a level.

        The arguments are those of `candidates`.
        """
        boxes, scores = [], []
        for anchor, delta, centre, logit in zip(anchors, deltas, centerness, logits, strict=True):
            score = phrase_scores(logit, token_map, self.aggregate) * centre.float().sigmoid()[:, None]
            best = score.amax(dim=1).topk(min(topk, len(score))).indices
            boxes.append(self.box2box_transform.apply_deltas(delta[best], anchor[best]))
            scores.append(score[best].sqrt())
        result = Boxes(torch.cat(boxes))
        result.clip(image_size)
        return result.tensor, torch.cat(scores)

    def suppress(self, candidates: Instances) -> Instances:
        """Return the best detections after suppression within each phrase, best first."""
        boxes = candidates.pred_boxes.tensor
        keep = batched_nms(boxes.float(), candidates.scores, candidates.pred_classes, self.nms_threshold)
        return candidates[keep[: self.max_detections]]
