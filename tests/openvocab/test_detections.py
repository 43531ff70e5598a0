"""`Detections` as a value: what it checks, and that other forms lose nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.detections import Detections
from openvocab.errors import DataError

VOCABULARY = ("cat", "remote control", "dog")
SIZE = (40, 60)


@st.composite
def detections(draw: st.DrawFn, masks: bool = False) -> Detections:
    count = draw(st.integers(0, 6))
    corner = st.tuples(*[st.floats(0, s, width=32) for s in (60, 40, 60, 40)])
    boxes = np.array([draw(corner) for _ in range(count)], dtype=np.float32).reshape(-1, 4)
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    classes = [draw(st.integers(0, 2)) for _ in range(count)]
    seed = draw(st.integers(0, 99))
    return Detections(
        boxes=boxes,
        scores=[draw(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])) for _ in range(count)],
        names=[VOCABULARY[c] for c in classes],
        size=SIZE,
        vocabulary=VOCABULARY,
        masks=np.random.default_rng(seed).random((count, *SIZE)) > 0.5 if masks and count else None,
    )


def same(a: Detections, b: Detections) -> bool:
    arrays = all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("boxes", "scores", "classes"))
    masks = (a.masks is None) == (b.masks is None) and (a.masks is None or np.array_equal(a.masks, b.masks))
    return arrays and masks and (a.names, a.size, a.vocabulary, a.caption) == (b.names, b.size, b.vocabulary, b.caption)


@settings(max_examples=40, deadline=None)
@given(detections())
def test_sorted_and_consistent(d: Detections) -> None:
    assert (np.diff(d.scores) <= 0).all()
    assert [VOCABULARY[c] for c in d.classes] == d.names
    assert [(x.name, x.score) for x in d] == list(zip(d.names, d.scores.tolist(), strict=True))
    assert len(d) == len(d.boxes) == len(list(d)) and d.boxes.dtype == np.float32


@settings(max_examples=40, deadline=None)
@given(detections(masks=True))
def test_dict_and_instances_undo(d: Detections) -> None:
    assert same(d, Detections.from_dict(json.loads(json.dumps(d.to_dict()))))
    assert same(d, Detections.from_instances(d.to_instances(), VOCABULARY))


def test_equal_scores_keep_their_order() -> None:
    d = Detections(boxes=[[i, 0, 9, 9] for i in range(5)], scores=[0.5, 0.9, 0.5, 0.5, 0.9], names=list("abcde"), size=SIZE)
    assert d.names == list("beacd") and d.vocabulary == tuple("abcde")


def test_choosing() -> None:
    d = Detections(boxes=np.zeros((4, 4)), scores=[0.9, 0.5, 0.3, 0.1], names=list("abca"), size=SIZE)
    assert d.filter(0.3).names == list("abc") and d[:2].names == list("ab") and d[None:None].names == d.names
    assert d[d.scores < 0.4].names == list("ca") and d[[0, 3]].names == list("aa") and d[-1].names == ["a"]
    assert d[:0].boxes.shape == (0, 4) and d[:0].vocabulary == tuple("abc") and len(d.filter(0.95)) == 0


def test_distinct_keeps_the_best_name_of_a_thing() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [20, 20, 30, 30]]
    d = Detections(boxes=boxes, scores=[0.5, 0.9, 0.4, 0.3], names=list("abcd"), size=SIZE)
    assert d.distinct(0.7).names == list("bcd") and d.distinct(1.0).names == list("bacd")


def test_read_only_copies() -> None:
    boxes = np.zeros((1, 4), dtype=np.float32)
    d = Detections(boxes=boxes, scores=[0.5], names=["cat"], size=SIZE)
    boxes += 1
    assert d.boxes.sum() == 0
    with pytest.raises(ValueError, match="read-only"):
        d.boxes[0] = 3
    with pytest.raises(AttributeError):
        d.scores = np.ones(1)


BAD = {
    "boxes have the shape": {"boxes": np.zeros((2, 3))},
    "scores have the shape": {"scores": [0.1]},
    "2 names": {"boxes": np.zeros((3, 4))},
    "finite XYXY": {"boxes": [[0, 0, np.nan, 1], [0, 0, 1, 1]]},
    "x1 <= x2": {"boxes": [[5, 0, 1, 1], [0, 0, 1, 1]]},
    r"0\.\.1": {"scores": [0.5, 1.5]},
    "not in the vocabulary": {"vocabulary": ("cat",)},
    "classes go from": {"classes": [0, 7]},
    "masks have the shape": {"masks": np.zeros((2, 4, 4))},
    "the picture has the shape": {"image": np.zeros((4, 4, 3), np.uint8)},
}


@pytest.mark.parametrize("message", BAD)
def test_refused(message: str) -> None:
    good = {"boxes": np.zeros((2, 4)), "scores": [0.5, 0.4], "names": ["cat", "dog"], "size": SIZE}
    Detections(**good)
    with pytest.raises(DataError, match=message):
        Detections(**{**good, **BAD[message]})


def test_from_dict_names_what_is_missing() -> None:
    with pytest.raises(DataError, match="'size'"):
        Detections.from_dict({"detections": [], "vocabulary": []})


def test_coco_entries() -> None:
    d = Detections(boxes=[[1, 2, 4, 8]], scores=[0.5], names=["dog"], size=SIZE, vocabulary=VOCABULARY)
    expected = {"image_id": 7, "category_id": 3, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}
    assert d.to_coco(7) == [expected]
    assert d.to_coco(7, category_ids=[10, 20, 30]) == [{**expected, "category_id": 30}]
    with pytest.raises(DataError, match="2 category ids for 3 names"):
        d.to_coco(7, category_ids=[1, 2])


def test_supervision() -> None:
    pytest.importorskip("supervision")
    d = Detections(boxes=[[1, 2, 4, 8], [0, 0, 1, 1]], scores=[0.5, 0.7], names=["dog", "cat"], size=SIZE, vocabulary=VOCABULARY)
    other = d.to_supervision()
    assert np.array_equal(other.xyxy, d.boxes) and list(other["class_name"]) == ["cat", "dog"] and list(other.class_id) == [0, 2]
    empty = Detections(boxes=[], scores=[], names=[], size=SIZE).to_supervision()
    assert len(empty) == 0


def test_text() -> None:
    d = Detections(boxes=[[1, 2, 4, 8]] * 30, scores=[0.5] * 30, names=["remote control"] * 30, size=SIZE)
    lines = repr(d).splitlines()
    assert lines[0] == "Detections(30 in a picture of 60 x 40 px)" and lines[-1] == "... and 20 more" and len(lines) == 13
    assert lines[2].split() == ["remote", "control", "0.500", "1.0", "2.0", "4.0", "8.0"]
    assert d[:0].table() == "nothing found" and len(d.table().splitlines()) == 31


def test_draw_needs_a_picture() -> None:
    with pytest.raises(DataError, match="carry no picture"):
        Detections(boxes=[], scores=[], names=[], size=SIZE).draw()
