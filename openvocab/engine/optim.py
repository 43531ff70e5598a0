"""Optimizers with parameter groups, and the learning rate as a pure function of the iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from detectron2.engine.train_loop import HookBase
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn

from openvocab.errors import ConfigError, nearest

_OVERRIDES = ("lr_factor", "weight_decay")
FUSED = ("cpu", "cuda")  # devices for which torch has a fused AdamW


def param_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    norm_weight_decay: float | None = 0.0,
    bias_weight_decay: float | None = 0.0,
    bias_lr_factor: float = 1.0,
    overrides: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict]:
    """Return the trainable parameters of a model, one group for each pair of learning rate and weight decay.

    Args:
        model: parameters with `requires_grad=False` are left out; a shared parameter is taken once.
        lr: learning rate.
        weight_decay: of all but the following.
        norm_weight_decay: of normalisation layers (classes with "Norm" in their name) and of other vectors and scalars, such as
            layer scales; None: as the others.
        bias_weight_decay: of parameters named "bias"; None: as the others.
        bias_lr_factor: on the learning rate of biases.
        overrides: part of a parameter's name -> {"lr_factor": f, "weight_decay": w}. Factors of several matches multiply; the
            last weight decay wins.

    Raises:
        ConfigError: if nothing is trainable, an override is unknown, or the part it names is in no parameter's name.
    """
    overrides = overrides or {}
    _check_overrides(model, overrides)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        is_norm = "Norm" in type(module).__name__
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            own_lr, decay = lr, weight_decay
            if name == "bias":
                own_lr, decay = lr * bias_lr_factor, decay if bias_weight_decay is None else bias_weight_decay
            if norm_weight_decay is not None and (is_norm or (parameter.ndim <= 1 and name != "bias")):
                decay = norm_weight_decay
            for change in (c for part, c in overrides.items() if part in f"{module_name}.{name}".lstrip(".")):
                own_lr, decay = own_lr * change.get("lr_factor", 1.0), change.get("weight_decay", decay)
            groups.setdefault((float(own_lr), float(decay)), []).append(parameter)
    if not groups:
        raise ConfigError("the model has no trainable parameters: everything is frozen")
    return [{"params": p, "lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()]


def _check_overrides(model: nn.Module, overrides: Mapping[str, Mapping[str, float]]) -> None:
    names = [n for n, _ in model.named_parameters()]
    for part, change in overrides.items():
        for key in change:
            if key not in _OVERRIDES:
                raise ConfigError(f"optimizer.overrides['{part}']: '{key}' is unknown; use {' or '.join(_OVERRIDES)}")
        if not any(part in n for n in names):
            prefixes = {".".join(n.split(".")[: part.count(".") + 1]) for n in names}
            raise ConfigError(f"optimizer.overrides: no parameter has '{part}' in its name.{nearest(part, prefixes)}")


def build_adamw(
    *,
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.05,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    norm_weight_decay: float | None = 0.0,
    bias_weight_decay: float | None = 0.0,
    bias_lr_factor: float = 1.0,
    overrides: Mapping[str, Mapping[str, float]] | None = None,
    weight_decay_schedule: ParamScheduler | None = None,
) -> torch.optim.AdamW:
    """Return AdamW (arXiv 1711.05101) on `param_groups`; `model` is filled in by the training script.

    On CPU and CUDA it is torch's fused form, a step of which takes an eighth of the time on a CPU.
    `weight_decay_schedule` is a factor on every weight decay over [0, 1) of the run, see `LearningRate`; None keeps them.
    """
    groups = param_groups(
        model,
        lr=lr,
        weight_decay=weight_decay,
        norm_weight_decay=norm_weight_decay,
        bias_weight_decay=bias_weight_decay,
        bias_lr_factor=bias_lr_factor,
        overrides=overrides,
    )
    parameters = [p for group in groups for p in group["params"]]
    fused = all(p.device.type in FUSED and p.is_floating_point() and _is_dense(p) for p in parameters)
    options = {"fused": True} if fused else {}
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay, **options)
    optimizer.register_load_state_dict_post_hook(_keep_fused if fused else _keep_plain)
    if fused:
        optimizer.register_step_pre_hook(_lay_out)
        optimizer.register_step_post_hook(_count_versions)
    optimizer.weight_decay_schedule = weight_decay_schedule
    return optimizer


# ---- what torch's fused step does not do by itself -------------------------------------------------------------------


def _is_dense(parameter: torch.Tensor) -> bool:
    """Does it fill its memory, in an order of its own or not? The fused kernel walks through memory."""
    orders = {4: torch.channels_last, 5: torch.channels_last_3d}
    return parameter.is_contiguous() or (
        parameter.dim() in orders and parameter.is_contiguous(memory_format=orders[parameter.dim()])
    )


def _lay_out(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Give gradients and averages the strides of their parameters: the fused kernel takes these for granted."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            if parameter.grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
            state = optimizer.state.get(parameter, {})
            for key, value in state.items():
                if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                    state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _count_versions(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Count the step as a change of the parameters, as any in-place operation does: caches ask for it, and so does autograd."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                torch.autograd.graph.increment_version(parameter)


def _keep_fused(optimizer: torch.optim.Optimizer) -> None:
    """A checkpoint brings the form of its own optimizer, and counts of steps where that had them."""
    for group in optimizer.param_groups:
        group["fused"] = True
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if "step" in state:
                state["step"] = torch.as_tensor(state["step"], dtype=torch.float32, device=parameter.device)


def _keep_plain(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        group["fused"] = None


def build_sgd(
    *,
    model: nn.Module,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    nesterov: bool = False,
    norm_weight_decay: float | None = 0.0,
    bias_weight_decay: float | None = None,
    bias_lr_factor: float = 1.0,
    overrides: Mapping[str, Mapping[str, float]] | None = None,
) -> torch.optim.SGD:
    """Return SGD with momentum on `param_groups`; defaults are detectron2's. `model` is filled in by the training script."""
    groups = param_groups(
        model,
        lr=lr,
        weight_decay=weight_decay,
        norm_weight_decay=norm_weight_decay,
        bias_weight_decay=bias_weight_decay,
        bias_lr_factor=bias_lr_factor,
        overrides=overrides,
    )
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)


