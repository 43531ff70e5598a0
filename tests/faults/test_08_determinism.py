"""Promise 8: the same seed gives the same losses, and a resume at step k equals a run that was never interrupted, bit for bit."""

from __future__ import annotations

import shutil
import signal

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L

from openvocab.engine import Interrupted, train
from tests.openvocab.engine.test_train import SignalAt
from tests.openvocab.engine.toys import LOSSES, toy_config

MIXED = {"ema": {"enabled": True, "decay": 0.9}, "amp": {"enabled": True}, "accumulate": 2, "clip_grad": {"max_norm": 1.0}}


def trained(cfg: object, **kwargs: object) -> list[float]:
    """Train; return the loss of every batch."""
    LOSSES.clear()
    train(cfg, **kwargs)
    return list(LOSSES)


@pytest.mark.parametrize("keys", [{}, pytest.param(MIXED, marks=pytest.mark.slow)])
def test_same_seed_same_losses_for_twenty_steps(tmp_path, keys):
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("other", 2)):
        np.random.rand(3), torch.rand(5)  # what was drawn before does not matter
        runs.append(trained(toy_config(tmp_path / name, max_iter=20, seed=seed, eval_period=-1, **keys)))
    first, second, other = runs
    assert len(first) == 20 * keys.get("accumulate", 1) and first == second and first != other


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return set(a) == set(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def final(folder: object) -> dict:
    content = torch.load(folder / "model_final.pth", weights_only=True)
    del content["config"]  # names the output folder
    return content


def a_config(folder: object, keys: dict, workers: int = 0) -> object:
    cfg = toy_config(folder, max_iter=12, log_period=1, **keys)
    cfg.dataloader.train.num_workers = workers
    return cfg


RESUMES = [({}, 1, 0), ({}, 11, 0), (MIXED, 5, 0), ({"eval_period": 3}, 7, 0)]


@pytest.mark.parametrize(("keys", "k", "workers"), [*RESUMES, pytest.param({}, 5, 2, marks=pytest.mark.slow)])
def test_resume_at_step_k_equals_an_uninterrupted_run(tmp_path, keys, k, workers):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    all_losses = trained(a_config(whole, {**keys, "checkpointer": {"period": k, "max_to_keep": 0}}, workers))
    parts.mkdir()
    shutil.copy(whole / f"model_{k - 1:07d}.pth", parts)
    later_losses = trained(a_config(parts, keys), resume=True)
    assert all_losses[k * keys.get("accumulate", 1) :] == later_losses
    assert same(final(whole), final(parts))


def test_a_run_stopped_by_a_signal_goes_on_as_if_it_had_not_been(tmp_path):
    train(a_config(tmp_path / "whole", MIXED))
    cfg = a_config(tmp_path / "parts", MIXED)
    cfg.model = L(SignalAt)(at=9, which=int(signal.SIGTERM))  # in the fifth step, of two batches each
    with pytest.raises(Interrupted):
        train(cfg)
    train(a_config(tmp_path / "parts", MIXED), resume=True)
    assert same(final(tmp_path / "whole"), final(tmp_path / "parts"))


def test_a_finished_run_resumed_only_evaluates(tmp_path):
    results = train(a_config(tmp_path, {}))
    before = final(tmp_path)
    assert train(a_config(tmp_path, {}), resume=True)["mean"] == results["mean"]
    assert same(before, final(tmp_path))


def test_a_longer_run_goes_on_from_the_final_checkpoint(tmp_path):
    train(a_config(tmp_path, {}))
    cfg = a_config(tmp_path, {})
    cfg.train.max_iter = 15
    assert len(trained(cfg, resume=True)) == 3 and final(tmp_path)["iteration"] == 15
