"""How often LVIS's names occur, for the sampling of its negatives."""

from __future__ import annotations


def lvis_image_counts() -> list[int]:
    """Return the number of training pictures with each name of LVIS v1, in order of the category ids (detectron2 ships them)."""
    from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT

    return [row["image_count"] for row in sorted(LVIS_CATEGORY_IMAGE_COUNT, key=lambda row: row["id"])]
