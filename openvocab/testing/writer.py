"""ShapesWorld on disk: PNG pictures with COCO, captions, grounding, referring and question json files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from openvocab.errors import DataError

from .convention_shapes import ConventionSet, ConventionWorld
from .conventions import BoxRule, get_rule
from .export import Tables
from .records import Rule
from .scenes import Scene
from .taxonomies import Taxonomy, get_taxonomy, held_out_pairs
from .world import ShapesWorld

HELD_OUT = (None, "classes", "pairs")


@dataclass(frozen=True)
class WrittenSet:
    """What was written.

    Attributes:
        folder: the data set's folder; pictures are in `folder / "images"`.
        split: its split.
        files: kind ("instances", "captions", "grounding", "referring", "questions") -> json file.
        taxonomy: the names, those a training set leaves unlabelled too.
    """

    folder: Path
    split: str
    files: dict[str, Path] = field(repr=False)
    taxonomy: Taxonomy = field(repr=False)


def write_coco(
    folder: str | Path,
    num: int,
    seed: int = 0,
    *,
    taxonomy: str | Taxonomy = "color_shape",
    rule: str | BoxRule = "visible",
    split: str = "train",
    held_out: str | None = None,
    world: ShapesWorld | None = None,
    captions: int = 2,
    referring: int = 3,
    questions: int = 6,
) -> WrittenSet:
    """Write pictures 0 to `num - 1` of a world.

    Args:
        folder: gets `images/<split>_<number>.png` and `<kind>_<split>.json`; other splits may be there already.
        num: number of pictures.
        seed: of the world.
        taxonomy: the names of "instances".
        rule: the box rule of all boxes.
        split: "train", "val" or any other word; splits share no picture.
        held_out: what a split called "train" lacks. "classes": boxes of the taxonomy's novel names (the shapes are in
            the pictures, as COCO-OVD does it); "pairs": pictures of the pairs of `held_out_pairs()`.
        world: the world's settings, in place of the default ones; its seed and split are set to those given here.
        captions, referring, questions: most of each kind for one picture.

    Returns:
        the files. "instances": COCO, with "attributes" of each annotation and "relations" of the picture; "captions":
        COCO captions; "grounding" and "referring": MDETR's form, one image entry a sentence, boxes with
        "tokens_positive"; "questions": {"answers": vocabulary, "questions": [{question_id, image_id, question, ...}]}.

    Raises:
        DataError: for no pictures, or unknown names.
    """
    names, rule = get_taxonomy(taxonomy), get_rule(rule)
    if held_out not in HELD_OUT:
        raise DataError(f"held_out must be one of {HELD_OUT}, got {held_out!r}")
    world = replace(world or ShapesWorld(), seed=seed, split=split)
    labelled = names
    if held_out and split == "train":
        if held_out == "classes":
            labelled = names.base()
        else:
            world = replace(world, excluded_pairs=world.excluded_pairs | held_out_pairs())
    tables = Tables(names, labelled, rule, captions=captions, referring=referring, questions=questions)
    return _write(Path(folder), num, split, world.scene, tables, names)


def write_convention(
    folder: str | Path, num: int, seed: int = 0, *, convention: str | ConventionSet = "A", split: str = "train"
) -> WrittenSet:
    """Write pictures 0 to `num - 1` of a set of ConventionShapes, as `write_coco`, "instances" only.

    Raises:
        DataError: for no pictures, or an unknown set.
    """
    world = ConventionWorld(convention=convention, seed=seed, split=split)
    names = world.convention_set.taxonomy
    rule: Rule = world.convention_set.rule_of
    return _write(Path(folder), num, split, world.scene, Tables(names, names, rule, language=False), names)


def _write(
    folder: Path, num: int, split: str, scene: Callable[[int], Scene], tables: Tables, names: Taxonomy
) -> WrittenSet:
    from openvocab.io import atomic_write

    if num < 1:
        raise DataError(f"num must be at least 1 picture, got {num}")
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for index in range(num):
        picture, file_name = scene(index), f"{split}_{index:06d}.png"
        _save(picture.image, images / file_name)
        tables.add(picture, file_name)
    files = {}
    for kind, content in tables.contents().items():
        files[kind] = folder / f"{kind}_{split}.json"
        with atomic_write(files[kind], "w") as file:
            json.dump(content, file)
    return WrittenSet(folder=folder, split=split, files=files, taxonomy=names)


def _save(image: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(image).save(path, compress_level=1)


def register_shapes(name: str, written: WrittenSet) -> None:
    """Register a written set under a name, with its vocabulary (base and novel marks) and captions.

    Raises:
        DataError: as `openvocab.data.register_coco_folder`.
    """
    from openvocab.data import register_coco_folder

    captions = written.files.get("captions")
    register_coco_folder(
        name,
        root=written.folder.resolve(),
        annotations=written.files["instances"].name,
        images="images",
        vocabulary=written.taxonomy.vocabulary(),
        captions=captions.name if captions else None,
    )


def write_clips(path: str | Path, clips: Iterable) -> Path:
    """Write clips as one npz file.

    It holds frames (N, T, H, W, 3) uint8, labels (N,), boxes (N, T, 4) XYXY pixels, texts (N,) and actions (8,).

    Raises:
        DataError: for no clips.
    """
    from openvocab.io import atomic_write

    from .clips import ACTIONS

    every = list(clips)
    if not every:
        raise DataError(f"there are no clips to write to {path}")
    with atomic_write(path) as file:
        np.savez_compressed(
            file,
            frames=np.stack([c.frames for c in every]),
            labels=np.array([c.label for c in every]),
            boxes=np.stack([c.boxes for c in every]),
            texts=np.array([c.text for c in every]),
            actions=np.array(list(ACTIONS)),
        )
    return Path(path)
