"""Small stand-ins: a regression dressed as a detector, records it learns from, and a config of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from detectron2.config import LazyCall as L
from detectron2.evaluation import DatasetEvaluator
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from openvocab.data import TrainSource, build_test_loader, build_train_loader
from openvocab.engine import build_adamw

SIZE = 4
LOSSES: list[float] = []
"""Of every training forward, as it is (metrics.json holds smoothed ones)."""


class ToyDetector(nn.Module):
    """y = W x with dropout and a batch norm, so that random numbers and buffers matter; `anchor` is frozen."""

    def __init__(self, *, dropout: float = 0.2, fail_at: float | None = None) -> None:
        super().__init__()
        self.input_norm = nn.BatchNorm1d(SIZE)
        self.drop = nn.Dropout(dropout)
        self.fit = nn.Linear(SIZE, 1)
        self.anchor = nn.Parameter(torch.ones(SIZE), requires_grad=False)
        self.fail_at = fail_at
        self.seen: list[int] = []

    def forward(self, batch: list[dict]) -> dict[str, Tensor] | list[dict]:
        device = self.anchor.device
        x = torch.stack([b["x"] for b in batch]).to(device)
        y = torch.stack([b["y"] for b in batch]).to(device)
        out = self.fit(self.drop(self.input_norm(x)) * self.anchor).squeeze(1)
        if not self.training:
            return [{"error": float(e)} for e in (out - y).abs()]
        self.seen += [b["image_id"] for b in batch]
        error = (out - y).float()
        if self.fail_at is not None and any(b["image_id"] == self.fail_at for b in batch):
            error = error * float("nan")
        LOSSES.append(error.square().mean().item())
        return {"loss_fit": error.square().mean(), "loss_size": 0.01 * self.fit.weight.float().square().sum()}


class ToyEvaluator(DatasetEvaluator):
    """ "AP50" is 100 minus the mean error."""

    def __init__(self, *, fail: bool = False) -> None:
        self.fail, self.errors = fail, []

    def reset(self) -> None:
        self.errors = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        if self.fail:
            raise ValueError("the evaluator fails")
        torch.rand(3), nn.Dropout(0.5)(torch.ones(2))  # evaluators may draw random numbers
        self.errors += [o["error"] for o in outputs]

    def evaluate(self) -> dict:
        mean = 100 - sum(self.errors) / len(self.errors)
        return {"bbox": {"AP": mean / 2, "AP50": mean, "AP75": float("nan")}}


def toy_records(count: int = 24) -> list[dict]:
    """Records as detectron2's; the numbers to learn are a function of the id."""
    annotation = {"bbox": [0, 0, 1, 1], "bbox_mode": 0, "category_id": 0}
    size = {"width": 8, "height": 8}
    return [{"image_id": i, "file_name": f"picture_{i}.jpg", "annotations": [annotation], **size} for i in range(count)]


def toy_mapper(record: Mapping, noise: float = 0.01) -> dict:
    """Return (SIZE,) inputs with random noise, as an augmentation, and their target."""
    own = torch.Generator().manual_seed(record["image_id"])
    x = torch.randn(SIZE, generator=own)
    target = x.sum() + 3
    return {"x": x + noise * torch.randn(SIZE), "y": target, "image_id": record["image_id"], "file_name": record["file_name"]}


def mapped_by_toy(*, noise: float = 0.01) -> object:
    """Return the mapper; configs hold calls, not functions."""
    return partial(toy_mapper, noise=noise)


def toy_config(output_dir: object, **train: object) -> DictConfig:
    """Return a config of the five names; keyword arguments go into `train`."""
    loader = L(build_test_loader)(dataset=toy_records(6), mapper=L(mapped_by_toy)(noise=0.0), batch_size=2)
    node = {
        "model": L(ToyDetector)(),
        "dataloader": {
            "train": L(build_train_loader)(
                sources=[L(TrainSource)(name="toy", mapper=L(mapped_by_toy)(), records=toy_records())],
                total_batch_size=4,
                seed=3,
            ),
            "test": {"toy": {"loader": loader, "evaluator": L(ToyEvaluator)()}},
        },
        "optimizer": L(build_adamw)(lr=0.05, weight_decay=0.01),
        "lr_multiplier": L(WarmupParamScheduler)(
            scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.1), warmup_factor=0.1, warmup_length=0.2
        ),
        "train": {"output_dir": str(output_dir), "max_iter": 10, "log_period": 5, "seed": 1, "device": "cpu", **train},
    }
    return OmegaConf.create(node, flags={"allow_objects": True})
