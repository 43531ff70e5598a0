"""The truth about a picture, as losses and matcher read it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openvocab.errors import DataError

from .labels import LabelSpace, positive_rows, taking_part


@dataclass
class Targets:
    """The truth about one picture. G: boxes, C: columns of the picture's logits.

    Attributes:
        boxes: (G, 4) XYXY pixels of the network's input.
        labels: (G,) columns.
        size: (H, W) of the picture in the network's input, without padding.
        positives: (G, C) bool, all columns that are true of a box; None: `labels` alone.
        mask: (C,) bool, columns that take part in the loss; None: all.
        ignore_boxes: (I, 4) regions in which an unmatched query is neither right nor wrong.
        weight: of the picture's losses.
    """

    boxes: Tensor
    labels: Tensor
    size: tuple[int, int]
    positives: Tensor | None = None
    mask: Tensor | None = None
    ignore_boxes: Tensor | None = None
    weight: float = 1.0


def read_target(x: dict, space: LabelSpace, device: torch.device) -> Targets:
    """Read what an input dict says of its picture.

    Args:
        x: with "instances" (gt_boxes, gt_classes: places in `space.vocabulary`); optional "ignore_boxes" (I, 4),
            "negative_classes" and "positive_classes" (places of names that were checked in the picture and are absent, or present
            somewhere), and "label_mask" (C,) bool in place of what the data set's label policy gives.
        space: what the picture's labels mean.

    Raises:
        DataError: for labels outside the taxonomy, or boxes that are not finite or end before they begin; names the file.
    """
    truth = x["instances"]
    boxes = truth.gt_boxes.tensor.to(device, torch.float32)
    labels = truth.gt_classes.to(device, torch.int64)
    where = f"{x.get('file_name', 'a picture')} of '{space.name}'"
    count = len(space.vocabulary)
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < count:
        wrong = next(int(v) for v in labels if not 0 <= v < count)
        raise DataError(f"{where} has a box of class {wrong}, and its data set has the classes 0 to {count - 1}")
    if len(labels) != len(boxes):
        raise DataError(f"{where} has {len(boxes)} boxes and {len(labels)} classes")
    good = torch.isfinite(boxes).all(dim=1) & (boxes[:, 2:] >= boxes[:, :2]).all(dim=1)
    if not bool(good.all()):
        wrong = boxes[~good][0].tolist()
        raise DataError(f"{where} has the box {wrong}, which is not XYXY in finite pixels; correct or drop it")
    ignored = x.get("ignore_boxes")
    return Targets(
        boxes=boxes,
        labels=space.columns_of(labels),
        size=tuple(x["image"].shape[-2:]),
        positives=positive_rows(space, labels),
        mask=taking_part(space, labels, x),
        ignore_boxes=None if ignored is None or not len(ignored) else ignored.to(device, torch.float32),
        weight=space.weight,
    )
