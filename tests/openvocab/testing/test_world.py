"""Pictures: the same in every process and order, masks and boxes that fit the pixels, overlap kept to its limit."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.errors import DataError
from openvocab.testing import COLORS, SHAPES, ShapesWorld, caption_of, questions_of, referring_of
from openvocab.testing.shapes import FIGURES, mask_box, shape_mask

from .reader import PALETTE, look

REPO = Path(__file__).resolve().parents[3]
DIGEST = """
import hashlib, sys
from openvocab.testing import ShapesWorld, ClipWorld, ConventionWorld, caption_of, questions_of, referring_of
def scene(s):
    return hashlib.sha256(repr((s.image.tobytes(), [o.full.tobytes() for o in s.objects], caption_of(s).text,
        [r.text for r in referring_of(s)], [(q.text, q.answer) for q in questions_of(s)])).encode()).hexdigest()
for i in map(int, sys.argv[1].split(",")):
    clip = ClipWorld(seed=5, frames=5).clip(i)
    print(i, scene(ShapesWorld(seed=5, needs_sentence=i % 2 == 0).scene(i)),
          hashlib.sha256(clip.frames.tobytes()).hexdigest(), clip.text,
          hashlib.sha256(ConventionWorld(seed=5, convention="B").scene(i).image.tobytes()).hexdigest())
