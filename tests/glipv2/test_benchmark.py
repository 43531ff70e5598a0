"""The benchmark of GLIP-T: what it compares, that it refuses unequal outputs, and its numbers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from detectron2.structures import Boxes, Instances

from openvocab.errors import ConfigError, EvaluationError

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "glipv2.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_of_glip", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(*rows: tuple[float, float, int]) -> Instances:
    """Detections (left edge, score, name) of 10 pixels."""
    boxes = torch.tensor([[x, 0.0, x + 10, 10.0] for x, _, _ in rows])
    classes = torch.tensor([c for *_, c in rows])
    return Instances((50, 50), pred_boxes=Boxes(boxes), scores=torch.tensor([s for _, s, _ in rows]), pred_classes=classes)


def test_detections_are_compared_as_sets(benchmark: ModuleType) -> None:
    a = found((0, 0.9, 0), (5, 0.8, 1))
    assert benchmark.unmatched(a, found((5, 0.8, 1), (0, 0.9, 0))) == 0
    assert benchmark.unmatched(a, found((0, 0.9, 0), (5, 0.8, 0))) == 0.5, "another name"
    assert benchmark.unmatched(a, found((0, 0.9, 0), (6, 0.8, 1))) == 0.5, "another box"
    assert benchmark.unmatched(a, found((0, 0.9, 0))) == 0.5 and benchmark.unmatched(a, a[:0]) == 1


def test_unequal_outputs_are_an_error(benchmark: ModuleType) -> None:
    assert benchmark.check({"logits": 1e-5, "detections": 100}) == {"logits": 1e-5, "detections": 100}
    with pytest.raises(EvaluationError, match="logits 0.1"):
        benchmark.check({"logits": 0.1, "deltas": 0.0})


@pytest.mark.parametrize("words", [["--runs", "0"], ["--lvis-passes", "0"]])
def test_settings_that_cannot_be(benchmark: ModuleType, words: list[str]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        benchmark.parse(words)


@pytest.mark.slow
def test_both_sides_agree_and_the_numbers_are_written(benchmark: ModuleType, tmp_path: Path) -> None:
    """The reference is written from the formulas and shares no tower code with ours, so that this is a check of both."""
    threads, file = torch.get_num_threads(), tmp_path / "a" / "glip.json"
    words = ["--tiny", "--runs", "1", "--threads", str(threads), "--json", str(file)]
    assert benchmark.main([*words, "--only", "train", "memory"]) == 0
    assert benchmark.main([*words, "--only", "picture"]) == 0
    result = json.loads(file.read_text())
    assert result["training"]["differences"]["gradients"] < 1e-3 and result["train_time_ratio"] > 0, "parts are added up"
    assert set(result["picture"]["rows"]) == {"ours", "reference", "GroundingDINO-T"} and result["time_ratio"] > 0
    assert result["picture"]["differences"]["unmatched"] <= 0.02
    assert 0 < result["peak_gb"] <= result["peaks_gb"]["reference"]
    assert set(result["runs_of"]) == {"train", "memory", "picture"}


@pytest.mark.slow
def test_long_vocabularies_and_options_are_measured(benchmark: ModuleType, tmp_path: Path) -> None:
    threads, file = torch.get_num_threads(), tmp_path / "glip.json"
    words = ["--tiny", "--runs", "1", "--lvis-passes", "2", "--threads", str(threads), "--json", str(file)]
    assert benchmark.main([*words, "--only", "lvis", "options"]) == 0
    result = json.loads(file.read_text())
    assert result["lvis_time_ratio"] > 0 and result["lvis"]["chunks"] == 31 and result["lvis"]["reference_passes"] == 2
    assert result["lvis"]["differences"]["unmatched"] <= 0.02
    assert set(result["options"]) == {"channels-last", "bfloat16", "both"}
    assert result["options"]["channels-last"]["errors"]["logits"] < 1e-3


def test_memory_is_of_one_process() -> None:
    """A child's peak is its own, though its parent held more when it started it."""
    import subprocess
    import sys

    code = "from benchmarks.timing import peak_gb; print(peak_gb())"
    ballast = torch.ones(30_000_000)
    done = subprocess.run([sys.executable, "-c", code], cwd=FILE.parents[1], capture_output=True, text=True, check=True)
    assert ballast.sum() > 0 and 0 < float(done.stdout) < 0.1
