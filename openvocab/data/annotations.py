"""Boxes and masks of a record, moved along with the augmented picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, PolygonMasks

from openvocab.errors import DataError


@dataclass
class Moved:
    """What is left of N annotations after augmentation.

    Attributes:
        boxes: (N, 4) float32 XYXY pixels of the augmented picture, clipped to it.
        classes: (N,) int64 class ids of the record.
        crowd: (N,) bool.
        visible: (N,) float64 share of each box's area that is inside the augmented picture.
        sources: the N annotations.
    """

    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    visible: np.ndarray
    sources: list[dict]

    def pick(self, keep: np.ndarray) -> Moved:
        """Return those where the (N,) bool `keep` is true."""
        sources = [s for s, k in zip(self.sources, keep, strict=True) if k]
        return Moved(self.boxes[keep], self.classes[keep], self.crowd[keep], self.visible[keep], sources)


def boxes_of(annotations: list[dict]) -> np.ndarray:
    """Return the boxes of annotations as (N, 4) float64 XYXY pixels."""
    boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def move(
    annotations: list[dict], transforms: T.TransformList, before: tuple[int, int], after: tuple[int, int]
) -> Moved:
    """Apply an augmentation's transforms to boxes.

    Args:
        annotations: detectron2's.
        transforms: what was done to the picture.
        before: (height, width) of the picture as read; boxes are clipped to it first.
        after: (height, width) of the augmented picture.
    """
    boxes = boxes_of(annotations).clip(0, (before[1], before[0], before[1], before[0]))
    whole = np.asarray(transforms.apply_box(boxes)).reshape(-1, 4) if len(boxes) else boxes
    clipped = whole.clip(0, (after[1], after[0], after[1], after[0]))
    full, inside = ((b[:, 2:] - b[:, :2]).clip(0).prod(axis=1) for b in (whole, clipped))
    return Moved(
        boxes=clipped.astype(np.float32),
        classes=np.asarray([a["category_id"] for a in annotations], dtype=np.int64),
        crowd=np.asarray([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool),
        visible=np.divide(inside, full, out=np.zeros_like(full), where=full > 0),
        sources=list(annotations),
    )


def _polygons(annotation: dict, transforms: T.TransformList, box: np.ndarray) -> tuple[list[np.ndarray], bool]:
    """Return the moved polygons, or the moved box as one; and whether it is the box."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        raise DataError("an annotation's mask is run-length coded; use mask_format='bitmask'")
    usable = [
        np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in segmentation or () if len(p) % 2 == 0 and len(p) >= 6
    ]
    if not usable:
        left, top, right, bottom = (float(v) for v in box)
        return [np.asarray([left, top, right, top, right, bottom, left, bottom])], True
    return [p.reshape(-1) for p in transforms.apply_polygons(usable)], False


def decode_mask(segmentation: dict | list, size: tuple[int, int]) -> np.ndarray:
    """Return COCO's polygons or run lengths as (H, W) bool; `size` is (H, W).

    Raises:
        DataError: if they cannot be decoded, or the run lengths are of another size.
    """
    import pycocotools.mask as coco_mask

    try:
        if isinstance(segmentation, dict):
            runs = segmentation
            if isinstance(runs.get("counts"), list):
                runs = coco_mask.frPyObjects(runs, *runs["size"])
        else:
            runs = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
        mask = coco_mask.decode(runs).astype(bool)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"an annotation's mask cannot be decoded: {error}") from error
    if mask.shape != tuple(size):
        raise DataError(f"an annotation's mask is of {mask.shape} (height, width), its picture of {tuple(size)}")
    return mask


def _bitmask(annotation: dict, transforms: T.TransformList, before: tuple[int, int]) -> np.ndarray | None:
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return None
    return transforms.apply_segmentation(decode_mask(segmentation, before).astype(np.uint8)).astype(bool)


def masks_of(
    moved: Moved, transforms: T.TransformList, before: tuple[int, int], after: tuple[int, int], mask_format: str
) -> tuple[PolygonMasks | BitMasks, torch.Tensor]:
    """Return the masks of N moved annotations, and which of them are only the box's rectangle for want of a mask.

    Args:
        moved: N annotations.
        transforms: what was done to the picture.
        before: (height, width) as read.
        after: (height, width) of the augmented picture.
        mask_format: "polygon" or "bitmask".

    Returns:
        masks, and (N,) bool.

    Raises:
        DataError: for a run-length mask with mask_format "polygon", or a mask that cannot be decoded.
    """
    if mask_format == "polygon":
        pairs = [_polygons(a, transforms, b) for a, b in zip(moved.sources, moved.boxes, strict=True)]
        return PolygonMasks([p for p, _ in pairs]), torch.tensor([r for _, r in pairs], dtype=torch.bool)
    masks = np.zeros((len(moved.sources), *after), dtype=bool)
    rectangle = torch.zeros(len(moved.sources), dtype=torch.bool)
    for i, (annotation, box) in enumerate(zip(moved.sources, moved.boxes, strict=True)):
        mask = _bitmask(annotation, transforms, before)
        if mask is None:
            left, top, right, bottom = (int(round(float(v))) for v in box)
            masks[i, top:bottom, left:right] = True
            rectangle[i] = True
        else:
            masks[i] = mask
    return BitMasks(torch.from_numpy(masks)), rectangle
