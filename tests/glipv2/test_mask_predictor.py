"""Masks up to the user: the predictor's value, long vocabularies, a referring phrase, drawing, the demo."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from openvocab import Detections, Predictor
from openvocab.prompting import Caption
from openvocab.viz import draw

from .conftest import picture
from .test_mask_branch import build

ROOT = Path(__file__).resolve().parents[2]
TEXT = "the red circle left of the square"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """A random detector with masks."""
    return Predictor(model=build(), augmentations=[T.ResizeShortestEdge(96, 160)], score_threshold=0.0)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return picture(60, 80).permute(1, 2, 0).numpy()


def test_masks_are_in_the_picture_as_given(predictor: Predictor, pixels: np.ndarray) -> None:
    found = predictor(pixels, "cat. red bus.")
    assert found.masks.shape == (len(found), 60, 80) and found.masks.dtype == bool and found.masks.any()
    again = Detections.from_dict(found.to_dict(), image=pixels)
    assert np.array_equal(again.masks, found.masks)
    assert found.to_instances().pred_masks.shape == found.masks.shape
    assert all("segmentation" in row for row in found.to_coco(1))


def test_a_sentence_as_one_phrase(predictor: Predictor, pixels: np.ndarray) -> None:
    found = predictor(pixels, Caption(TEXT, (((0, len(TEXT)),),)))
    assert set(found.names) == {TEXT} and found.masks.any(axis=0).shape == (60, 80)


def test_a_vocabulary_of_several_prompts(predictor: Predictor, pixels: np.ndarray) -> None:
    """More names than the text encoder takes at once: each part brings its own masks."""
    names = [f"thing{i}" for i in range(70)]
    found = predictor(pixels, names)
    assert len(found) and found.masks.shape == (len(found), 60, 80)


def test_pictures_of_a_batch_keep_their_own(predictor: Predictor, pixels: np.ndarray) -> None:
    wide = picture(40, 90, 1).permute(1, 2, 0).numpy()
    first, second = predictor.batch([pixels, wide], ["cat.", TEXT + "."])
    assert first.masks.shape[1:] == (60, 80) and second.masks.shape[1:] == (40, 90)


def test_they_are_drawn(predictor: Predictor, pixels: np.ndarray) -> None:
    found = predictor(pixels, "cat.")[:1]
    bare = Detections(found.boxes, found.scores, found.names, found.size, image=pixels)
    with_masks, without = (np.asarray(draw(pixels, d, fill=0.0)).astype(int) for d in (found, bare))
    changed = (with_masks != without).any(axis=-1)
    assert changed.any() and not (changed & ~found.masks[0]).any()


def test_the_demo_shows_and_writes_them(predictor: Predictor, pixels: np.ndarray, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("demo_with_masks", ROOT / "tools" / "demo.py")
    demo = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = demo
    spec.loader.exec_module(demo)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    (tmp_path / "out").mkdir()
    demo.check_asked(predictor, None, [], masks=True)  # there is a mask branch: nothing to refuse
    entry = demo.Demo(predictor, demo.Names(tmp_path / "out", [path]), top=2).picture(path, "cat.")
    again = Detections.from_dict(entry)
    assert again.masks.shape == (2, 60, 80)
    drawn = np.asarray(Image.open(entry["drawn"]))
    assert (drawn[again.masks.any(axis=0)] != pixels[again.masks.any(axis=0)]).any()


@pytest.mark.slow
def test_the_lines_of_the_readme_make_a_mask_rcnn() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "glipv2" / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {"embeddings": torch.randn(80, 384)}
    exec(next(b for b in blocks if "mask_rcnn_fpn" in b), names)
    model = names["model"].eval()
    with torch.no_grad():
        found = model([{"image": torch.zeros(3, 64, 64)}])[0]["instances"]
    assert found.pred_masks.shape == (len(found), 64, 64)
