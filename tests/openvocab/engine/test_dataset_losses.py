"""Losses of each data set: logged by name, told to a loader that listens, and part of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L

from openvocab.data import TrainSource, build_train_loader
from openvocab.engine import evaluate_config, train
from openvocab.engine.evaluation import mean_row

from .toys import ToyDetector, mapped_by_toy, toy_config, toy_records

TOLD: list[dict] = []


class Ledger:
    """Counts the pictures of even and odd numbers."""

    def __init__(self) -> None:
        self.counts = {"even": 0, "odd": 0}

    def state_dict(self) -> dict:
        return dict(self.counts)

    def load_state_dict(self, state: dict) -> None:
        self.counts = dict(state)


class Counting(ToyDetector):
    """A model that keeps losses by data set, as a hub does."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()

    def forward(self, batch: list[dict]) -> dict | list[dict]:
        if self.training:
            for row in batch:
                self.ledger.counts["odd" if row["image_id"] % 2 else "even"] += 1
        return super().forward(batch)

    def dataset_losses(self) -> dict[str, dict[str, float]]:
        found, self.ledger = self.ledger.counts, Ledger()
        return {name: {"loss_fit": float(count)} for name, count in found.items()}


class Listening:
    """A loader that is told."""

    def __init__(self, loader: object) -> None:
        self.loader = loader

    def __iter__(self) -> object:
        return iter(self.loader)

    def observe(self, losses: dict) -> None:
        TOLD.append(losses)

    def state_dict(self) -> dict:
        return self.loader.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.loader.load_state_dict(state)


def listening(*, total_batch_size: int) -> Listening:
    sources = [TrainSource(name="toy", mapper=mapped_by_toy(), records=toy_records())]
    return Listening(build_train_loader(sources=sources, total_batch_size=total_batch_size, seed=3))


def config(folder: Path, **train_options: object) -> object:
    cfg = toy_config(folder, eval_period=-1, **train_options)
    cfg.model = L(Counting)()
    cfg.dataloader.train = L(listening)(total_batch_size=4)
    return cfg


def test_they_are_logged_told_and_saved(tmp_path: Path) -> None:
    TOLD.clear()
    train(config(tmp_path / "whole"))  # 10 steps of 4, the log every 5
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.json").read_text().splitlines()]
    assert [sum(row[f"data set {name}/fit"] for name in ("even", "odd")) for row in rows] == [20, 20]
    assert [{n: v["loss_fit"] for n, v in told.items()} for told in TOLD] == [
        {name: row[f"data set {name}/fit"] for name in ("even", "odd")} for row in rows
    ]
    whole = TOLD[1]
    TOLD.clear()
    train(config(tmp_path / "part", checkpointer={"period": 7, "max_to_keep": 1}))
    for later in ("model_final.pth", "last_checkpoint"):
        (tmp_path / "part" / later).unlink()
    saved = torch.load(tmp_path / "part" / "model_0000006.pth", weights_only=True)["ledger"]
    assert sum(saved.values()) == 8
    TOLD.clear()
    train(config(tmp_path / "part"), resume=True)
    assert TOLD == [whole], "what was counted before the checkpoint counts"


def test_the_row_of_means() -> None:
    nan = float("nan")
    rows = [{"AP": 20.0, "AP50": 40.0}, {"AP": 10.0, "AP50": nan}, {"AP": nan}]
    assert mean_row(rows) == {"AP": 15.0, "AP50": 40.0, "worst": 10.0}
    assert mean_row([]) == mean_row([{"AP": nan}]) == {}


def test_two_sets_have_a_mean_and_a_worst(tmp_path: Path) -> None:
    cfg = toy_config(tmp_path)
    cfg.dataloader.test.other = cfg.dataloader.test.toy
    results = evaluate_config(cfg)
    assert results["mean"]["worst"] == pytest.approx(results["toy"]["bbox"]["AP"]) and set(results) == {"toy", "other", "mean"}
