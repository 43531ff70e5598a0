"""`train.*` of a config as checked values; every key, its default and its meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from openvocab.errors import ConfigError, nearest

AMP_DTYPES = ("bfloat16", "float16")


def _require(condition: bool, key: str, value: object, rule: str) -> None:
    if not condition:
        raise ConfigError(f"train.{key}={value!r}: {rule}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Amp:
    """Mixed precision: `enabled`, and `dtype` "bfloat16" (CPU and CUDA) or "float16" (CUDA, with loss scaling)."""

    enabled: bool = False
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        _require(self.dtype in AMP_DTYPES, "amp.dtype", self.dtype, f"must be one of {', '.join(AMP_DTYPES)}")


@dataclass(frozen=True)
class Ddp:
    """Arguments of torch's DistributedDataParallel, and `fp16_compression` of the gradients that travel."""

    broadcast_buffers: bool = False
    find_unused_parameters: bool = False
    fp16_compression: bool = False


@dataclass(frozen=True)
class ClipGrad:
    """`max_norm` (2-norm) of all gradients together, or `per_parameter`, as detectron2 clips by "norm"; 0 does not clip."""

    max_norm: float = 0.0
    per_parameter: bool = False

    def __post_init__(self) -> None:
        _require(self.max_norm >= 0, "clip_grad.max_norm", self.max_norm, "must be 0 (off) or more")


@dataclass(frozen=True)
class Ema:
    """Moving average of the weights: after each step ema = d * ema + (1 - d) * weights, d = min(decay, (1 + t) / (10 + t))."""

    enabled: bool = False
    decay: float = 0.999

    def __post_init__(self) -> None:
        _require(0 <= self.decay < 1, "ema.decay", self.decay, "must be at least 0 and below 1")


@dataclass(frozen=True)
class Checkpoints:
    """A checkpoint every `period` iterations (0: only at the end), of which the last `max_to_keep` stay (0: all)."""

    period: int = 500
    max_to_keep: int = 3

    def __post_init__(self) -> None:
        for key in ("period", "max_to_keep"):
            value = getattr(self, key)
            _require(_whole(value) and value >= 0, f"checkpointer.{key}", value, "must be a whole number, 0 or more")


@dataclass(frozen=True)
class TrainSettings:
    """What a run needs besides model, data, optimizer and schedule.

    Attributes:
        output_dir: where everything is written.
        init_checkpoint: weights to start from (or to evaluate); "" for none.
        max_iter: optimizer steps of the whole run; schedules are functions of step / max_iter.
        device: "auto" (cuda where there is one, else cpu), "cpu", "cuda", "cuda:1".
        seed: of python, numpy and torch; process r uses seed + r. None draws one and prints it.
        eval_period: evaluate every so many iterations and at the end; 0: only at the end; negative: never.
        log_period: iterations between two lines of the log and of metrics.json.
        accumulate: batches of which the gradients are averaged for one step.
        reference_batch_size: the total batch size for which optimizer.lr was chosen; None: not known.
        scale_lr: multiply the learning rate by total batch size / reference_batch_size.
        best_metric: the result whose best value is kept as model_best.pth, such as "mean/AP50" or "bccd_val/bbox/AP"; "" for none.
        max_seconds: stop, with a checkpoint, after so much time in this call; 0: no limit.
        expected_results: [dataset, task, metric, value, tolerance] each; checked after evaluation, nan fails.
    """

    output_dir: str = "output"
    init_checkpoint: str = ""
    max_iter: int = 1000
    device: str = "auto"
    seed: int | None = 0
    amp: Amp = field(default_factory=Amp)
    ddp: Ddp = field(default_factory=Ddp)
    clip_grad: ClipGrad = field(default_factory=ClipGrad)
    ema: Ema = field(default_factory=Ema)
    checkpointer: Checkpoints = field(default_factory=Checkpoints)
    eval_period: int = 0
    log_period: int = 20
    accumulate: int = 1
    reference_batch_size: int | None = None
    scale_lr: bool = False
    best_metric: str = "mean/AP50"
    max_seconds: float = 0.0
    expected_results: Sequence[Sequence[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for key in ("max_iter", "log_period", "accumulate"):
            value = getattr(self, key)
            _require(_whole(value) and value >= 1, key, value, "must be a whole number, at least 1")
        _require(_whole(self.eval_period), "eval_period", self.eval_period, "must be a whole number; negative: never")
        seed = self.seed
        fits = seed is None or (_whole(seed) and 0 <= seed < 2**31)
        _require(fits, "seed", seed, "must be a whole number from 0 to 2147483647, or null")
        _require(self.max_seconds >= 0, "max_seconds", self.max_seconds, "must be 0 (no limit) or more")
        _require(bool(self.output_dir), "output_dir", self.output_dir, "must name a folder")
        batch = self.reference_batch_size
        _require(batch is None or batch >= 1, "reference_batch_size", batch, "must be at least 1, or null")
        for row in self.expected_results:
            _require(len(row) == 5, "expected_results", list(row), "each is [dataset, task, metric, value, tolerance]")


_GROUPS = {"amp": Amp, "ddp": Ddp, "clip_grad": ClipGrad, "ema": Ema, "checkpointer": Checkpoints}


def _fill(kind: type, values: Mapping, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}={values!r}: a group of keys is expected here")
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            raise ConfigError(f"there is no config key '{path}.{key}'.{nearest(key, known)} Known: {', '.join(known)}")
    groups = _GROUPS if kind is TrainSettings else {}
    return kind(**{k: _fill(groups[k], v, f"{path}.{k}") if k in groups else v for k, v in values.items()})


def read_settings(values: Mapping) -> TrainSettings:
    """Return the settings in a config's `train`; what is left out has its default.

    Raises:
        ConfigError: for an unknown key (with the nearest names) or a value that cannot be used.
    """
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(values, resolve=True) if OmegaConf.is_config(values) else values
    try:
        return _fill(TrainSettings, plain, "train")
    except TypeError as error:
        raise ConfigError(f"a value in train.* has the wrong type: {error}") from error
