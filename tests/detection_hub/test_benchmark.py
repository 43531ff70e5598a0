"""The benchmark of the hub's cost: what it counts, and that memory grows with names and not with data sets."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from types import ModuleType

import pytest

from detection_hub import DatasetContext
from openvocab.errors import ConfigError

from .conftest import build_tiny, sample, tiny_hub

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "detection_hub.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_of_the_hub", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def held(benchmark: ModuleType, names: int, datasets: int) -> float:
    words = [f"thing {i}" for i in range(names)]
    hub = tiny_hub(datasets=[DatasetContext.create(f"set {i}", words) for i in range(datasets)])
    return benchmark.held_mb(build_tiny(hub), [sample("set 0")])


def test_memory_is_linear_in_names_and_flat_in_data_sets(benchmark: ModuleType) -> None:
    by_names = [held(benchmark, n, 1) for n in (200, 400, 600)]
    first, second = by_names[1] - by_names[0], by_names[2] - by_names[1]
    assert first > 0 and second == pytest.approx(first, rel=0.02)
    one, many = held(benchmark, 40, 1), held(benchmark, 40, 50)
    vector = 16 + 1  # numbers that a data set adds: its vector, its bias; and their copies in one table
    assert one < many < one + 49 * vector * 4 * 3 / 1e6


def test_times_are_taken_in_turns(benchmark: ModuleType) -> None:
    order: list[str] = []

    def run(name: str, seconds: float):
        def call() -> None:
            order.append(name)
            time.sleep(seconds)

        return call

    row = benchmark.in_turns(run("ours", 0.03), run("reference", 0.01), 3)
    assert order == ["ours", "reference"] + ["reference", "ours"] + ["ours", "reference"] + ["reference", "ours"]
    assert 1.5 < row["time_ratio"] < 5 and row["ours_seconds"] > row["reference_seconds"]


def test_settings_that_cannot_be(benchmark: ModuleType) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        benchmark.parse(["--runs", "0"])


@pytest.mark.slow
def test_the_whole_run_writes_its_numbers(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    threads = torch.get_num_threads()
    monkeypatch.setattr(benchmark, "MEMORY_NAMES", (10, 20, 30, 40))
    monkeypatch.setattr(benchmark, "MEMORY_DATASETS", (1, 2, 3))
    monkeypatch.setattr(benchmark, "NAMES", ("coco",))
    try:
        assert benchmark.main(["--model", "mini", "--runs", "1", "--size", "64", "--json", str(tmp_path / "a" / "hub.json")]) == 0
    finally:
        torch.set_num_threads(threads)
    result = json.loads((tmp_path / "a" / "hub.json").read_text())
    assert result["time_ratio"] > 0 and result["peak_gb"] > 0 and len(result["times"]) == 2
    assert set(result["pooling"]) == {"picture", "training step"} and result["pooling"]["training step"]["time_ratio"] > 0
    assert set(result["memory"]["names_mb"]) == {"10", "20", "30", "40"}
