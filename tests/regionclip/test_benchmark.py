"""The benchmark of RegionCLIP's speed at a size of seconds: what it writes, and that both sides must say the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import regionclip as benchmark
from benchmarks.regionclip_reference import PlainRegionCLIP, Size, calibrate, picture
from openvocab.errors import ConfigError, EvaluationError, OpenVocabError
from openvocab.io import load_weights
from regionclip.modeling import AttentionPool2d

TINY = ["--tiny", "--runs", "1", "--threads", "1"]
NUMBERS = ("time_ratio", "time_ratio_bf16", "peak_gb", "peak_gb_bf16")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def assert_whole(result: dict) -> None:
    assert all(result[k] > 0 for k in NUMBERS) and "cores" in result["machine"]
    assert set(result["sides"]) == {"ours", "reference", "bf16"}
    for row in result["sides"].values():
        assert min(row[k] for k in ("seconds", "cpu_seconds", "time_ratio", "cpu_ratio", "peak_gb")) > 0
    assert result["sides"]["reference"]["time_ratio"] == 1
    exact, rough = result["differences"], result["differences_bf16"]
    assert all(exact[k] <= most for k, most in benchmark.LIMITS.items()) and exact["same_class"] == 1
    assert exact["regions"] == rough["regions"] == 30 and exact["detections"] > 0
    assert exact["features"] < 1e-5 < rough["features"] < 0.05 and rough["boxes_mean"] < 1


def test_one_run_writes_times_and_differences(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b.json"
    assert benchmark.main([*TINY, "--one-process", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert_whole(result)
    assert result["command"].endswith(f"--tiny --runs 1 --threads 1 --one-process --json {file}") and result["tiny"] is True


@pytest.mark.slow
def test_a_side_in_a_process_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    args = benchmark.parse(TINY)
    with pytest.raises(OpenVocabError, match="ended with code 1"):
        benchmark.Remote("ours", tmp_path, args)  # no weights yet
    assert "weights.safetensors" in capfd.readouterr().err
    benchmark.prepare(tmp_path, args)
    benchmark.Local("reference", tmp_path, args).say()
    side = benchmark.Remote("ours", tmp_path, args)
    side.say()
    assert min(side.run()) > 0 and 0.1 < side.finish() < 2.5 and side.process.exitcode == 0
    found, wanted = (load_weights(tmp_path / f"{name}.safetensors").tensors for name in ("ours", "reference"))
    benchmark.check(benchmark.compare(found, wanted))


def test_another_answer_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = AttentionPool2d.forward
    monkeypatch.setattr(AttentionPool2d, "forward", lambda self, x: right(self, x * 1.001))
    with pytest.raises(EvaluationError, match="do not say the same: features .*at most 5e-05"):
        benchmark.main([*TINY, "--one-process", "--json", str(tmp_path / "a.json")])
    assert (tmp_path / "a.json").is_file(), "the numbers are kept all the same"


def said(boxes: Tensor, logits: Tensor) -> dict[str, Tensor]:
    found = {"found_boxes": boxes[:2], "found_classes": torch.tensor([0, 1])}
    return {"proposals": boxes, "features": logits, "logits": logits, "boxes": boxes, **found}


def test_differences_are_those_that_were_made() -> None:
    boxes, logits = torch.rand(4, 4) * 50, torch.eye(4)
    wanted = said(boxes, logits)
    same = benchmark.compare(wanted, wanted)
    assert same["features"] == same["boxes"] == 0
    assert same["proposals_shared"] == same["detections_shared"] == same["same_class"] == 1
    other = said(boxes + torch.tensor([[0.0], [0], [0], [9]]), logits - 2 * torch.diag(torch.tensor([1.0, 0, 0, 0])))
    other["found_classes"] = torch.tensor([0, 2])
    found = benchmark.compare(other, wanted)
    assert found["boxes"] == pytest.approx(9) and found["boxes_mean"] == pytest.approx(9 / 4)
    assert found["features"] == found["logits"] == 2 and found["same_class"] == 0.75
    assert found["proposals_shared"] == 0.75 and found["detections_shared"] == 0.5
    with pytest.raises(EvaluationError, match="proposals_shared 0.750"):
        benchmark.check(found)


def test_random_weights_behave_like_trained_ones() -> None:
    size, image = Size(blocks=(1, 1, 1, 1), width=16, dim=64, rpn=(8, 4, 8), names=9, proposals=30), picture(150, 214)
    torch.manual_seed(1)
    model = PlainRegionCLIP(size)
    calibrate(model, image)
    found = model(image)
    probs = found["logits"].softmax(dim=1).max(dim=1).values
    assert len(found["boxes"]) == 30 and 0.1 < probs.mean() < 0.9, "neither flat nor saturated"
    assert 0.5 < found["objectness"].std() < 20 and found["features"].isfinite().all()
    assert len(found["logits"].argmax(dim=1).unique()) > 1
    moved = (found["boxes"] - found["proposals"]).abs() / (found["proposals"][:, 2:] - found["proposals"][:, :2]).repeat(1, 2)
    assert 0.01 < moved.mean() < 1


@pytest.mark.parametrize("options", [["--runs", "0"], ["--threads", "0"]])
def test_settings_that_cannot_be(options: list[str]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        benchmark.parse(options)