class LearningRate(HookBase):
    """Before step i the rate of every group is its base rate times schedule(i / max_iter).

    So is its weight decay, where the optimizer has a `weight_decay_schedule` (see `build_adamw`). There is no state: both are right
    after a resume, and a longer `max_iter` stretches the schedules.

    Args:
        optimizer: its present rates, and weight decays, are the base ones.
        schedule: fvcore scheduler on [0, 1), such as detectron2's `WarmupParamScheduler`.
    """

    def __init__(self, *, optimizer: torch.optim.Optimizer, schedule: ParamScheduler) -> None:
        self.optimizer, self.schedule = optimizer, schedule
        self.base = [float(g["lr"]) for g in optimizer.param_groups]
        self.decay_schedule: ParamScheduler | None = getattr(optimizer, "weight_decay_schedule", None)
        self.base_decay = [float(g.get("weight_decay", 0.0)) for g in optimizer.param_groups]
        sizes = [sum(p.numel() for p in g["params"]) for g in optimizer.param_groups]
        self.shown = sizes.index(max(sizes))

    def before_step(self) -> None:
        where = self.trainer.iter / self.trainer.max_iter
        factor = float(self.schedule(where))
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = base * factor
        if self.decay_schedule is not None:
            factor = float(self.decay_schedule(where))
            for group, base in zip(self.optimizer.param_groups, self.base_decay, strict=True):
                group["weight_decay"] = base * factor
        rate = self.optimizer.param_groups[self.shown]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
