"""ShapesWorld as a registered data set, for configs that must run in seconds with nothing on the disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .world import ShapesWorld
from .writer import register_shapes, write_coco


def shapes_dataset(*, num: int, seed: int = 0, image_size: int = 128, taxonomy: str = "shape", split: str = "train") -> str:
    """Write `num` pictures to a folder of the system's temporary ones, register them, and return their name.

    The same arguments give the same name and the same pictures.
    """
    from detectron2.data import DatasetCatalog

    name = f"shapes_{taxonomy}_{split}_{num}_{seed}_{image_size}"
    if name not in DatasetCatalog.list():
        folder = Path(tempfile.mkdtemp(prefix="openvocab_shapes_"))
        world = ShapesWorld(image_size=image_size)
        nothing_else = {"captions": 0, "referring": 0, "questions": 0}
        register_shapes(name, write_coco(folder, num, seed, taxonomy=taxonomy, split=split, world=world, **nothing_else))
    return name
