"""tools/benchmark.py from the command line: a detector of coloured rectangles, and the shipped one on ShapesWorld."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from openvocab.data import catalog, register_coco_folder
from openvocab.errors import ConfigError, DataError, EvaluationError, OpenVocabError
from tests.openvocab.colours import paint, write_config

ROOT = Path(__file__).resolve().parents[2]
RED, BLUE, GREEN = (20, 30, 70, 90), (100, 10, 140, 60), (80, 70, 150, 110)
NAMES = ["red box", "blue box", "green box"]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = spec_from_file_location("benchmark_under_test", ROOT / "tools" / "benchmark.py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write_set(folder: Path, *, federated: bool = False) -> Path:
    """Three pictures; the third one's green box is annotated as red, so one of two classes is found in part."""
    (folder / "images").mkdir(parents=True)
    shown = [{"red": RED, "blue": BLUE}, {"red": RED}, {"green": GREEN}]
    truth = [[(1, RED), (2, BLUE)], [(1, RED)], [(1, GREEN)]]
    for n, boxes in enumerate(shown, start=1):
        Image.fromarray(paint((120, 160), **boxes)).save(folder / "images" / f"{n}.png")
    rows = [(n, c, b) for n, group in enumerate(truth, start=1) for c, b in group]
    lists = {"neg_category_ids": [3], "not_exhaustive_category_ids": []} if federated else {}
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 160, "height": 120, **lists} for n in (1, 2, 3)],
        "categories": [{"id": i, "name": n, "frequency": f} for i, n, f in zip((1, 2, 3), NAMES, "rcf", strict=True)],
        "annotations": [
            {"id": i, "image_id": n, "category_id": c, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            for i, (n, c, (x1, y1, x2, y2)) in enumerate(rows, start=1)
        ],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def boxes(tmp_path: Path) -> Iterator[str]:
    register_coco_folder("bench_boxes", root=write_set(tmp_path / "set"), annotations="instances.json", images="images")
    yield "bench_boxes"
    catalog.unregister("bench_boxes")


@pytest.fixture
def run(benchmark: ModuleType, tmp_path: Path) -> Callable[..., int]:
    config = write_config(tmp_path)
    return lambda *args, models=str(config): benchmark.main(["--models", models, "--device", "cpu", *map(str, args)])


def test_one_table_three_ways(run: Callable, boxes: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out, page = tmp_path / "out" / "a.json", tmp_path / "out" / "a.md"
    assert run("--datasets", boxes, "--json", out, "--markdown", page) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "model" and lines[0].endswith("images/s") and len(lines) == 3
    content = json.loads(out.read_text())
    row = content["rows"][0]
    # red: found in two of its three pictures, so precision is 1 up to recall 2/3 (67 of 101 points); blue: found
    assert row["AP50"] == pytest.approx((100 * 67 / 101 + 100) / 2) and row["pictures"] == 3
    assert row["results"]["bbox"]["AP50-red box"] == pytest.approx(100 * 67 / 101)
    assert row["results"]["bbox"]["AP-green box"] is None and row["images_per_second"] > 0
    cells = lines[2].split()
    assert cells[1:5] == [boxes, "coco", "3", f"{row['AP']:.1f}"] and cells[5] == "83.2"
    text = page.read_text()
    assert f"| {boxes} | coco       |" in text and "83.2" in text and content["command"] in text and "threads" in content["machine"]


def test_a_set_of_a_list(run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_set(tmp_path / "listed")
    (tmp_path / "sets.yaml").write_text(f"bench_listed: {{root: {folder}, annotations: instances.json, images: images}}\n")
    try:
        assert run("--register", tmp_path / "sets.yaml", "--datasets", "bench_listed") == 0
    finally:
        catalog.unregister("bench_listed")
    assert "bench_listed" in capsys.readouterr().out


def test_several_models_sets_and_a_limit(run: Callable, boxes: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    federated = write_set(tmp_path / "federated", federated=True)
    register_coco_folder("bench_lvis", root=federated, annotations="instances.json", images="images")
    other = tmp_path / "other"
    other.mkdir()
    out = tmp_path / "a.json"
    try:
        names = f"{boxes},bench_lvis:lvis,bench_lvis:fixed"
        models = f"{tmp_path / 'colours.py'},{write_config(other)}"
        assert run("--datasets", names, "--limit", 2, "--batch-size", 2, "--json", out, models=models) == 0
    finally:
        catalog.unregister("bench_lvis")
    rows = json.loads(out.read_text())["rows"]
    assert [(r["dataset"], r["protocol"]) for r in rows[:3]] == [(boxes, "coco"), ("bench_lvis", "lvis"), ("bench_lvis", "fixed")]
    assert len(rows) == 6 and rows[0]["model"] != rows[3]["model"] and rows[0]["results"] == rows[3]["results"]
    assert all(r["pictures"] == 2 and r["AP50"] == pytest.approx(100) for r in rows)
    assert set(rows[2]["results"]) == {"bbox_fixed"} and rows[2]["results"]["bbox_fixed"]["APf"] is None
    assert "on bench_lvis, bbox_fixed: APr 100.0, APc 100.0, APf nan" in capsys.readouterr().out


def test_lvis_takes_more_detections_a_picture(benchmark: ModuleType) -> None:
    class Predictor:
        max_detections = 100

    seen = []

    class Task:
        protocol, name = "lvis", "x"
        evaluator = None

        def loader(self, limit: int | None, batch_size: int) -> list:
            seen.append(predictor.max_detections)
            raise EvaluationError("stop")

    predictor = Predictor()
    with pytest.raises(EvaluationError, match="stop"):
        benchmark.measure("m", predictor, Task(), benchmark.parse(["--models", "m", "--datasets", "x"]))
    assert seen == [300] and predictor.max_detections == 100


@pytest.mark.slow
def test_the_shipped_model_on_shapes(run: Callable, tmp_path: Path) -> None:
    from openvocab.testing.quick import shapes_dataset

    name, out = shapes_dataset(num=2, taxonomy="color", image_size=96), tmp_path / "a.json"
    assert run("--datasets", name, "--json", out, models="default") == 0
    row = json.loads(out.read_text())["rows"][0]
    assert row["pictures"] == 2 and 0 <= row["AP"] <= row["AP50"] <= 100 and row["model"] == "default"


def test_odinw(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name in ("Raccoon", "pothole"):
        folder = write_set(tmp_path / name)
        target = tmp_path / "odinw" / name / "test"
        target.parent.mkdir(parents=True)
        (folder / "images").rename(target)
        (folder / "instances.json").rename(target / "_annotations.coco.json")
    out = tmp_path / "a.json"
    try:
        assert run("--datasets", "odinw13", "--json", out) == 0
    finally:
        for name in ("odinw_Raccoon_test", "odinw_pothole_test"):
            catalog.unregister(name)
    row = json.loads(out.read_text())["rows"][0]
    numbers = row["results"]["odinw"]
    assert row["pictures"] == 6 and row["AP50"] == numbers["AP50-Raccoon"] == pytest.approx((100 * 67 / 101 + 100) / 2)
    assert numbers["sets_missing"] == 11 and numbers["AP-Aquarium"] is None


@pytest.mark.parametrize(
    ("args", "error", "said"),
    [
        (["--datasets", "bench_boxs"], DataError, "no data set 'bench_boxs'. Did you mean .*'bench_boxes'"),
        (["--datasets", "bench_boxes:odv"], ConfigError, "no protocol 'odv'. Did you mean 'ovd'"),
        (["--datasets", "bench_boxes:lvis"], EvaluationError, "is no LVIS json"),
        (["--datasets", "odinw13:ovd"], ConfigError, "odinw13 has one protocol only"),
        (["--datasets", " , "], ConfigError, "--datasets names nothing"),
        (["--datasets", "bench_boxes", "--limit", "0"], ConfigError, "--limit 0 must be at least 1"),
        (["--datasets", "bench_boxes", "--models", "defualt"], ConfigError, "no model 'defualt'. Did you mean 'default'"),
        (["--datasets", "bench_boxes", "--models", "bridge"], ConfigError, "'bridge' names regions but finds none"),
        (["--datasets", "bench_boxes", "--jsn", "x"], ConfigError, "unrecognized arguments"),
    ],
)
def test_wrong_calls_are_sentences(run: Callable, boxes: str, args: list[str], error: type[OpenVocabError], said: str) -> None:
    with pytest.raises(error, match=said):
        run(*args)


@pytest.mark.slow
def test_as_a_command(tmp_path: Path) -> None:
    """An unknown name ends in one sentence and exit code 2, before any model is loaded."""
    command = [sys.executable, str(ROOT / "tools" / "benchmark.py"), "--models", "default", "--datasets", "racoon_val"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, check=False)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and done.stdout == ""
    assert lines[-1].startswith("error: there is no data set 'racoon_val'. Did you mean") and "raccoon_val" in lines[-1]
    assert "Traceback" not in done.stderr
