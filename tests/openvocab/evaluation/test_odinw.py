"""Mean and median over many sets, of which some are there."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from openvocab.data import catalog
from openvocab.errors import EvaluationError
from openvocab.evaluation import ODinWEvaluator, find_odinw, odinw_records, summarize_odinw
from openvocab.evaluation.odinw import odinw_sets

from .conftest import output

BOX = (10, 10, 50, 60)


def write(folder: Path, names: list[str], pictures: int) -> None:
    folder.mkdir(parents=True)
    rows = [{"id": n, "image_id": n, "category_id": 1, "bbox": [10, 10, 40, 50], "area": 2000} for n in range(1, pictures + 1)]
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 100} for n in range(1, pictures + 1)],
        "categories": [{"id": i, "name": n} for i, n in enumerate(names, start=1)],
        "annotations": rows,
    }
    (folder / "annotations_without_background.json").write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Three sets as they lie on disk: in a folder of an odd name, with validation only, and in two sizes."""
    root = tmp_path / "odinw"
    write(root / "Aquarium/Aquarium Combined.v2-raw-1024.coco/test", ["fish", "shark"], 2)
    write(root / "Aquarium/Aquarium Combined.v2-raw-1024.coco/train", ["fish", "shark"], 2)
    write(root / "PascalVOC/valid", ["cat"], 3)
    for size in (100, 416):
        write(root / f"plantdoc/{size}x{size}/test", ["leaf"], 1)
    yield root
    for name in [n for n in catalog._ENTRIES if n.startswith("odinw_")]:
        catalog.unregister(name)


def test_suites() -> None:
    assert len(odinw_sets(13)) == 13 and len(odinw_sets(35)) == 35 and set(odinw_sets(13)) <= set(odinw_sets(35))
    with pytest.raises(EvaluationError, match="suite=14 must be one of 13, 35"):
        odinw_sets(14)


def test_sets_are_found_by_their_folders(root: Path) -> None:
    small = {
        "Aquarium": "odinw_Aquarium_Aquarium_Combined_v2_raw_1024_coco_test",
        "PascalVOC": "odinw_PascalVOC_val",
    }
    assert find_odinw(13, root) == small
    assert find_odinw(35, root) == {**small, "plantdoc": "odinw_plantdoc_416x416_test"}
    write(root / "Aquarium/another/test", ["fish", "shark"], 1)
    with pytest.raises(EvaluationError, match="'Aquarium' of ODinW-13 could be .*another_test'; say which with datasets="):
        find_odinw(13, root)


def test_one_evaluator_for_all_sets(root: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    sets = find_odinw(35, root)
    evaluator = ODinWEvaluator(suite=35, root=root, output_dir=tmp_path / "out")
    evaluator.reset()
    records = odinw_records(sets)
    assert len(records) == 6
    for record in reversed(records):  # pictures of the sets have the same ids
        miss = record["dataset_source"] == sets["PascalVOC"] and record["image_id"] > 1
        found = output([] if miss else [(0, BOX, 0.9)])
        evaluator.process([{"image_id": record["image_id"], "dataset": record["dataset_source"]}], [found])
    with caplog.at_level(logging.WARNING):
        result = evaluator.evaluate()
    assert set(result) == {"odinw"}
    numbers = result["odinw"]
    voc = numbers["AP50-PascalVOC"]
    assert numbers["AP-Aquarium"] == numbers["AP-plantdoc"] == pytest.approx(100) and 30 < voc < 40
    assert numbers["AP50_mean"] == pytest.approx((200 + voc) / 3) and numbers["AP50_median"] == pytest.approx(100)
    assert math.isnan(numbers["AP-Raccoon"]) and numbers["sets"] == 35 and numbers["sets_missing"] == 32
    assert "32 of 35 sets are missing" in caplog.text and "Raccoon" in caplog.text
    assert len(numbers) == 2 * 35 + 4 + 2 and all(type(v) is float for v in numbers.values())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["Aquarium", "PascalVOC", "plantdoc"]


def test_the_shape_is_always_the_same(caplog: pytest.LogCaptureFixture) -> None:
    def results(names: tuple[str, ...]) -> dict:
        return {n: {"bbox": {"AP": float(i), "AP50": 2.0 * i}} for i, n in enumerate(names)}

    names = odinw_sets(13)
    full = summarize_odinw(results(names), 13)["odinw"]
    assert not caplog.text
    assert full["AP_mean"] == 6 and full["AP_median"] == 6 and full["AP50_mean"] == 12 and full["sets_missing"] == 0
    some, none = summarize_odinw(results(names[:4]), 13)["odinw"], summarize_odinw({}, 13)["odinw"]
    assert set(full) == set(some) == set(none)
    assert some["AP_mean"] == some["AP_median"] == 1.5 and some["sets_missing"] == 9 and math.isnan(none["AP_mean"])


def test_wrong_calls_are_sentences(root: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="'Aquariun' is no set of ODinW-13. Did you mean 'Aquarium'"):
        summarize_odinw({"Aquariun": {}}, 13)
    with pytest.raises(EvaluationError, match="'BCCD' is no set of ODinW-13"):
        ODinWEvaluator(datasets={"BCCD": "bccd_test"})
    with pytest.raises(EvaluationError, match="no set of ODinW-13 was found"):
        ODinWEvaluator(root=tmp_path / "empty")
    evaluator = ODinWEvaluator(root=root)
    with pytest.raises(EvaluationError, match="picture 1 is of data set 'raccoon_val', which is not among .*odinw_PascalVOC_val"):
        evaluator.process([{"image_id": 1, "dataset": "raccoon_val"}], [output([])])
    with pytest.raises(EvaluationError, match="1 outputs for 0 pictures"):
        evaluator.process([], [output([])])
    with pytest.raises(EvaluationError, match="no picture of 'odinw_Aquarium.* was processed"):
        evaluator.evaluate()
