"""AdamW with parameter groups by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from openvocab.errors import ConfigError


def build_adamw(
    *,
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    overrides: Mapping[str, Mapping[str, float]] | None = None,
    decay_one_dimensional: bool = False,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.AdamW:
    """Build AdamW over the trainable parameters.

    Args:
        model: whose parameters; the trainer passes it.
        lr: base learning rate.
        weight_decay: for weights.
        overrides: substring of a parameter's name -> {"lr_factor": ..., "weight_decay": ...}; the first that fits is used.
        decay_one_dimensional: also decay biases, norms and scales.
        betas: of Adam.

    Raises:
        ConfigError: if an override fits no parameter, or nothing is trainable.
    """
    groups: dict[tuple[float, float], list] = {}
    used: set[str] = set()
    for name, parameter in model.named_parameters():
        key = next((k for k in overrides or {} if k in name), None)
        used |= {key} if key else set()
        if not parameter.requires_grad:
            continue
        change = (overrides or {}).get(key, {})
        decay = change.get("weight_decay", weight_decay)
        if parameter.ndim <= 1 and not decay_one_dimensional:
            decay = 0.0
        groups.setdefault((lr * change.get("lr_factor", 1.0), float(decay)), []).append(parameter)
    unused = set(overrides or {}) - used
    if unused:
        raise ConfigError(f"the optimizer override '{sorted(unused)[0]}' fits no parameter name")
    if not groups:
        raise ConfigError("the model has no trainable parameter")
    params = [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
    return torch.optim.AdamW(params, lr=lr, betas=tuple(betas))
