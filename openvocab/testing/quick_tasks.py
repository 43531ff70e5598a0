"""ShapesWorld's questions and captions as registered data sets, beside its boxes; see `quick`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from .world import ShapesWorld
from .writer import WrittenSet, register_shapes, write_coco

SIMPLE = {
    "num_objects": (1, 2),
    "shapes": ("circle", "square", "triangle", "star"),
    "colors": ("red", "green", "blue", "yellow"),
    "sizes": ("large",),
}
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SMALL_WORDS = """a an the of on is are there that lies and , . ? picture background what color shape size how many thing things
    left right above below yes no nothing"""


def shapes_tasks(
    *, num: int, seed: int = 0, image_size: int = 128, taxonomy: str = "shape", split: str = "train"
) -> dict[str, str]:
    """Write pictures with boxes, questions and captions, as `shapes_dataset` does: one or two large shapes of four forms and four
    colors, so that a model learns to see them in minutes.

    Returns:
        names of data sets of the same pictures: "detection", boxes of the taxonomy's names; "vqa", up to six questions a picture;
        "caption", two captions a picture.
    """
    from detectron2.data import DatasetCatalog

    base = f"shapes_tasks_{taxonomy}_{split}_{num}_{seed}_{image_size}"
    names = {task: f"{base}_{task}" for task in ("detection", "vqa", "caption")}
    if names["caption"] not in DatasetCatalog.list():
        root = Path(tempfile.mkdtemp(prefix="openvocab_shapes_")).resolve()
        world = ShapesWorld(image_size=image_size, **SIMPLE)
        written = write_coco(root, num, seed, taxonomy=taxonomy, split=split, world=world, referring=0)
        register_tasks(names, written)
    return names


def register_tasks(names: Mapping[str, str], written: WrittenSet) -> None:
    """Register written pictures with boxes, questions and captions under the names of these tasks ("detection", "vqa", "caption").

    Raises:
        DataError: for a name that is taken.
    """
    from openvocab.data import register_captions_folder, register_vqa_folder

    root, files = written.folder.resolve(), {kind: path.name for kind, path in written.files.items()}
    register_shapes(names["detection"], written)
    register_vqa_folder(names["vqa"], root=root, questions=files["questions"], pictures=files["instances"])
    register_captions_folder(names["caption"], root=root, annotations=files["captions"])


@cache
def shapes_words() -> tuple[str, int]:
    """Write the words of ShapesWorld's texts as BERT's vocab.txt, for a text encoder of a few thousand weights.

    Returns:
        its path, and how many words it has, special ones included.
    """
    from .backgrounds import BACKGROUNDS
    from .language import NUMBERS, plural
    from .shapes import COLORS, SHAPES, SIZES

    texts = [*COLORS, *SHAPES, *map(plural, SHAPES), *SIZES, *BACKGROUNDS, *NUMBERS, *map(str, range(11)), *_SMALL_WORDS.split()]
    words = [*_SPECIAL, *sorted(set(texts))]
    path = Path(tempfile.mkdtemp(prefix="openvocab_shapes_")) / "vocab.txt"
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return str(path), len(words)
