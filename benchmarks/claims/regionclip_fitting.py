"""A short training loop, and counting, for the parts of the claims."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TypeVar

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from openvocab.engine import build_adamw

logger = logging.getLogger("claims")
Model = TypeVar("Model", bound=nn.Module)


def fit(
    model: Model, inputs: Sequence[dict], *, steps: int, batch: int, lr: float, seed: int, overrides: dict | None = None
) -> Model:
    """Train on batches drawn from `inputs`: AdamW, one cycle of the rate, gradients cut at 5.

    Returns:
        the model, in evaluation mode.
    """
    start = time.perf_counter()
    torch.manual_seed(seed)  # regions and captions are drawn by the model
    order = torch.Generator().manual_seed(seed)
    optimizer = build_adamw(model=model, lr=lr, weight_decay=0.01, overrides=overrides)
    rates = [g["lr"] for g in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=steps, pct_start=0.1)
    model.train()
    with EventStorage():  # detectron2's heads count into it
        for _ in range(steps):
            rows = torch.randint(len(inputs), (batch,), generator=order).tolist()
            losses = model([inputs[i] for i in rows])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    ends = ", ".join(f"{k} {float(v.detach()):.2f}" for k, v in losses.items())
    logger.debug("%d steps in %.0f s: %s", steps, time.perf_counter() - start, ends)
    return model.eval()


def batches(inputs: Sequence[dict], size: int = 25) -> list[list[dict]]:
    """Cut a list into batches."""
    return [list(inputs[i : i + size]) for i in range(0, len(inputs), size)]


def share_right(pairs: Sequence[tuple[int, int]]) -> float:
    """Percent of (said, true) that agree."""
    return 100.0 * sum(a == b for a, b in pairs) / max(len(pairs), 1)


def mean_right(pairs: Sequence[tuple[int, int]], classes: Sequence[int] | None = None) -> float:
    """Mean over classes (those that occur, or that are asked for and occur) of the percent that agree."""
    occurring = sorted({b for _, b in pairs} & (set(classes) if classes is not None else {b for _, b in pairs}))
    shares = [share_right([p for p in pairs if p[1] == c]) for c in occurring]
    return sum(shares) / max(len(shares), 1)
