"""The evaluator around the metric: names, pictures, files."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from openvocab.errors import DataError, EvaluationError, VocabularyError
from openvocab.evaluation import COCODetectionEvaluator
from openvocab.vocabulary import Vocabulary

from .conftest import IDS, ORDER, output

Perfect = Callable[..., tuple[list[dict], list[dict]]]


def run(evaluator: COCODetectionEvaluator, inputs: list[dict], outputs: list[dict]) -> dict:
    evaluator.reset()
    evaluator.process(inputs, outputs)
    return evaluator.evaluate()


def test_class_indices_count_the_sorted_category_ids(annotations: Path, perfect: Perfect) -> None:
    result = run(COCODetectionEvaluator(annotations=annotations), *perfect())["bbox"]
    assert result["AP"] == result["AP-cat"] == result["AP50-dog"] == 100 and math.isnan(result["AP-red_car"])
    wrong = run(COCODetectionEvaluator(annotations=annotations), *perfect(["cat", "red_car", "dog"]))["bbox"]
    assert wrong["AP-cat"] == wrong["AP-dog"] == 0


def test_result_keys(annotations: Path, perfect: Perfect) -> None:
    result = run(COCODetectionEvaluator(annotations=annotations), *perfect())
    assert list(result) == ["bbox"]
    classes = {f"{m}-{n}" for m in ("AP", "AP50") for n in ORDER}
    assert set(result["bbox"]) == {"AP", "AP50", "AP75", "APs", "APm", "APl"} | classes
    assert all(type(v) is float for v in result["bbox"].values())


def test_masks(annotations: Path, perfect: Perfect) -> None:
    result = run(COCODetectionEvaluator(annotations=annotations), *perfect(masks=True))
    assert list(result) == ["bbox", "segm"] and result["segm"]["AP"] > 95
    inputs, outputs = perfect(masks=True)
    for out in outputs:
        out["instances"].pred_masks[:] = False
    assert run(COCODetectionEvaluator(annotations=annotations), inputs, outputs)["segm"]["AP"] == 0


def test_masks_without_true_masks(annotations: Path, perfect: Perfect, caplog: pytest.LogCaptureFixture) -> None:
    content = json.loads(annotations.read_text())
    del content["annotations"][0]["segmentation"]
    annotations.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        result = run(COCODetectionEvaluator(annotations=annotations), *perfect(masks=True))
    assert list(result) == ["bbox"] and "masks are not evaluated" in caplog.text


def test_another_vocabulary_is_matched_by_name_prompt_and_alias(
    annotations: Path, perfect: Perfect, caplog: pytest.LogCaptureFixture
) -> None:
    words = Vocabulary.from_names(
        ["unicorn", "kitten", "hound", "Red Car"],
        prompts=["unicorn", "kitten", "dog", "red car"],
        aliases=[(), ("cat",), (), ()],
    )
    with caplog.at_level(logging.WARNING):
        evaluator = COCODetectionEvaluator(annotations=annotations, vocabulary=words)
    assert "1 of 4 names are not in" in caplog.text and "unicorn" in caplog.text and len(caplog.records) == 1
    inputs, outputs = perfect(["?", "cat", "dog", "red_car"])
    extra = output([(0, (1, 1, 9, 9), 1.0)])["instances"]  # a unicorn, left out
    outputs[2]["instances"] = extra
    assert run(evaluator, inputs, outputs)["bbox"]["AP"] == 100


def test_no_name_in_common(annotations: Path) -> None:
    with pytest.raises(EvaluationError, match=r"none of the model's 2 names \(ant, bee\).*red_car, dog, cat"):
        COCODetectionEvaluator(annotations=annotations, vocabulary=["ant", "bee"])


def test_chosen_categories(annotations: Path, perfect: Perfect, tmp_path: Path) -> None:
    evaluator = COCODetectionEvaluator(annotations=annotations, category_names=["dog"], output_dir=tmp_path / "out")
    result = run(evaluator, *perfect())["bbox"]
    assert result["AP"] == result["AP-dog"] == 100 and "AP-cat" not in result
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {r["category_id"] for r in written} == {IDS["dog"]}
    with pytest.raises(VocabularyError, match="'dgo' is not in .*Did you mean 'dog'"):
        COCODetectionEvaluator(annotations=annotations, category_names=["dgo"])
    for wrong in ("dog", []):
        with pytest.raises(EvaluationError, match="must be a list of names"):
            COCODetectionEvaluator(annotations=annotations, category_names=wrong)


def test_written_predictions(annotations: Path, perfect: Perfect, tmp_path: Path) -> None:
    run(COCODetectionEvaluator(annotations=annotations, output_dir=tmp_path / "out"), *perfect())
    rows = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    first = {**rows[0], "score": round(rows[0]["score"], 4)}
    assert first == {"image_id": 1, "category_id": IDS["cat"], "bbox": [10, 10, 40, 50], "score": 0.9}
    assert len(rows) == 3


def test_a_picture_processed_twice_counts_once(annotations: Path, perfect: Perfect) -> None:
    evaluator = COCODetectionEvaluator(annotations=annotations)
    evaluator.process(*perfect())
    evaluator.process(*perfect())
    assert evaluator.evaluate()["bbox"]["AP"] == 100


def test_pictures_that_were_not_processed_do_not_count_but_are_mentioned(
    annotations: Path, perfect: Perfect, caplog: pytest.LogCaptureFixture
) -> None:
    inputs, outputs = perfect()
    with caplog.at_level(logging.WARNING):
        result = run(COCODetectionEvaluator(annotations=annotations), inputs[:1], outputs[:1])["bbox"]
    assert result["AP-cat"] == 100 and math.isnan(result["AP-dog"])
    assert "is evaluated on 1 of its 4 pictures" in caplog.text


def test_no_predictions(annotations: Path) -> None:
    inputs = [{"image_id": i} for i in (1, 2, 3, 4)]
    result = run(COCODetectionEvaluator(annotations=annotations), inputs, [output([]) for _ in inputs])["bbox"]
    assert result["AP"] == result["AP-cat"] == result["AP50-dog"] == 0
    assert math.isnan(result["AP-red_car"]) and math.isnan(result["APs"])


@pytest.mark.parametrize(
    ("found", "said"), [((0, (1, 1, 9, 9), math.nan), "score nan"), ((0, (1, math.inf, 9, 9), 0.9), r"box \(XYWH\) \[1.0, inf")]
)
def test_values_that_are_not_finite(annotations: Path, found: tuple, said: str) -> None:
    evaluator = COCODetectionEvaluator(annotations=annotations)
    with pytest.raises(EvaluationError, match=rf"detection 1 in picture 3 .*{said}.*1 of 2 .*evaluate in float32"):
        evaluator.process([{"image_id": 3}], [output([(0, (1, 1, 9, 9), 0.5), found])])


def test_reset_forgets(annotations: Path, perfect: Perfect) -> None:
    evaluator = COCODetectionEvaluator(annotations=annotations)
    evaluator.process(*perfect(["cat", "red_car", "dog"]))
    assert run(evaluator, *perfect())["bbox"]["AP"] == 100


def test_max_dets(annotations: Path, perfect: Perfect) -> None:
    inputs, outputs = perfect()
    noise = [(2, (0, 0, 5, 5 + i / 100), 0.95) for i in range(10)]
    outputs[0] = output([*noise, (2, (10, 10, 50, 60), 0.9)])
    few = run(COCODetectionEvaluator(annotations=annotations, max_dets=10), inputs, outputs)["bbox"]["AP50-cat"]
    many = run(COCODetectionEvaluator(annotations=annotations, max_dets=11), inputs, outputs)["bbox"]["AP50-cat"]
    assert few < many
    with pytest.raises(EvaluationError, match="max_dets=0"):
        COCODetectionEvaluator(annotations=annotations, max_dets=0)


def test_wrong_calls_are_sentences(annotations: Path, tmp_path: Path) -> None:
    evaluator = COCODetectionEvaluator(annotations=annotations)
    with pytest.raises(EvaluationError, match="picture with id 9 is not in"):
        evaluator.process([{"image_id": 9}], [output([])])
    with pytest.raises(EvaluationError, match=r"predicts class 80.*has 3 names; give it.*vocabulary="):
        evaluator.process([{"image_id": 1}], [output([(80, (0, 0, 1, 1), 0.5)])])
    with pytest.raises(EvaluationError, match="predicts class -1"):
        evaluator.process([{"image_id": 1}], [output([(-1, (0, 0, 1, 1), 0.5)])])
    with pytest.raises(EvaluationError, match="1 outputs for 2 pictures"):
        evaluator.process([{"image_id": 1}, {"image_id": 2}], [output([])])
    evaluator.reset()
    with pytest.raises(EvaluationError, match="no picture of .* was processed"):
        evaluator.evaluate()
    with pytest.raises(EvaluationError, match="dataset_name or an annotations file"):
        COCODetectionEvaluator()
    with pytest.raises(DataError, match="there is no annotation file"):
        COCODetectionEvaluator(annotations=tmp_path / "nothing.json")
    with pytest.raises(DataError, match="no_such_set"):
        COCODetectionEvaluator("no_such_set")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(categories=[]), "no categories"),
        (lambda c: c["categories"].append({"id": 3, "name": "again"}), "twice"),
        (lambda c: c["categories"].append({"id": 99, "name": "cat"}), "'cat' is there twice"),
        (lambda c: c["annotations"][0].pop("bbox"), "annotation 1 has no box"),
    ],
)
def test_damaged_annotations(annotations: Path, perfect: Perfect, change: Callable, message: str) -> None:
    content = json.loads(annotations.read_text())
    change(content)
    annotations.write_text(json.dumps(content))
    with pytest.raises((EvaluationError, DataError, VocabularyError), match=message):
        run(COCODetectionEvaluator(annotations=annotations), *perfect())


def test_a_registered_set_with_its_own_words(annotations: Path, perfect: Perfect, tmp_path: Path) -> None:
    from openvocab.data import catalog, register_coco_folder

    words = Vocabulary.from_names(["car", "puppy", "kitten"])
    (tmp_path / "images").mkdir()
    register_coco_folder(
        "evaluated_set", root=tmp_path, annotations=annotations.name, images="images", vocabulary=words
    )
    try:
        evaluator = COCODetectionEvaluator("evaluated_set")
        result = run(evaluator, *perfect())["bbox"]
    finally:
        catalog.unregister("evaluated_set")
    assert evaluator.vocabulary == words and result["AP-kitten"] == result["AP-puppy"] == 100


def test_a_set_without_a_json(perfect: Perfect) -> None:
    DatasetCatalog.register("set_without_json", list)
    MetadataCatalog.get("set_without_json").set(thing_classes=["cat"])
    try:
        with pytest.raises(EvaluationError, match="registered without a json file; pass annotations="):
            COCODetectionEvaluator("set_without_json")
    finally:
        DatasetCatalog.remove("set_without_json")
        MetadataCatalog.remove("set_without_json")


def test_half_precision_outputs(annotations: Path, perfect: Perfect) -> None:
    inputs, outputs = perfect()
    for out in outputs:
        out["instances"].scores = out["instances"].scores.to(torch.bfloat16)
    assert run(COCODetectionEvaluator(annotations=annotations), inputs, outputs)["bbox"]["AP"] == 100
