"""What a COCO json may hold, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvocab.data.budget import BadSampleBudget
from openvocab.data.coco_json import check_box, load_coco_records, safe_join
from openvocab.errors import DataError


def load(folder: Path, **more: object) -> list[dict]:
    return load_coco_records(folder / "train.json", folder / "images", "t", **more)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x.png", "a/../../x.png", "..\\x.png", "C:\\x.png", "\\\\host\\x.png", "", "a\0b", None, 3],
)
def test_file_names_that_leave_the_folder_are_refused(coco: Path, editor: Callable, name: object) -> None:
    editor(coco, lambda c: c["images"][2].update(file_name=name))
    with pytest.raises(DataError, match="file_name"):
        load(coco)


@given(st.lists(st.sampled_from(["a", "..", ".", "b c", "ü"]), min_size=1, max_size=6))
def test_joined_names_stay_inside(parts: list[str]) -> None:
    folder = Path("/data/images")
    try:
        joined = safe_join(folder, "/".join(parts))
    except DataError:
        assert ".." in parts
        return
    depth = 0
    for part in Path(joined).relative_to(folder).parts:
        depth += -1 if part == ".." else 1
        assert depth >= 0


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"images": 3}', "\udcff", '{"images": [], "categories": {}}', "[" * 100_000]
)
def test_files_that_are_no_coco_json(tmp_path: Path, content: str) -> None:
    (tmp_path / "train.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match="train.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"].append(dict(c["images"][0])), "image id 100 is there twice"),
        (lambda c: c["images"][0].pop("height"), "no usable id, height or width"),
        (lambda c: c["images"][0].update(width=0), "no usable id, height or width"),
        (lambda c: c["categories"].append(dict(c["categories"][0])), "category id 11 is there twice"),
        (lambda c: c["categories"][0].pop("name"), "no 'name'"),
    ],
)
def test_broken_structure_is_refused(coco: Path, editor: Callable, change: Callable, message: str) -> None:
    editor(coco, change)
    with pytest.raises(DataError, match=message):
        load(coco)


def test_bad_annotations_are_skipped_up_to_the_budget(
    coco: Path, editor: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    editor(coco, lambda c: c["annotations"][0].update(bbox=[1, 2, 3]))
    with caplog.at_level("WARNING", "openvocab.data.budget"):
        records = load(coco)
    assert [len(r["annotations"]) for r in records] == [1, 2, 2, 2, 2, 2]
    assert [m for m in caplog.messages if "annotation 1: bbox [1, 2, 3] is not four numbers" in m]
    with pytest.raises(DataError, match="1 of 12 .* 0 allowed: annotation 1"):
        load(coco, budget=BadSampleBudget(strict=True))
    editor(coco, lambda c: c["annotations"][3].update(category_id=99))
    with pytest.raises(DataError, match="2 of 12 .* 1 allowed: annotation 1: bbox .*; annotation 4: category_id 99"):
        load(coco)
    assert sum(len(r["annotations"]) for r in load(coco, budget=BadSampleBudget(at_least=2))) == 10


def test_boxes_without_area_do_not_count_as_bad(coco: Path, editor: Callable) -> None:
    def flatten(content: dict) -> None:
        for annotation in content["annotations"][:5]:
            annotation["bbox"][2] = 0

    editor(coco, flatten)
    assert sum(len(r["annotations"]) for r in load(coco, budget=BadSampleBudget(strict=True))) == 7


@pytest.mark.parametrize(
    "box", [[0, 0, float("nan"), 1], [0, 0, float("inf"), 1], ["0", 0, 1, 1], None, [True, 0, 1, 1], []]
)
def test_boxes_that_are_no_boxes(box: object) -> None:
    assert "bbox" in check_box(box)


def test_lvis_names_pictures_by_url(coco: Path, editor: Callable) -> None:
    def as_lvis(content: dict) -> None:
        for image in content["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/train2017/{image.pop('file_name')}"
            image["neg_category_ids"] = [3]

    editor(coco, as_lvis)
    record = load(coco)[0]
    assert record["file_name"] == str(coco / "images/train2017/0.png") and record["neg_category_ids"] == [3]


def test_crowds_and_masks_are_kept(coco: Path, editor: Callable) -> None:
    runs = {"size": [48, 64], "counts": [0, 5]}
    editor(coco, lambda c: c["annotations"][1].update(iscrowd=1, segmentation=runs))
    annotation = load(coco)[0]["annotations"][1]
    assert annotation["iscrowd"] == 1 and annotation["segmentation"] == json.loads(json.dumps(runs))
