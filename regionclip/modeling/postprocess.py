"""From class probabilities of proposals to detections: score fusion, threshold, NMS (microsoft/RegionCLIP)."""

from __future__ import annotations

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor

from openvocab.errors import ConfigError

from .soft_nms import SoftNMS

FUSIONS = ("none", "sqrt_logit", "sqrt_sigmoid")
REPORTS = ("fused", "class")


class RegionPostProcessor:
    """Choose detections among N proposals of one picture, each with probabilities of K names and background.

    Args:
        score_fusion: "none"; "sqrt_logit", as released: sqrt(p r) with the RPN's raw logit r, so that scores can pass 1 and a
            proposal with a negative logit drops out; "sqrt_sigmoid", ours: sqrt(p sigmoid(r)), a score of 0..1 for each.
        score_threshold: on the fused score. 0.001 for COCO, 0.02 for LVIS.
        nms_threshold: IoU, by class, of hard NMS.
        soft_nms: in its place.
        max_detections: most a picture. 100 for COCO, 300 for LVIS.
        report: "fused", or "class": the scores given out are the probabilities before fusion, the order is still that of fused
            scores (official `VIS`; soft-NMS gives fused scores out all the same, as there).

    Raises:
        ConfigError: for an unknown fusion or report.
    """

    def __init__(
        self,
        *,
        score_fusion: str = "none",
        score_threshold: float = 0.001,
        nms_threshold: float = 0.5,
        soft_nms: SoftNMS | None = None,
        max_detections: int = 100,
        report: str = "fused",
    ) -> None:
        if score_fusion not in FUSIONS:
            raise ConfigError(f"score_fusion='{score_fusion}' is not one of {', '.join(FUSIONS)}")
        if report not in REPORTS:
            raise ConfigError(f"report='{report}' is not one of {', '.join(REPORTS)}")
        self.score_fusion, self.score_threshold, self.nms_threshold = score_fusion, score_threshold, nms_threshold
        self.soft_nms, self.max_detections, self.report = soft_nms, max_detections, report

    def fuse(self, probs: Tensor, objectness: Tensor | None) -> Tensor:
        """Return the fused scores (N, K + 1); not finite where the official form takes the root of a negative number.

        Raises:
            ConfigError: if a fusion is on and the proposals have no objectness.
        """
        if self.score_fusion == "none":
            return probs
        if objectness is None:
            raise ConfigError(
                f"score_fusion='{self.score_fusion}' multiplies with the RPN's score, and these boxes have none (no "
                "'objectness_logits': ground truth or given boxes); set score_fusion='none'"
            )
        r = objectness.to(probs).view(-1, 1)
        return (probs * (r if self.score_fusion == "sqrt_logit" else r.sigmoid())).sqrt()

    def __call__(
        self, boxes: Tensor, probs: Tensor, objectness: Tensor | None, image_size: tuple[int, int]
    ) -> tuple[Instances, Tensor]:
        """Choose.

        Args:
            boxes: (N, 4) XYXY pixels, one a proposal whatever the name.
            probs: (N, K + 1), background last.
            objectness: (N,) the RPN's logits, or None.
            image_size: (height, width), to which boxes are cut.

        Returns:
            Instances with `pred_boxes`, `scores`, `pred_classes`, best first; and the row of each in `boxes`.

        Raises:
            ConfigError: see `fuse`.
        """
        fused = self.fuse(probs, objectness)
        rows = torch.nonzero(torch.isfinite(boxes).all(dim=1) & torch.isfinite(fused).all(dim=1)).flatten()
        clipped = Boxes(boxes[rows].clone())
        clipped.clip(image_size)
        places, classes = torch.nonzero(fused[rows, :-1] > self.score_threshold, as_tuple=True)
        candidates, scores = clipped.tensor[places], fused[rows[places], classes]
        keep, scores = self._suppress(candidates, scores, probs[rows[places], classes], classes)
        found = Instances(image_size, pred_boxes=Boxes(candidates[keep]), scores=scores, pred_classes=classes[keep])
        return found, rows[places[keep]]

    def _suppress(self, boxes: Tensor, scores: Tensor, probs: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Rows that stay, best first, and the scores to report."""
        if self.soft_nms is not None:
            return self.soft_nms(boxes, scores, classes, most=self.max_detections)
        keep = batched_nms(boxes, scores, classes, self.nms_threshold)[: self.max_detections]
        return keep, (probs if self.report == "class" else scores)[keep]
