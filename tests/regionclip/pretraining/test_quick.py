"""The quick config through the real training script's engine: losses fall, checkpoints hold the student, a resume is exact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from openvocab.config import load_config
from openvocab.engine import train

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "regionclip" / "quick" / "shapes_pretrain.py"


def run(folder: Path, *changes: str, resume: bool = False) -> dict:
    overrides = [f"train.output_dir={folder}", "train.device=cpu", "train.log_period=1", *changes]
    return train(load_config(CONFIG, overrides), resume=resume)


def total(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [row["total_loss"] for row in rows if "total_loss" in row]


@pytest.mark.slow
def test_losses_fall_and_regions_of_new_pictures_are_named(tmp_path: Path) -> None:
    results = run(tmp_path, "train.max_iter=60")
    losses = total(tmp_path)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert results["shapes"]["regions"]["top1"] > 40  # ten colors: chance is 10
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert {k.partition(".")[0] for k in saved["model"]} == {"backbone"}


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    quiet = ["train.max_iter=6", "train.eval_period=-1", "dataloader.train.total_batch_size=4"]
    run(tmp_path / "whole", *quiet, "train.checkpointer.period=3")
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "model_0000002.pth").write_bytes((tmp_path / "whole" / "model_0000002.pth").read_bytes())
    run(tmp_path / "part", *quiet, resume=True)
    assert (len(total(tmp_path / "whole")), len(total(tmp_path / "part"))) == (6, 3)
    ends = [torch.load(tmp_path / d / "model_final.pth", weights_only=True)["model"] for d in ("whole", "part")]
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])
