"""detectron2's `DefaultTrainer` for a hub in a yaml config."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from torch import nn

from openvocab.engine import build_adamw

from .config import hub_from_config
from .data import HubTrainLoader, build_hub_loader
from .evaluation import hub_test


class HubTrainer(DefaultTrainer):
    """Trains `MODEL.DETECTION_HUB.DATASETS` and tests on them; `DATASETS.TRAIN` and `DATASETS.TEST` are not read.

    AdamW with `SOLVER.BASE_LR` and `SOLVER.WEIGHT_DECAY`; gradients are clipped only if `SOLVER.CLIP_GRADIENTS` says so. A resume
    begins the data anew, as detectron2's does; `tools/train_net.py` with a Lazy config goes on exactly.
    """

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_adamw(model=model, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> HubTrainLoader:
        return build_hub_loader(
            datasets=hub_from_config(cfg),
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            seed=max(cfg.SEED, 0),
            image_format=cfg.INPUT.FORMAT,
        )

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: object = None) -> dict:
        """Return what `hub_test` does."""
        return hub_test(getattr(model, "module", model), hub_from_config(cfg))
