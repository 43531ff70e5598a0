"""ShapesWorld and ConventionShapes as registered data sets, for configs that must run in seconds with nothing on the disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .world import ShapesWorld
from .writer import register_shapes, write_coco, write_convention


def shapes_dataset(
    *, num: int, seed: int = 0, image_size: int = 128, taxonomy: str = "shape", split: str = "train", captions: int = 0
) -> str:
    """Write `num` pictures to a folder of the system's temporary ones, register them, and return their name.

    The same arguments give the same name and the same pictures. `captions`: most of them for one picture.
    """
    from detectron2.data import DatasetCatalog

    name = f"shapes_{taxonomy}_{split}_{num}_{seed}_{image_size}" + (f"_{captions}_captions" if captions else "")
    if name not in DatasetCatalog.list():
        folder = Path(tempfile.mkdtemp(prefix="openvocab_shapes_"))
        world = ShapesWorld(image_size=image_size)
        kinds = {"captions": captions, "referring": 0, "questions": 0}
        register_shapes(name, write_coco(folder, num, seed, taxonomy=taxonomy, split=split, world=world, **kinds))
    return name


def convention_dataset(*, convention: str, num: int, seed: int = 0, split: str = "train") -> str:
    """Write `num` pictures of a set of ConventionShapes ("A", "B", "C", "full" or "upper") as `shapes_dataset` does."""
    from detectron2.data import DatasetCatalog

    name = f"convention_{convention}_{split}_{num}_{seed}"
    if name not in DatasetCatalog.list():
        folder = Path(tempfile.mkdtemp(prefix="openvocab_shapes_"))
        register_shapes(name, write_convention(folder, num, seed, convention=convention, split=split))
    return name


def shapes_referring(*, num: int, seed: int = 0, image_size: int = 128, split: str = "train") -> str:
    """Write referring expressions with masks, up to three each for `num` pictures, as `shapes_dataset` does; a grounding set.

    In every picture one at least needs the whole sentence: "the red circle left of the blue square", where there are more
    red circles.
    """
    from detectron2.data import DatasetCatalog

    from openvocab.data import register_grounding_folder

    name = f"shapes_referring_{split}_{num}_{seed}_{image_size}"
    if name not in DatasetCatalog.list():
        folder = Path(tempfile.mkdtemp(prefix="openvocab_shapes_"))
        world = ShapesWorld(image_size=image_size, num_objects=(3, 5), needs_sentence=True)
        written = write_coco(folder, num, seed, split=split, world=world, captions=0, questions=0)
        register_grounding_folder(name, root=folder.resolve(), annotations=written.files["referring"].name)
    return name
