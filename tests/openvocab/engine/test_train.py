from __future__ import annotations

import json
import logging
import os
import signal
from types import SimpleNamespace

import pytest
import torch
import yaml
from detectron2.config import LazyCall as L

from openvocab.engine import Interrupted, evaluate_config, train
from openvocab.errors import ConfigError, EvaluationError, WeightsError
from openvocab.io import save_weights

from .toys import ToyDetector, ToyEvaluator, toy_config, toy_mapper, toy_records


def lines(folder: object) -> list[dict]:
    return [json.loads(x) for x in (folder / "metrics.json").read_text().splitlines()]


def weights(path: object) -> dict:
    return torch.load(path, weights_only=True)["model"]


def test_a_run_writes_what_it_should_and_learns(tmp_path, caplog):
    cfg = toy_config(tmp_path, max_iter=40, eval_period=20, checkpointer={"period": 15, "max_to_keep": 2})
    with caplog.at_level(logging.INFO):
        results = train(cfg)
    names = {p.name for p in tmp_path.iterdir()}
    wanted = ["config.yaml", "log.txt", "metrics.json", "last_checkpoint", "results.json", "model_final.pth", "model_best.pth"]
    assert names >= {*wanted, "model_0000014.pth", "model_0000029.pth"}
    assert any(n.startswith("events.out.tfevents") for n in names)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    rows = lines(tmp_path)
    assert rows[-1]["iteration"] == 39 and rows[-1]["total_loss"] < rows[0]["total_loss"] / 2
    assert results["mean"]["AP50"] == results["toy"]["bbox"]["AP50"] == rows[-1]["mean/AP50"]
    assert json.loads((tmp_path / "results.json").read_text())["toy"]["bbox"]["AP75"] is None
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["_target_"].endswith("ToyDetector")
    text = caplog.text
    assert "0.00 M parameters train" in text and "iterations  0 to 40 of 4 pictures: 160 in all" in text and "eta:" in text


def test_the_model_argument_does_not_stay_in_the_config(tmp_path):
    cfg = toy_config(tmp_path, max_iter=1, eval_period=-1)
    train(cfg)
    assert "model" not in cfg.optimizer and not (tmp_path / "results.json").exists()


def test_evaluations_change_nothing_of_the_training(tmp_path):
    for name, period in (("often", 2), ("never", -1)):
        train(toy_config(tmp_path / name, eval_period=period))
    often, never = (weights(tmp_path / n / "model_final.pth") for n in ("often", "never"))
    assert all(torch.equal(often[k], never[k]) for k in never)


def test_the_averaged_weights_are_evaluated_and_saved(tmp_path):
    cfg = toy_config(tmp_path, ema={"enabled": True, "decay": 0.9})
    results = train(cfg)
    cfg = toy_config(tmp_path / "again", init_checkpoint=str(tmp_path / "model_final.pth"))
    assert evaluate_config(cfg)["mean"] == results["mean"]
    content = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert not torch.equal(content["raw"]["fit.weight"], content["model"]["fit.weight"])


def test_the_best_weights_stay(tmp_path):
    cfg = toy_config(tmp_path, max_iter=12, eval_period=4)
    cfg.lr_multiplier = L(_Worse)()
    train(cfg)
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    scores = {row["iteration"] + 1: row["mean/AP50"] for row in lines(tmp_path) if "mean/AP50" in row}
    assert best["iteration"] == max(scores, key=scores.get) < 12
    assert best["best"]["value"] == pytest.approx(max(scores.values()))


class _Worse:
    """Good steps first, then bad ones."""

    def __call__(self, where: float) -> float:
        return 1.0 if where < 0.6 else -5.0


def test_expected_results_are_checked(tmp_path):
    good = train(toy_config(tmp_path))["toy"]["bbox"]["AP50"]
    train(toy_config(tmp_path, expected_results=[["toy", "bbox", "AP50", good, 0.01]]))
    for row in (["toy", "bbox", "AP50", good + 1, 0.5], ["toy", "bbox", "AP75", 1.0, 99.0], ["other", "bbox", "AP50", 1.0, 99.0]):
        with pytest.raises(EvaluationError, match=row[2]):
            train(toy_config(tmp_path, expected_results=[row]))


def test_a_failing_evaluation_leaves_the_model_in_training_mode(tmp_path):
    from openvocab.engine import TestSet, do_test

    model = ToyDetector().train()
    model.input_norm.eval()  # a frozen part
    with pytest.raises(ValueError, match="the evaluator fails"):
        do_test(model, {"toy": TestSet([[toy_mapper(r) for r in toy_records(2)]], ToyEvaluator(fail=True))})
    assert model.training and model.drop.training and not model.input_norm.training


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("lr_multiplier"), ["lr_multiplier"]),
        (lambda c: c.train.update(max_itr=3), ["max_itr", "max_iter"]),
        (lambda c: c.train.update(device="cuda:99"), ["cuda:99"]),
        (lambda c: c.train.update(device="tpux"), ["tpux"]),
        (lambda c: c.dataloader.test.toy.pop("evaluator"), ["dataloader.test.toy", "evaluator"]),
        (lambda c: c.update(model=L(ToyEvaluator)()), ["'model'", "ToyEvaluator"]),
    ],
)
def test_configs_that_cannot_run_say_why(tmp_path, change, words):
    cfg = toy_config(tmp_path)
    change(cfg)
    with pytest.raises(ConfigError) as error:
        train(cfg)
    assert all(w in str(error.value) for w in words), str(error.value)


