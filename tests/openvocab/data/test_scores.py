"""Choosing boxes by their scores: GLIP's rule for a teacher's boxes, on records of any reader."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from detectron2.structures import BoxMode
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.data import ScoredBoxes, TrainSource, register_grounding_folder
from openvocab.data.budget import BadSampleBudget
from openvocab.data.grounding import load_odvg_records
from openvocab.data.scores import check_score
from openvocab.errors import ConfigError, DataError

TEXT = "a car, a dog and a cat"
SPANS = [[[2, 5]], [[9, 12]], [[19, 22]]]


def record(*boxes: tuple[int, float | None], names: bool = False) -> dict:
    """Box i is (10 i, 0, 10 i + 8, 8); each has a phrase (or class) and a score."""
    annotations = []
    for i, (phrase, score) in enumerate(boxes):
        row = {"bbox": [10 * i, 0, 10 * i + 8, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": phrase, "iscrowd": 0}
        annotations.append(row if score is None else {**row, "score": score})
    words = {} if names else {"caption": TEXT, "phrases": SPANS[: 1 + max((p for p, _ in boxes), default=-1)]}
    return {"image_id": len(boxes), "annotations": annotations, **words}


def test_phrases_without_a_sure_box_are_no_phrases() -> None:
    given_ = record((0, 0.9), (1, 0.5), (2, 0.6), (0, 0.2))
    before = copy.deepcopy(given_)
    (kept,) = ScoredBoxes(min_score=0.5)([given_])
    assert kept["phrases"] == [SPANS[0], SPANS[2]] and kept["caption"] == TEXT
    assert [(a["category_id"], a["score"]) for a in kept["annotations"]] == [(0, 0.9), (1, 0.6)], "0.5 is not above 0.5"
    assert given_ == before


def test_what_people_drew_stays_and_names_keep_their_places() -> None:
    (kept,) = ScoredBoxes(min_score=0.5)([record((4, None), (7, 0.1), (2, 0.8), names=True)])
    assert [a["category_id"] for a in kept["annotations"]] == [4, 2] and "phrases" not in kept


def test_fewest_boxes() -> None:
    records = [record((0, 0.9)), record((0, 0.9), (1, 0.8)), record()]
    assert ScoredBoxes(min_boxes=1)(records) == records[:2]
    assert ScoredBoxes(min_boxes=2)(records) == records[1:2]
    with pytest.raises(DataError, match="none of the 3 records has 3 box"):
        ScoredBoxes(min_boxes=3)(records)


def test_the_better_of_two_boxes() -> None:
    twice = record((0, 0.6), (1, 0.9))
    twice["annotations"][1]["bbox"] = [1, 0, 9, 8]
    assert ScoredBoxes()([twice]) == [twice], "no suppression by default"
    (kept,) = ScoredBoxes(nms_threshold=0.5)([twice])
    assert kept["phrases"] == [SPANS[1]] and [a["score"] for a in kept["annotations"]] == [0.9]


@settings(deadline=None, max_examples=50)
@given(
    boxes=st.lists(st.tuples(st.integers(0, 2), st.one_of(st.none(), st.floats(0, 1))), max_size=6),
    least=st.floats(0, 1, exclude_max=True),
)
def test_every_box_that_is_left_is_sure_and_keeps_its_words(boxes: list[tuple], least: float) -> None:
    given_ = record(*boxes)
    wanted = [(a["bbox"], given_["phrases"][a["category_id"]]) for a in given_["annotations"] if a.get("score", 2) > least]
    if not wanted:
        with pytest.raises(DataError, match="lower min_score"):
            ScoredBoxes(min_score=least)([given_])
        return
    (kept,) = ScoredBoxes(min_score=least)([given_])
    assert [(a["bbox"], kept["phrases"][a["category_id"]]) for a in kept["annotations"]] == wanted


@pytest.mark.parametrize(
    "bad", [{"min_score": 1.0}, {"min_score": -0.1}, {"nms_threshold": 0.0}, {"nms_threshold": 2}, {"min_boxes": 0}]
)
def test_impossible_settings(bad: dict) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(bad))}={next(iter(bad.values()))}"):
        ScoredBoxes(**bad)


@pytest.mark.parametrize("bad", [True, "0.5", float("nan"), -0.1, 1.1, [0.5]])
def test_what_is_no_score(bad: object) -> None:
    with pytest.raises(DataError, match="no number from 0 to 1"):
        check_score(bad)


def test_the_lines_of_a_teacher_bring_their_scores(tmp_path: Path) -> None:
    """The form that tools/pseudo_boxes.py writes, registered and drawn from."""
    def region(phrase: str, score: object) -> dict:
        return {"bbox": [1, 2, 11, 22], "phrase": phrase, "score": score}

    def line(*regions: dict) -> str:
        return json.dumps({"filename": "a.png", "height": 48, "width": 64, "grounding": {"caption": TEXT, "regions": regions}})

    (tmp_path / "images").mkdir()
    (tmp_path / "p.jsonl").write_text(line(region("a car", 0.9), region("a dog", 0.4)) + "\n" + line(region("a cat", 0.3)))
    register_grounding_folder("t_scores", annotations="p.jsonl", root=tmp_path, reader="odvg")
    assert [len(r["annotations"]) for r in TrainSource(name="t_scores", mapper=lambda r: r).load()] == [2, 1]
    (chosen,) = TrainSource(name="t_scores", mapper=lambda r: r, select=ScoredBoxes(min_score=0.5)).load()
    assert chosen["phrases"] == [[[0, 5]]] and chosen["annotations"][0]["score"] == 0.9

    (tmp_path / "p.jsonl").write_text(line(region("a car", 9), region("a dog", 0.4)))
    with pytest.raises(DataError, match="score 9 is no number"):
        load_odvg_records(tmp_path / "p.jsonl", tmp_path, "t", budget=BadSampleBudget(strict=True))
