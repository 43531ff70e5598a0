"""Accuracy on given boxes: counted by hand, whatever order a model answers in."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.structures import Boxes, Instances

from openvocab.data import get_records, get_vocabulary
from openvocab.data.annotations import boxes_of
from openvocab.errors import EvaluationError, VocabularyError
from openvocab.testing.quick import shapes_dataset
from openvocab.vocabulary import Vocabulary
from regionclip.pretraining.evaluate import RegionAccuracyEvaluator


@pytest.fixture(scope="module")
def dataset() -> str:
    return shapes_dataset(num=4, taxonomy="color")


def answers(dataset: str, say, order=lambda n: range(n)) -> tuple[list[dict], list[dict]]:
    """Inputs and outputs in which region j of picture i is called say(i, j, its class)."""
    inputs, outputs = [], []
    for i, record in enumerate(get_records(dataset)):
        boxes = torch.tensor(boxes_of(record["annotations"]), dtype=torch.float32)
        classes = torch.tensor([say(i, j, a["category_id"]) for j, a in enumerate(record["annotations"])])
        place = list(order(len(boxes)))
        found = Instances((record["height"], record["width"]), pred_boxes=Boxes(boxes[place]))
        found.scores, found.pred_classes = torch.full((len(boxes),), 0.4), classes[place]
        inputs.append({"image_id": record["image_id"]})
        outputs.append({"instances": found})
    return inputs, outputs


def truth(dataset: str) -> list[list[int]]:
    return [[a["category_id"] for a in r["annotations"]] for r in get_records(dataset)]


def test_right_names_in_any_order_are_right(dataset: str) -> None:
    evaluator = RegionAccuracyEvaluator(dataset_name=dataset)
    evaluator.process(*answers(dataset, lambda i, j, c: c, order=lambda n: reversed(range(n))))
    result = evaluator.evaluate()["regions"]
    assert result["top1"] == result["macro"] == 100 and result["count"] == sum(map(len, truth(dataset)))


def test_shares_are_those_counted_by_hand(dataset: str) -> None:
    classes = [c for row in truth(dataset) for c in row]
    common = max(set(classes), key=classes.count)
    names = get_vocabulary(dataset).names
    groups = {"novel": [names[common]], "base": [n for n in names if n != names[common]]}
    evaluator = RegionAccuracyEvaluator(dataset_name=dataset, groups=groups)
    evaluator.process(*answers(dataset, lambda i, j, c: common))
    result = evaluator.evaluate()["regions"]
    assert result["top1"] == pytest.approx(100 * classes.count(common) / len(classes))
    assert result["macro"] == pytest.approx(100 / len(set(classes)))
    assert result["top1_novel"] == result["macro_novel"] == 100 and result["top1_base"] == 0
    absent = next(n for i, n in enumerate(names) if i not in classes)
    assert math.isnan(result[f"top1-{absent}"])


def test_the_best_score_of_a_box_decides_and_no_answer_is_wrong(dataset: str, caplog) -> None:
    inputs, outputs = answers(dataset, lambda i, j, c: c)
    wrong = Instances(outputs[0]["instances"].image_size, pred_boxes=outputs[0]["instances"].pred_boxes.clone())
    wrong.scores = torch.full((len(wrong),), 0.9)
    wrong.pred_classes = (outputs[0]["instances"].pred_classes + 1) % 10
    outputs[0]["instances"] = Instances.cat([outputs[0]["instances"], wrong])
    outputs[1]["instances"] = outputs[1]["instances"][:0]
    evaluator = RegionAccuracyEvaluator(dataset_name=dataset)
    evaluator.process(inputs, outputs)
    counts = list(map(len, truth(dataset)))
    assert evaluator.evaluate()["regions"]["top1"] == pytest.approx(100 * sum(counts[2:]) / sum(counts))
    assert f"{counts[1]} of {sum(counts)} regions" in caplog.text


def test_names_may_be_some_and_in_another_order(dataset: str) -> None:
    names = list(get_vocabulary(dataset).names)
    asked = [names[c] for c in sorted({c for row in truth(dataset) for c in row})[:2]]
    evaluator = RegionAccuracyEvaluator(dataset_name=dataset, names=asked)
    spoken = Vocabulary.from_names([*reversed(names), "lamp"])
    inputs, outputs = answers(dataset, lambda i, j, c: len(names) - 1 - c)
    evaluator.process([{**x, "vocabulary": spoken} for x in inputs], outputs)
    result = evaluator.evaluate()["regions"]
    wanted = [c for row in truth(dataset) for c in row if names[c] in asked]
    assert result["top1"] == 100 and result["count"] == len(wanted)


def test_small_boxes_can_be_left_out_and_pictures_asked_for(dataset: str) -> None:
    evaluator = RegionAccuracyEvaluator(dataset_name=dataset, min_size=1e6)
    evaluator.process(*answers(dataset, lambda i, j, c: c))
    with pytest.raises(EvaluationError, match="no region"):
        evaluator.evaluate()
    pictures = RegionAccuracyEvaluator(dataset_name=dataset, given="pictures")
    alike = [str(r["image_id"]) for r, c in zip(get_records(dataset), truth(dataset), strict=True) if len(set(c)) == 1]
    assert sorted(pictures.truth) == sorted(alike)


def test_errors(dataset: str) -> None:
    with pytest.raises(EvaluationError, match="given='boxes'"):
        RegionAccuracyEvaluator(dataset_name=dataset, given="boxes")
    with pytest.raises(VocabularyError, match="'lamp'"):
        RegionAccuracyEvaluator(dataset_name=dataset, names=["lamp"])
    for wrong in ({"names": "red"}, {"groups": {"novel": "red"}}):
        with pytest.raises(EvaluationError, match="'red' is one string; give a list of names"):
            RegionAccuracyEvaluator(dataset_name=dataset, **wrong)