def test_weights_of_another_architecture_are_refused(tmp_path):
    torch.save({"other": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="other.pth|fit"):
        train(toy_config(tmp_path, init_checkpoint=str(tmp_path / "other.pth")))


def test_weights_of_another_text_encoder_are_refused(tmp_path, monkeypatch):
    weights = tmp_path / "w.safetensors"
    save_weights(weights, ToyDetector().state_dict(), {"text_encoder": "bert:theirs"})
    monkeypatch.setattr(ToyDetector, "text_encoder", SimpleNamespace(identity="bert:ours"), raising=False)
    with pytest.raises(WeightsError, match="w.safetensors: .* text encoder 'bert:theirs', this model has 'bert:ours'"):
        train(toy_config(tmp_path, init_checkpoint=str(weights)))


def test_test_sets_in_other_forms(tmp_path):
    from openvocab.engine import build_test_sets

    node = toy_config(tmp_path).dataloader
    row = node.test.toy
    assert list(build_test_sets({"test": [row, row]})) == ["test0", "test1"]
    assert list(build_test_sets({"test": row.loader, "evaluator": row.evaluator})) == ["test0"]
    assert build_test_sets({"test": {}}) == {}
    with pytest.raises(ConfigError, match="mean"):
        build_test_sets({"test": {"mean": row}})


@pytest.mark.parametrize(("scale", "rate"), [(True, 0.025), (False, 0.05)])
def test_the_linear_rule_is_followed_only_when_asked(tmp_path, caplog, scale, rate):
    with caplog.at_level(logging.INFO):
        train(toy_config(tmp_path, max_iter=1, eval_period=-1, accumulate=2, reference_batch_size=16, scale_lr=scale))
    assert "0.025" in caplog.text and f"learning rates {rate:g}" in caplog.text


# ---- stopping -------------------------------------------------------------------------------------------------------


def test_a_time_limit_ends_with_a_checkpoint(tmp_path, caplog):
    assert train(toy_config(tmp_path, max_iter=10**6, max_seconds=0.2)) == {}
    saved = torch.load(tmp_path / (tmp_path / "last_checkpoint").read_text(), weights_only=True)
    assert 0 < saved["iteration"] < 10**6 and "--resume" in caplog.text
    assert not (tmp_path / "model_final.pth").exists()


class SignalAt(ToyDetector):
    """Sends this process a signal in its n-th forward."""

    def __init__(self, *, at: int, which: int) -> None:
        super().__init__()
        self.at, self.which, self.calls = at, which, 0

    def forward(self, batch: list[dict]) -> object:
        self.calls += 1
        if self.calls == self.at:
            os.kill(os.getpid(), self.which)
        return super().forward(batch)


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_then_stops(tmp_path, which):
    before = signal.getsignal(which)
    cfg = toy_config(tmp_path, max_iter=50)
    cfg.model = L(SignalAt)(at=4, which=int(which))
    with pytest.raises(Interrupted, match="--resume") as error:
        train(cfg)
    assert str(tmp_path / "model_0000003.pth") in str(error.value) and which.name in str(error.value)
    assert torch.load(tmp_path / "model_0000003.pth", weights_only=True)["iteration"] == 4
    assert signal.getsignal(which) == before


def test_a_signal_during_an_evaluation_leaves_it(tmp_path):
    cfg = toy_config(tmp_path, max_iter=50, eval_period=3)
    cfg.model = L(SignalAt)(at=4, which=int(signal.SIGTERM))  # the fourth forward is the evaluation's first
    with pytest.raises(Interrupted):
        train(cfg)
    assert torch.load(tmp_path / "model_0000002.pth", weights_only=True)["iteration"] == 3


class Dying:
    """A loader whose workers are ended by the Ctrl-C that also reaches this process."""

    def __init__(self, good: int) -> None:
        self.good = good

    def __iter__(self) -> object:
        yield from ([toy_mapper(r) for r in toy_records(4)] for _ in range(self.good))
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")


@pytest.mark.parametrize("good", [2, 0])
def test_workers_that_end_by_the_same_signal_do_not_hide_it(tmp_path, good):
    cfg = toy_config(tmp_path, max_iter=50, eval_period=-1)
    cfg.dataloader.train = L(Dying)(good=good)
    with pytest.raises(Interrupted, match=f"after {good} iterations"):
        train(cfg)
    assert [p.name for p in tmp_path.glob("model_*.pth")] == (["model_0000001.pth"] if good else [])
