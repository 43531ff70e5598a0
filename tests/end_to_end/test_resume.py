"""The real detector goes on from a checkpoint as if it had never stopped (tests/faults: the same for all that a run holds)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from omegaconf import DictConfig

from openvocab.config import load_config
from openvocab.engine import train
from tests.faults.test_08_determinism import final, same

STEPS, STOP = 4, 2


def config(folder: Path) -> DictConfig:
    keys = {"max_iter": STEPS, "eval_period": -1, "output_dir": folder, "amp.enabled": True, "ema.enabled": True}
    keys |= {"checkpointer.period": STOP, "checkpointer.max_to_keep": 0, "device": "cpu"}
    return load_config("glipv2/quick/shapes_overfit", [f"train.{k}={v}" for k, v in keys.items()])


@pytest.mark.slow
def test_a_resumed_detector_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config(whole))
    parts.mkdir()
    shutil.copy(whole / f"model_{STOP - 1:07d}.pth", parts)
    train(config(parts), resume=True)
    first, second = final(whole), final(parts)
    assert first["iteration"] == second["iteration"] == STEPS and set(first) == set(second)
    assert all(same(first[key], second[key]) for key in first)
