"""The loop around model and evaluator, and what is said of the results."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import pytest
import torch
from detectron2.evaluation import DatasetEvaluator
from torch import nn

from openvocab.evaluation import evaluate, evaluation_mode, flatten, mean_of, print_results, run
from openvocab.evaluation.keys import percent


class Counter(DatasetEvaluator):
    def __init__(self) -> None:
        self.seen: list = ["left over"]

    def reset(self) -> None:
        self.seen = []

    def process(self, inputs: list, outputs: list) -> None:
        self.seen += outputs

    def evaluate(self) -> dict | None:
        return {"bbox": {"AP": float(len(self.seen))}} if self.seen else None


class Model(nn.Module):
    def __init__(self, fail_at: int = -1) -> None:
        super().__init__()
        self.frozen, self.body = nn.BatchNorm1d(2), nn.Linear(2, 2)
        self.frozen.eval()
        self.fail_at, self.modes = fail_at, []

    def forward(self, batch: list[int]) -> list[int]:
        self.modes.append((self.training, self.body.training, torch.is_grad_enabled()))
        if self.fail_at in batch:
            raise RuntimeError("boom")
        return batch


def modes(model: nn.Module) -> list[bool]:
    return [m.training for m in model.modules()]


def test_evaluates_every_batch_without_gradients() -> None:
    model = Model()
    assert evaluate(model, [[1], [2, 3]], Counter(), progress=False) == {"bbox": {"AP": 3.0}}
    assert model.modes == [(False, False, False)] * 2 and modes(model) == [True, False, True]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_when_the_model_raises(training: bool) -> None:
    model = Model(fail_at=2)
    model.train(training)
    model.frozen.eval()
    before = modes(model)
    with pytest.raises(RuntimeError, match="boom"):
        evaluate(model, [[1], [2]], Counter(), progress=False)
    assert modes(model) == before and torch.is_grad_enabled()


def test_the_mode_comes_back_when_the_loader_or_the_evaluator_raises() -> None:
    def loader() -> Iterator[list[int]]:
        yield [1]
        raise OSError("disk")

    class Broken(Counter):
        def process(self, inputs: list, outputs: list) -> None:
            raise ValueError("process")

    for batches, evaluator, error in ((loader(), Counter(), OSError), ([[1]], Broken(), ValueError)):
        model = Model()
        with pytest.raises(error):
            evaluate(model, batches, evaluator)
        assert modes(model) == [True, False, True]


def test_other_ranks_and_plain_functions() -> None:
    assert evaluate(lambda batch: batch, [], Counter(), progress=False) == {}  # an evaluator may return None
    with evaluation_mode(lambda batch: batch):
        pass


def test_progress_is_logged_where_there_is_no_terminal(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "LOG_SECONDS", -1.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    with caplog.at_level(logging.INFO):
        evaluate(Model(), [[1], [2], [3]], Counter(), name="cats")
        evaluate(Model(), iter([[1], [2]]), Counter(), name="stream")
    assert "evaluate cats: 2 of 3, 0 s left" in caplog.text and "evaluate stream: 1" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        evaluate(Model(), [[1], [2], [3]], Counter(), progress=False)
    assert caplog.text == ""


def test_progress_bar_on_a_terminal(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    evaluate(Model(), [[1], [2]], Counter(), name="cats")
    assert "evaluate cats" in capsys.readouterr().err


def test_flatten_and_means() -> None:
    results = {"a": {"bbox": {"AP": 1, "AP-cat": 2.0}}, "mean": {"AP": 3.0}}
    assert flatten(results) == {"a/bbox/AP": 1.0, "a/bbox/AP-cat": 2.0, "mean/AP": 3.0}
    assert mean_of([1.0, math.nan, 3.0]) == 2 and math.isnan(mean_of([math.nan])) and math.isnan(mean_of([]))
    assert percent(0.5) == 50 and math.isnan(percent(-1))


def test_table() -> None:
    values = {"AP": 12.34, "AP50": 50.0, "AP75": math.nan, "APs": 1.0, "APm": 2.0, "APl": 3.0, "AP-cat": 9.0}
    table = print_results({"cats": {"bbox": values, "segm": {**values, "AP": 4.0}}, "mean": {"AP50": 50.0}})
    lines = table.splitlines()
    assert len(lines) == 4 and lines[2].split() == ["cats", "bbox", "12.3", "50.0", "nan", "1.0", "2.0", "3.0"]
    assert lines[3].split()[:3] == ["cats", "segm", "4.0"]
    assert print_results({"bbox": values}).splitlines()[2].split()[0] == "bbox"
    assert "AP50" in print_results({})


def test_what_a_protocol_adds_follows_the_table() -> None:
    rare = {"AP": 20.0, "APr": 12.34, "AP-cat": 9.0}
    lines = print_results({"lvis": {"bbox_fixed": rare}, "wild": {"odinw": {"AP_mean": 5.0, "AP-Raccoon": math.nan}}}).splitlines()
    assert lines[2].split()[:3] == ["lvis", "bbox_fixed", "20.0"]
    assert lines[3:] == ["lvis bbox_fixed: APr 12.3", "wild odinw: AP_mean 5.0"]
    assert print_results({"odinw": {"AP_mean": 5.0}}).splitlines()[-1] == "odinw: AP_mean 5.0"
