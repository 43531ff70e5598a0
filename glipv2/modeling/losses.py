"""Detection losses of GLIP: token-level focal loss, GIoU on boxes, centre-ness (arXiv 2112.03857, equation 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from openvocab.modeling.atss import centerness_targets

from .head import HeadOutput


@dataclass
class Targets:
    """The truth about one picture. M: boxes, T: tokens.

    Attributes:
        boxes: (M, 4) XYXY pixels of the network's input.
        token_map: (M, T) bool, the tokens that name each box.
        ignore_boxes: (I, 4) regions in which unmatched cells are neither right nor wrong.
    """

    boxes: Tensor
    token_map: Tensor
    ignore_boxes: Tensor | None = None


def reduce_mean(value: Tensor) -> Tensor:
    """Average a scalar over the processes."""
    if comm.get_world_size() == 1:
        return value
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / comm.get_world_size()


class GroundingCriterion:
    """Assign anchors to boxes and add up the three losses.

    Args:
        matcher: called as `matcher(anchors, boxes)`, such as `ATSSMatcher`.
        box2box_transform: decodes deltas.
        box_weight: factor of the GIoU loss (2 in GLIP).
        alpha: focal loss.
        gamma: focal loss.
        pixel_offset: 0 for continuous boxes, 1 for the official reading (see `ATSSMatcher`).
    """

    def __init__(
        self,
        *,
        matcher: object,
        box2box_transform: object,
        box_weight: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        pixel_offset: float = 0.0,
    ) -> None:
        self.matcher, self.box2box_transform = matcher, box2box_transform
        self.box_weight, self.alpha, self.gamma, self.pixel_offset = box_weight, alpha, gamma, pixel_offset

    def match(self, anchors: Sequence[Tensor], targets: Sequence[Targets]) -> list[Tensor]:
        """Return (N,) a picture: the box of each cell, or a number below 0."""
        return [self.matcher(anchors, t.boxes) for t in targets]

    def __call__(
        self,
        output: HeadOutput,
        anchors: Sequence[Tensor],
        text_mask: Tensor,
        targets: Sequence[Targets],
        matched: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return `loss_alignment`, `loss_box` and `loss_centerness`, scalars in float32.

        Args:
            output: of the head, for B pictures.
            anchors: one (N_l, 4) a level, XYXY pixels.
            text_mask: (B, T) bool, tokens that count.
            targets: B of them.
            matched: what `match` says, if it was asked already.
        """
        flat = torch.cat(list(anchors))
        matched = self.match(anchors, targets) if matched is None else list(matched)
        positives = torch.stack(matched) >= 0  # (B, N)
        num_pos = reduce_mean(positives.sum().float()).clamp(min=1.0)
        logits = torch.cat(output.alignment, dim=1)
        labels, weight = self._token_targets(logits, flat, matched, text_mask, targets)
        focal = sigmoid_focal_loss(logits.float(), labels, self.alpha, self.gamma) * weight
        losses = {"loss_alignment": focal.sum() / num_pos}
        deltas, centerness = torch.cat(output.box_deltas, dim=1), torch.cat(output.centerness, dim=1)
        truth = torch.cat([t.boxes[m[m >= 0]] for t, m in zip(targets, matched, strict=True)])
        boxes = flat.expand(len(targets), -1, -1)[positives]
        losses.update(self._box_losses(deltas[positives], centerness[positives], boxes, truth, num_pos))
        return losses

    def _token_targets(
        self, logits: Tensor, anchors: Tensor, matched: list[Tensor], text_mask: Tensor, targets: Sequence[Targets]
    ) -> tuple[Tensor, Tensor]:
        labels = torch.zeros_like(logits, dtype=torch.float32)
        weight = text_mask[:, None, :].expand(labels.shape).float()
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        for i, (index, target) in enumerate(zip(matched, targets, strict=True)):
            positive = index >= 0
            labels[i, positive, : target.token_map.shape[1]] = target.token_map[index[positive]].float()
            if target.ignore_boxes is not None and len(target.ignore_boxes):
                inside = (centres[:, None] > target.ignore_boxes[:, :2]) & (centres[:, None] < target.ignore_boxes[:, 2:])
                ignored = inside.all(-1).any(-1) & ~positive
                weight = weight.clone() if weight.stride(1) == 0 else weight
                weight[i, ignored] = 0.0
        return labels, weight

    def _box_losses(
        self, deltas: Tensor, centerness: Tensor, anchors: Tensor, truth: Tensor, num_pos: Tensor
    ) -> dict[str, Tensor]:
        if len(truth) == 0:  # every process adds the same terms, so that gradients exist on all of them
            reduce_mean(num_pos.new_zeros(()))
            return {"loss_box": deltas.sum() * 0.0, "loss_centerness": centerness.sum() * 0.0}
        aim = centerness_targets(anchors, truth, self.pixel_offset)
        total = reduce_mean(aim.sum()).clamp(min=1e-6)
        decoded = self.box2box_transform.apply_deltas(deltas, anchors)
        shrink = decoded.new_tensor([0.0, 0.0, self.pixel_offset, self.pixel_offset])
        giou = generalized_box_iou_loss(decoded - shrink, truth - shrink)
        return {
            "loss_box": self.box_weight * (giou * aim).sum() / total,
            "loss_centerness": F.binary_cross_entropy_with_logits(centerness, aim, reduction="sum") / num_pos,
        }
