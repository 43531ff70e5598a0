"""From an image-text pair to a model input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, Instances
from torch import Tensor

from openvocab.data import BadSampleBudget, get_vocabulary, read_image
from openvocab.data.annotations import boxes_of
from openvocab.data.image import FORMATS, decode_image
from openvocab.errors import ConfigError, DataError

from .teachers import VECTORS

GIVEN = ("proposals", "annotations", "whole", None)


class PairMapper:
    """Read a picture, augment it together with its regions, and draw one of its captions.

    Args:
        is_train: draw a caption; else bring the data set's "vocabulary" along.
        augmentations: detectron2's. A flip is not undone in captions that speak of left and right (as the official code).
        given: which regions come with the picture: "proposals" (the record's "proposal_boxes", if it has them: see
            `with_proposals`), "annotations" (the true boxes, without crowds, with "gt_classes"), "whole" (the picture's frame),
            or None.
        max_regions: the first so many proposals; None: all.
        min_size: regions narrower or lower than this many pixels after augmentation are left out.
        image_format: "RGB" or "BGR".
        skip: how many bad files `build_train_loader` skips.

    Raises:
        ConfigError: for an unknown option.
    """

    keep_empty = True  # pairs need no boxes

    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation | T.Transform] = (),
        given: str | None = "proposals",
        max_regions: int | None = None,
        min_size: float = 2.0,
        image_format: str = "RGB",
        skip: BadSampleBudget | None = None,
    ) -> None:
        if given not in GIVEN or image_format not in FORMATS or (max_regions is not None and max_regions < 1):
            raise ConfigError(
                f"given={given!r} is none of {GIVEN}, or image_format={image_format!r} or max_regions={max_regions} is wrong"
            )
        self.is_train, self.given, self.max_regions = is_train, given, max_regions
        self.augmentations = T.AugmentationList(list(augmentations))
        self.min_size, self.image_format, self.skip = float(min_size), image_format, skip or BadSampleBudget()

    def __call__(self, record: dict) -> dict:
        """Map one record.

        Args:
            record: detectron2's dict ("file_name", "height", "width"), or a streamed one: "content", the bytes of a picture
                file, and "key". With "captions", [str].

        Returns:
            {"image": (3, H, W) uint8, "height", "width", "image_id", "file_name", "captions"}, in training "text" where there
            is a caption, in evaluation "vocabulary" where the data set has one; "proposals": Instances of the augmented size
            with proposal_boxes, objectness_logits, and "teacher_vectors" or "gt_classes" where there are any.

        Raises:
            InputError: for a picture that is missing, damaged, or not of the record's size.
        """
        pixels = self._read(record)
        before = pixels.shape[:2]
        aug = T.AugInput(np.ascontiguousarray(pixels))
        transforms = self.augmentations(aug)
        image = np.clip(np.round(aug.image), 0, 255).astype(np.uint8) if aug.image.dtype != np.uint8 else aug.image
        result = {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "height": before[0],
            "width": before[1],
            "image_id": record.get("image_id", record.get("key")),
            "file_name": record.get("file_name", record.get("key", "")),
            "dataset": record.get("dataset_source", ""),
            "captions": list(record.get("captions", ())),
        }
        if self.is_train and result["captions"]:
            result["text"] = result["captions"][np.random.randint(len(result["captions"]))]
        if not self.is_train and record.get("dataset_source"):
            result |= _names(record["dataset_source"])
        found = self._regions(record, before)
        if found is not None:
            result["proposals"] = self._moved(*found, transforms, image.shape[:2])
        return result

    def _read(self, record: dict) -> np.ndarray:
        if "content" in record:
            return decode_image(record["content"], record.get("key", "of a stream"), self.image_format)
        return read_image(record["file_name"], self.image_format, size=(record["height"], record["width"]))

    def _regions(self, record: dict, size: tuple[int, int]) -> tuple[np.ndarray, dict[str, Tensor]] | None:
        """Boxes (N, 4) XYXY pixels of the picture as read, and what else is known of each; None if none are given."""
        if self.given == "whole":
            return np.array([[0.0, 0.0, size[1], size[0]]]), {"objectness_logits": torch.ones(1)}
        if self.given == "annotations":
            rows = [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]
            classes = torch.tensor([a["category_id"] for a in rows], dtype=torch.long)
            return boxes_of(rows), {"gt_classes": classes, "objectness_logits": torch.ones(len(rows))}
        if self.given is None or "proposal_boxes" not in record:
            return None
        count = self.max_regions or len(record["proposal_boxes"])
        raw = np.asarray(record["proposal_boxes"], dtype=np.float64).reshape(-1, 4)[:count]
        mode = record.get("proposal_bbox_mode", BoxMode.XYXY_ABS)
        boxes = np.asarray(BoxMode.convert(raw, mode, BoxMode.XYXY_ABS)) if len(raw) else raw
        scores = record.get("proposal_objectness_logits", np.ones(len(boxes)))
        fields = {"objectness_logits": torch.as_tensor(np.asarray(scores)[:count], dtype=torch.float32)}
        if VECTORS in record:
            fields[VECTORS] = torch.as_tensor(np.asarray(record[VECTORS])[:count], dtype=torch.float32)
        return boxes, fields

    def _moved(
        self, boxes: np.ndarray, fields: dict[str, Tensor], transforms: T.TransformList, size: tuple[int, int]
    ) -> Instances:
        moved = np.asarray(transforms.apply_box(boxes)).reshape(-1, 4) if len(boxes) else boxes
        result = Instances(size, proposal_boxes=Boxes(torch.as_tensor(moved, dtype=torch.float32)), **fields)
        result.proposal_boxes.clip(size)
        if self.given == "annotations" and not self.is_train:
            return result  # every true box has to be named
        sides = result.proposal_boxes.tensor[:, 2:] - result.proposal_boxes.tensor[:, :2]
        return result[(sides >= self.min_size).all(dim=1)]


@lru_cache(maxsize=32)
def _names(dataset: str) -> dict:
    """{"vocabulary"} of a data set; {} for one that has only captions."""
    try:
        return {"vocabulary": get_vocabulary(dataset)}
    except DataError:
        return {}
