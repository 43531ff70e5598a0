"""Readers of grounding files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from detectron2.structures import BoxMode

from openvocab.data import DatasetMapper, catalog, get_records
from openvocab.data.budget import BadSampleBudget
from openvocab.data.grounding import find_phrase, load_mdetr_records, load_odvg_records
from openvocab.errors import DataError

CAPTION = "Two men in red hats and a dog"


def mdetr(tmp_path: Path, *more: dict) -> Path:
    image = {"id": 5, "file_name": "a.png", "height": 48, "width": 64, "caption": CAPTION}
    image["tokens_positive_eval"] = [[[0, 7]], [[24, 29]]]
    boxes = [([1, 2, 10, 20], [[0, 7]]), ([30, 2, 10, 20], [[0, 7]]), ([1, 2, 5, 5], [[11, 14], [15, 19]])]
    annotations = [{"id": i, "image_id": 5, "bbox": b, "tokens_positive": t} for i, (b, t) in enumerate(boxes)]
    content = {"images": [image], "annotations": [*annotations, *more], "categories": []}
    (tmp_path / "g.json").write_text(json.dumps(content))
    return tmp_path / "g.json"


def test_mdetr(tmp_path: Path) -> None:
    (record,) = load_mdetr_records(mdetr(tmp_path), tmp_path / "images", "g")
    assert record["caption"] == CAPTION and record["phrases"] == [[[0, 7]], [[11, 14], [15, 19]]]
    assert [a["category_id"] for a in record["annotations"]] == [0, 0, 1], "boxes of one phrase share it"
    assert record["annotations"][0]["bbox_mode"] == BoxMode.XYWH_ABS and record["phrases_eval"] == [
        [[0, 7]],
        [[24, 29]],
    ]
    assert record["file_name"] == str(tmp_path / "images/a.png") and record["dataset_source"] == "g"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"image_id": 5, "bbox": [0, 0, 1, 1], "tokens_positive": [[0, 99]]}, "outside the caption"),
        ({"image_id": 5, "bbox": [0, 0, 1, 1], "tokens_positive": [[4, 4]]}, "outside the caption"),
        ({"image_id": 5, "bbox": [0, 0, 1, 1]}, "spans None"),
        ({"image_id": 5, "bbox": [0, 0, 1, 1], "tokens_positive": []}, "no span"),
        ({"image_id": 6, "bbox": [0, 0, 1, 1], "tokens_positive": [[0, 3]]}, "belongs to no image"),
        ({"image_id": 5, "bbox": [0, 0, 1], "tokens_positive": [[0, 3]]}, "not four numbers"),
    ],
)
def test_bad_annotations_use_up_the_budget(tmp_path: Path, bad: dict, message: str) -> None:
    path = mdetr(tmp_path, bad)
    assert len(load_mdetr_records(path, tmp_path, "g")[0]["annotations"]) == 3
    with pytest.raises(DataError, match=message):
        load_mdetr_records(path, tmp_path, "g", budget=BadSampleBudget(strict=True))


def test_sentence_without_text_or_with_a_wild_name(tmp_path: Path) -> None:
    path = mdetr(tmp_path)
    content = json.loads(path.read_text())
    for change, message in (
        ({"caption": " "}, "no caption"),
        ({"file_name": "../a.png"}, "leaves"),
        ({"width": None}, "width"),
    ):
        broken = {**content, "images": [{**content["images"][0], **change}]}
        path.write_text(json.dumps(broken))
        with pytest.raises(DataError, match=message):
            load_mdetr_records(path, tmp_path, "g")


def test_phrases_without_any_box_are_refused_and_single_sentences_without_one_are_counted(tmp_path: Path, caplog) -> None:
    path = mdetr(tmp_path)
    content = json.loads(path.read_text())
    content["images"].append({**content["images"][0], "id": 6})
    path.write_text(json.dumps(content))
    with caplog.at_level("INFO", "openvocab"):
        assert [len(r["annotations"]) for r in load_mdetr_records(path, tmp_path, "g")] == [3, 0]
    assert "1 of 2 sentences have no box" in caplog.text
    path.write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(DataError, match="none of its 2 sentences has a box"):
        load_mdetr_records(path, tmp_path, "g")
    row = {"filename": "a.png", "height": 48, "width": 64, "grounding": {"caption": CAPTION, "regions": []}}
    (tmp_path / "g.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match="none of its 1 sentences has a box"):
        load_odvg_records(tmp_path / "g.jsonl", tmp_path, "g")


def test_odvg(tmp_path: Path) -> None:
    regions = [
        {"bbox": [1, 2, 11, 22], "phrase": ["two men", "a dog"]},
        {"bbox": [1, 2, 6, 7], "phrase": "red hats"},
        {"bbox": [5, 5, 5, 9], "phrase": "a dog"},
        {"bbox": [9, 9, 20, 20], "phrase": "hat"},
        {"bbox": [9, 9, 20, 20], "phrase": "x", "tokens_positive": [[24, 29]]},
    ]
    row = {"filename": "a.png", "height": 48, "width": 64, "grounding": {"caption": CAPTION, "regions": regions}}
    (tmp_path / "g.jsonl").write_text(json.dumps(row) + "\n\n")
    (record,) = load_odvg_records(tmp_path / "g.jsonl", tmp_path, "g")
    texts = [CAPTION[s:e] for ((s, e),) in record["phrases"]]
    assert texts == ["Two men", "a dog", "red hats"]
    assert [a["category_id"] for a in record["annotations"]] == [0, 1, 2, 1], "'hat' is not a word of the caption"
    assert record["annotations"][0]["bbox_mode"] == BoxMode.XYXY_ABS


def test_odvg_refuses_detection_lines_and_broken_ones(tmp_path: Path) -> None:
    for text, message in (
        (json.dumps({"filename": "a", "detection": {}}), "register detection data as COCO"),
        ("{", "json lines"),
    ):
        (tmp_path / "g.jsonl").write_text(text)
        with pytest.raises(DataError, match=message):
            load_odvg_records(tmp_path / "g.jsonl", tmp_path, "g")


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({"phrase": "a dog"}, "bbox None is not four numbers"),
        ({"phrase": "a dog", "bbox": []}, "not four numbers"),
        ({"bbox": [1, 2, 11, 22]}, "the phrase '' is not in the caption"),
        ({"bbox": [1, 2, 11, 22], "phrase": "a dog", "tokens_positive": [[24, 99]]}, "outside the caption"),
    ],
)
def test_phrases_without_boxes_and_boxes_without_phrases(tmp_path: Path, region: dict, message: str) -> None:
    row = {"filename": "a.png", "height": 48, "width": 64, "grounding": {"caption": CAPTION, "regions": [region]}}
    (tmp_path / "g.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=f"line 1: .*{message}"):
        load_odvg_records(tmp_path / "g.jsonl", tmp_path, "g", budget=BadSampleBudget(strict=True))


def test_phrases_are_whole_words() -> None:
    assert find_phrase("HAT", "that hat") == ((5, 8),)
    with pytest.raises(DataError, match="'ha' is not in the caption"):
        find_phrase("ha", "that hat")


def test_registered_grounding_set_reaches_the_model(tmp_path: Path, coco: Path) -> None:
    (coco / "images/0.png").rename(coco / "images/a.png")
    entry = catalog.Entry(name="t_g", annotations=mdetr(tmp_path), images=coco / "images", reader="mdetr")
    catalog.register(entry)
    sample = DatasetMapper(is_train=True)(get_records("t_g")[0])
    assert sample["caption"].names == ("Two men", "red hats") and sample["instances"].gt_classes.tolist() == [0, 0, 1]