heavy = [m for m in ("torch", "detectron2", "matplotlib", "transformers") if m in sys.modules]
assert not heavy, heavy
"""


def _digests(order: str, hash_seed: str) -> list[str]:
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-c", DIGEST, order]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.splitlines())


def test_same_in_other_processes_orders_and_hash_seeds() -> None:
    """... and without importing torch or detectron2."""
    assert _digests("0,1,2,3", "1") == _digests("3,1,0,2", "2")


def test_seeds_splits_and_numbers_give_other_pictures() -> None:
    worlds = [ShapesWorld(seed=0), ShapesWorld(seed=1), ShapesWorld(seed=0, split="val")]
    digests = {hashlib.sha256(w.scene(i).image.tobytes()).hexdigest() for w in worlds for i in range(5)}
    assert len(digests) == 15


def test_drawing_from_numpys_global_generator_changes_nothing() -> None:
    before = ShapesWorld(seed=2).scene(1).image
    np.random.seed(0)
    np.random.rand(100)
    assert (ShapesWorld(seed=2).scene(1).image == before).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    index=st.integers(0, 10**6),
    height=st.integers(48, 150),
    width=st.integers(48, 150),
    overlap=st.sampled_from([0.0, 0.15, 0.5]),
    most=st.integers(1, 12),
)
def test_boxes_masks_and_overlap(seed: int, index: int, height: int, width: int, overlap: float, most: int) -> None:
    world = ShapesWorld(seed=seed, image_size=(height, width), max_overlap=overlap, num_objects=(1, most))
    scene = world.scene(index)
    assert scene.image.shape == (height, width, 3) and scene.image.dtype == np.uint8
    assert 1 <= len(scene.objects) <= most
    owner = np.full((height, width), -1)
    for i, thing in enumerate(scene.objects):
        owner[thing.full] = i
    for i, thing in enumerate(scene.objects):
        rows, columns = np.nonzero(thing.full)
        extent = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert thing.full_box == extent
        assert (thing.visible == (owner == i)).all(), "visible is what later objects leave over"
        assert thing.visible.sum() >= (1 - overlap) * thing.full.sum()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_what_the_pixels_show_is_what_the_words_say(seed: int) -> None:
    scene = ShapesWorld(seed=seed, max_overlap=0.3).scene(0)
    for thing, seen in zip(scene.objects, look(scene), strict=True):
        assert (thing.color, thing.size) == (seen.color, seen.size)


def test_palette_of_the_reader_is_the_worlds() -> None:
    assert PALETTE == COLORS


def test_objects_lie_inside_the_picture_and_none_is_cut() -> None:
    """The outermost pixels are always background."""
    for scene in ShapesWorld(seed=4, num_objects=(4, 8)).scenes(60):
        for thing in scene.objects:
            x0, y0, x1, y1 = thing.full_box
            assert x0 > 0 and y0 > 0 and x1 < 128 and y1 < 128


@pytest.mark.parametrize("kind", SHAPES + FIGURES)
def test_a_shape_moves_with_its_centre_and_grows_with_its_radius(kind: str) -> None:
    here = shape_mask(kind, (90, 90), (30.2, 31.7), (14, 14), 0.1)
    there = shape_mask(kind, (90, 90), (51.2, 40.7), (14, 14), 0.1)
    assert (np.roll(here, (9, 21), axis=(0, 1)) == there).all()
    double = shape_mask(kind, (90, 90), (45, 45), (28, 28), 0.1)
    assert double.sum() == pytest.approx(4 * here.sum(), rel=0.06)
    turned = shape_mask(kind, (90, 90), (45, 45), (20, 20), 0.7)
    assert turned.sum() == pytest.approx(shape_mask(kind, (90, 90), (45, 45), (20, 20)).sum(), rel=0.06)


def test_areas_of_plain_shapes() -> None:
    def area(kind: str) -> float:
        return shape_mask(kind, (400, 400), (200.3, 199.8), (150, 150), 0.2).sum() / 150**2

    assert area("circle") == pytest.approx(np.pi, rel=2e-3)
    assert area("ring") == pytest.approx(np.pi * (1 - 0.55**2), rel=2e-3)
    assert area("square") == pytest.approx(1.72**2, rel=2e-3)
    assert area("diamond") == pytest.approx(2 * 0.72, rel=2e-3)
    assert area("hexagon") == pytest.approx(1.5 * 3**0.5, rel=2e-3)
    assert area("star") == pytest.approx(1.1226, rel=2e-3)  # the pentagram {5/2} in a unit circle


def test_shapes_are_told_apart_even_when_small() -> None:
    masks = {k: shape_mask(k, (30, 30), (15.2, 14.9), (10, 10)) for k in SHAPES}
    for a in SHAPES:
        for b in SHAPES:
            iou = (masks[a] & masks[b]).sum() / (masks[a] | masks[b]).sum()
            assert a == b or iou < 0.9, (a, b, iou)


def test_mask_box_of_nothing() -> None:
    assert mask_box(np.zeros((4, 5), dtype=bool)) == (0, 0, 0, 0)


def test_only_allowed_words_are_painted() -> None:
    world = ShapesWorld(
        colors=("red", "blue"), shapes=("star", "ring"), sizes=("small",), backgrounds=("plain",),
        excluded_pairs=frozenset({("red", "ring")}), repeat=0.0,
    )  # fmt: skip
    painted = {(o.color, o.shape) for s in world.scenes(60) for o in s.objects}
    assert painted == {("red", "star"), ("blue", "star"), ("blue", "ring")}
    assert {o.size for s in world.scenes(10) for o in s.objects} == {"small"}
    assert {s.background for s in world.scenes(10)} == {"plain"}


def test_an_empty_picture_has_a_caption_and_questions() -> None:
    scene = ShapesWorld(num_objects=(0, 0)).scene(0)
    assert scene.objects == () and caption_of(scene).phrases == () and caption_of(scene, 1).text.startswith("nothing")
    assert referring_of(scene) == []
    assert {q.answer for q in questions_of(scene)} <= {"no", "0"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": -1}, "negative"),
        ({"seed": "one"}, "'one'"),
        ({"seed": 1.5}, "1.5"),
        ({"image_size": 16}, "image_size 16"),
        ({"num_objects": (5, 2)}, "num_objects"),
        ({"max_overlap": 0.95}, "max_overlap"),
        ({"noise": -1}, "noise"),
        ({"colors": ("red", "rot")}, "Known: red"),
        ({"shapes": "circle"}, "list"),
        ({"sizes": ()}, "at least one"),
        ({"shapes": ("star", "star")}, "twice"),
        ({"excluded_pairs": frozenset({("star", "red")})}, "no .color, shape."),
        ({"colors": ("red",), "shapes": ("star",), "excluded_pairs": frozenset({("red", "star")})}, "leaves no"),
        ({"needs_sentence": True, "num_objects": (1, 2)}, "needs_sentence"),
        ({"split": ""}, "split"),
    ],
)
def test_bad_settings_are_refused(options: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        ShapesWorld(**options)


def test_a_negative_number_of_a_picture_is_refused() -> None:
    with pytest.raises(DataError, match="-1"):
        ShapesWorld().scene(-1)
