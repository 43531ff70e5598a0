"""From a record of a hub's data set to a model input."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import transforms as T

from openvocab.data import DatasetMapper

from .dataset import HubDataset
from .records import CHECKED


class HubMapper(DatasetMapper):
    """Read a picture of one data set and say whose it is.

    A sample has, besides what `DatasetMapper` gives, "dataset" (the name in the hub), "vocabulary" (its names: enough for a hub
    that does not know it) and, where the record has them, "negative_classes" and "positive_classes".

    Args:
        dataset: whose records these are, as `records.read_split` returns them.
        is_train: keep boxes.
        augmentations: detectron2's, applied before the resize.
        resize: to the data set's own sizes.
        image_format: "RGB" or "BGR".
        options: `min_size`, `min_visible`, `skip` of `DatasetMapper`.
    """

    def __init__(
        self,
        *,
        dataset: HubDataset,
        is_train: bool,
        augmentations: Sequence[T.Augmentation | T.Transform] = (),
        resize: bool = True,
        image_format: str = "RGB",
        **options: object,
    ) -> None:
        sizes = dataset.min_sizes if is_train else (dataset.test_size,)
        own = [T.ResizeShortestEdge(list(sizes), dataset.max_size, "choice")] if resize else []
        super().__init__(
            is_train=is_train,
            augmentations=[*augmentations, *own],
            image_format=image_format,
            vocabulary=dataset.vocabulary,
            keep_empty=dataset.keep_empty,
            **options,
        )
        self.dataset_name = dataset.name

    def __call__(self, record: dict) -> dict | None:
        """Map one record; None for a training picture with nothing to teach, unless `keep_empty`."""
        sample = super().__call__(record)
        if sample is None:
            return None
        lists = {key: list(record[key]) for key in CHECKED.values() if self.is_train and key in record}
        return {**sample, "dataset": self.dataset_name, **lists}
