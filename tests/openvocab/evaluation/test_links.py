"""Boxes of written words: figures by hand, which class a phrase names, two processes' parts, and outputs without links."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from openvocab.data import register_coco_folder
from openvocab.data.catalog import unregister
from openvocab.errors import ConfigError, EvaluationError
from openvocab.evaluation import LinkEvaluator
from openvocab.evaluation.links import class_of
from openvocab.prompting import Caption, noun_phrases, phrases_of_answer
from openvocab.testing import run_gloo
from openvocab.vocabulary import Vocabulary

CIRCLE, SQUARE = [0, 0, 10, 10], [20, 20, 10, 10]  # XYWH
NAMES = ("circle", "square", "traffic light")


def write_set(folder: Path) -> None:
    """Two pictures: a circle and a square; a circle."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 40} for i in (1, 2)]
    boxes = [(1, 0, CIRCLE), (1, 1, SQUARE), (2, 0, CIRCLE)]
    annotations = [
        {"id": n, "image_id": i, "category_id": c + 1, "bbox": b, "area": 100, "iscrowd": 0} for n, (i, c, b) in enumerate(boxes, 1)
    ]
    (folder / "images").mkdir(parents=True)
    for image in images:
        Image.new("RGB", (40, 40)).save(folder / "images" / image["file_name"])
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES, 1)]
    (folder / "boxes.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


@pytest.fixture
def name(tmp_path: Path) -> Iterator[str]:
    write_set(tmp_path / "set")
    register_coco_folder("links_test", root=tmp_path / "set", annotations="boxes.json", images="images")
    yield "links_test"
    unregister("links_test")


def output(text: Caption | None, *found: tuple[int, float, list[int]]) -> dict:
    """What a model gives: (phrase, score, box XYWH) of each detection."""
    if text is None:
        return {"linked": None}
    boxes = torch.tensor([b for _, _, b in found], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances = Instances((40, 40), pred_boxes=Boxes(boxes))
    instances.scores = torch.tensor([s for _, s, _ in found])
    instances.pred_classes = torch.tensor([p for p, _, _ in found], dtype=torch.int64)
    return {"linked": text, "instances": instances}


SAID = noun_phrases("a large red circle and two squares")


def test_the_figures_by_hand(name: str) -> None:
    """Circles: said 1, there 2, right 1. Squares: said 2 (one picture has none), there 1, right 0: the better box is elsewhere."""
    evaluator = LinkEvaluator(name)
    first = output(SAID, (0, 0.9, CIRCLE), (1, 0.4, SQUARE), (1, 0.6, CIRCLE), (0, 0.1, SQUARE))
    second = output(noun_phrases("the square"), (0, 0.8, CIRCLE))
    evaluator.process([{"image_id": 1}, {"image_id": 2}], [first, second])
    found = evaluator.evaluate()["links"]
    assert found == pytest.approx(
        {
            "F1_all": 100 * (2 / 3 + 0) / 2,
            "precision": 100 * (1 + 0) / 2,
            "recall": 100 * (1 / 2 + 0) / 2,
            "F1_loc": 100 * (1 + 0) / 2,
            "texts": 2,
        }
    )


def test_nothing_said_and_nothing_right(name: str) -> None:
    evaluator = LinkEvaluator(name)
    evaluator.process([{"image_id": 1}, {"image_id": 2}], [output(None), output(noun_phrases("a striped background"))])
    found = evaluator.evaluate()["links"]
    assert found["F1_all"] == found["recall"] == 0 and math.isnan(found["precision"]) and math.isnan(found["F1_loc"])


def test_crowds_neither_reward_nor_punish(name: str) -> None:
    evaluator = LinkEvaluator(name)
    evaluator._records[2]["annotations"].append({"category_id": 1, "bbox": SQUARE, "bbox_mode": 1, "iscrowd": 1})
    evaluator.process([{"image_id": 2}], [output(SAID, (0, 0.9, CIRCLE), (1, 0.9, SQUARE))])
    assert evaluator.evaluate()["links"]["precision"] == 100, "of circles alone"


def test_questions_count_each_and_a_text_once(name: str) -> None:
    evaluator = LinkEvaluator(name)
    asked = phrases_of_answer("where is the circle ?", "left")
    inputs = [{"image_id": 1, "question_id": q} for q in (7, 8, 7)]
    evaluator.process(inputs, [output(asked, (0, 0.9, CIRCLE)), output(asked, (0, 0.9, SQUARE)), output(asked, (0, 0.9, SQUARE))])
    found = evaluator.evaluate()["links"]
    assert found["texts"] == 2 and found["F1_loc"] == pytest.approx(50), "of circles; no question speaks of squares"


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("a large red circle", 0),
        ("two squares", 1),
        ("Circle", 0),
        ("a light", None),
        ("the traffic lights", 2),
        ("circle of friends", None),
        ("a round thing", 0),
        ("boxes", 1),
        ("babies", 3),
        ("two knives", 4),
    ],
)
def test_which_class_a_phrase_names(phrase: str, expected: int | None) -> None:
    vocabulary = Vocabulary.from_names([*NAMES, "baby", "knife"], aliases=[["round thing"], ["box"], [], [], []])
    assert class_of(phrase, vocabulary) == expected


def test_what_cannot_be_judged(name: str) -> None:
    with pytest.raises(ConfigError, match="iou_threshold=0"):
        LinkEvaluator(name, iou_threshold=0)
    evaluator = LinkEvaluator(name)
    with pytest.raises(EvaluationError, match="nothing to evaluate"):
        evaluator.evaluate()
    with pytest.raises(EvaluationError, match="links=True"):
        evaluator.process([{"image_id": 1}], [{"caption": "a circle"}])
    with pytest.raises(EvaluationError, match="id 3"):
        evaluator.process([{"image_id": 3}], [output(None)])
    with pytest.raises(EvaluationError, match="1 outputs for 2 texts"):
        evaluator.process([{"image_id": 1}, {"image_id": 2}], [output(None)])


def on_a_rank(folder: str) -> dict:
    rank = torch.distributed.get_rank()
    register_coco_folder("links_ddp", root=Path(folder), annotations="boxes.json", images="images")
    evaluator = LinkEvaluator("links_ddp")
    seen = [output(SAID, (0, 0.9, CIRCLE), (1, 0.9, SQUARE)), output(noun_phrases("a traffic light"))]
    evaluator.process([{"image_id": 1}], [seen[rank]])  # both see the first picture: as the lower rank saw it
    if rank:
        evaluator.process([{"image_id": 2}], [output(SAID, (0, 0.9, SQUARE))])
    return evaluator.evaluate()


@pytest.mark.slow
def test_two_processes_judge_each_text_once(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    first, second = run_gloo(on_a_rank, str(tmp_path / "set"), world_size=2, timeout=300)
    assert second == {} and first["links"]["texts"] == 2
    assert first["links"]["precision"] == pytest.approx(100 * (1 / 2 + 1 / 2) / 2)
