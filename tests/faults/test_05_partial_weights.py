"""Promise 5: a load counts what matched, and fails if nothing does, or if values are not finite."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from openvocab.engine import train
from openvocab.errors import WeightsError
from openvocab.io import load_into, load_weights, save_weights
from tests.openvocab.engine.toys import ToyDetector, toy_config


def other_names(path: Path) -> None:
    torch.save({"model": {f"another.{k}": v for k, v in ToyDetector().state_dict().items()}}, path)


def other_shapes(path: Path) -> None:
    torch.save({"model": {k: torch.zeros(17, 3) for k in ToyDetector().state_dict()}}, path)


def not_finite(path: Path) -> None:
    torch.save({"model": {**ToyDetector().state_dict(), "fit.bias": torch.tensor([float("nan")])}}, path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_names, r"another architecture: 0 of at least 1 .*prefix='another\.'"),
        (other_shapes, r"another architecture.*mismatched \(.*\[17, 3\] in the file"),
        (not_finite, r"hold NaN or infinity, such as fit\.bias"),
    ],
)
def test_training_does_not_begin_with_weights_that_do_not_fit(tmp_path: Path, make: object, message: str) -> None:
    make(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        train(toy_config(tmp_path / "out", init_checkpoint=str(tmp_path / "w.pth")))
    assert not list((tmp_path / "out").glob("*.pth"))


def test_detectron2_alone_would_accept_them(tmp_path: Path) -> None:
    """The behaviour that the promise is about."""
    other_names(tmp_path / "w.pth")
    DetectionCheckpointer(ToyDetector()).load(str(tmp_path / "w.pth"))


def test_a_partial_match_is_reported_with_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = ToyDetector().state_dict()
    torch.save({"model": {"fit.weight": state["fit.weight"], "extra": torch.ones(1)}}, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        train(toy_config(tmp_path / "out", init_checkpoint=str(tmp_path / "w.pth"), max_iter=1, eval_period=-1))
    assert f"1 tensors matched; {len(state) - 1} missing" in caplog.text and "1 unexpected (extra)" in caplog.text


def test_frozen_statistics_survive_a_partial_load(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), FrozenBatchNorm2d(2))
    model[1].running_mean.fill_(3.0)
    model[1].running_var.fill_(4.0)
    save_weights(tmp_path / "w.safetensors", {"0.bias": torch.ones(2), "1.weight": torch.full((2,), 5.0)})
    load_into(model, load_weights(tmp_path / "w.safetensors").tensors)
    assert model[1].running_mean.tolist() == [3, 3] and model[1].running_var.tolist() == [4, 4]
    assert model[1].weight.tolist() == [5, 5] and model[0].bias.tolist() == [1, 1]
