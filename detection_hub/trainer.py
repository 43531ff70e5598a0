"""detectron2's `DefaultTrainer` for a hub in a yaml config."""

from __future__ import annotations

import logging

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from openvocab.engine import build_adamw
from openvocab.engine.hooks import DatasetLossHook

from .config import hub_from_config, hub_loader_from_config
from .data import HubTrainLoader, build_hub_loader
from .evaluation import hub_test

logger = logging.getLogger(__name__)
LOG_PERIOD = 20  # of detectron2's writers
RATES = 2  # hooks of detectron2 that stand before those that save: the timer, and the learning rate


class HubTrainer(DefaultTrainer):
    """Trains `MODEL.DETECTION_HUB.DATASETS` and tests on them; `DATASETS.TRAIN` and `DATASETS.TEST` are not read.

    AdamW with `SOLVER.BASE_LR` and `SOLVER.WEIGHT_DECAY`; gradients are clipped only if `SOLVER.CLIP_GRADIENTS` says so. Each data
    set's own losses are logged, and shares follow them with `DATALOADER.HUB.LOSS_DRIVEN`. A resume goes on with the next samples;
    losses since the last log are not saved, and neither is the random state (`tools/train_net.py` with a Lazy config is exact).
    """

    @property
    def done(self) -> int:
        """Steps that are done, where hooks ask for it: after a step."""
        return self.iter + 1

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = build_adamw(model=model, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)
        return maybe_add_gradient_clipping(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> HubTrainLoader:
        return build_hub_loader(**hub_loader_from_config(cfg))

    def build_hooks(self) -> list[HookBase | None]:
        """detectron2's, and the log of each data set's own losses: a collective call, so on all processes."""
        model = getattr(self.model, "module", self.model)
        own = DatasetLossHook(model=model, loader=self.data_loader, period=LOG_PERIOD)
        hooks = super().build_hooks()
        return [*hooks[:RATES], own, *hooks[RATES:]]

    def state_dict(self) -> dict:
        """Return detectron2's, and the place in the data."""
        return {**super().state_dict(), "data": self.data_loader.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from `state_dict`.

        Raises:
            DataError: if it is of other data sets, sizes or another seed.
        """
        super().load_state_dict(state_dict)
        if "data" in state_dict:
            self.data_loader.load_state_dict(state_dict["data"])
        else:
            logger.warning("the checkpoint does not say where the data stood: they begin anew")

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: object = None) -> dict:
        """Return what `hub_test` does."""
        return hub_test(getattr(model, "module", model), hub_from_config(cfg))
