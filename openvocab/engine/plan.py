"""What a run is going to do, in words; and the log it writes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from detectron2.utils import comm
from omegaconf import OmegaConf
from torch import nn

from openvocab.errors import ConfigError

from .settings import TrainSettings

TOO_CHATTY = ("detectron2.data.common",)
LOGGERS = ("openvocab", "detectron2", "fvcore", "glipv2", "regionclip", "detection_hub", "projects")


@contextmanager
def logging_to(output_dir: Path) -> Iterator[None]:
    """Inside, the log goes to the terminal (rank 0) and to log.txt (log.txt.rankN of the others); afterwards as before."""
    rank = comm.get_rank()
    output_dir.mkdir(parents=True, exist_ok=True)
    name = f"log.txt.rank{rank}" if rank else "log.txt"
    handlers: list[logging.Handler] = [logging.FileHandler(output_dir / name, encoding="utf-8")]
    if rank == 0 and not logging.getLogger().handlers:
        handlers.append(logging.StreamHandler(sys.stdout))
    form = logging.Formatter("[%(asctime)s %(name)s] %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S")
    loggers = [logging.getLogger(n) for n in LOGGERS]
    levels = [x.level for x in loggers]
    for handler in handlers:
        handler.setFormatter(form)
        for logger in loggers:
            logger.addHandler(handler)
    for logger in loggers:
        logger.setLevel(logging.INFO)
    for name in TOO_CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
            for handler in handlers:
                logger.removeHandler(handler)
        for handler in handlers:
            handler.close() if isinstance(handler, logging.FileHandler) else handler.flush()


def pick_device(name: str) -> torch.device:
    """Return the device of this process.

    Raises:
        ConfigError: for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"train.device='{name}' is no device; use auto, cpu or cuda") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"train.device='{name}', but torch sees no GPU here; use train.device=cpu")
        if device.index is None:
            device = torch.device("cuda", comm.get_local_rank() if comm.get_world_size() > 1 else 0)
        torch.cuda.set_device(device)
    return device


def config_text(cfg: object) -> str:
    """Return a config as yaml; objects are written as the place where they are defined."""
    return yaml.safe_dump(_plain(cfg), sort_keys=False, allow_unicode=True, width=120)


def _plain(value: object) -> object:
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=False)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(v) for v in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value)


def total_batch_size(dataloader: Mapping, accumulate: int) -> int | None:
    """Return the pictures of one step over all processes; None where the config does not say."""
    train = dataloader.get("train")
    size = train.get("total_batch_size") if isinstance(train, Mapping) else None
    return None if size is None else int(size) * accumulate


def scaled_lr(lr: float, batch: int | None, settings: TrainSettings) -> tuple[float, str]:
    """Return the learning rate to use, and a sentence where the batch is not the one it was chosen for.

    The linear rule (Goyal et al., arXiv 1706.02677) is printed; it is followed only with `train.scale_lr`.
    """
    reference = settings.reference_batch_size
    if reference is None or batch is None or batch == reference:
        return lr, ""
    scaled = lr * batch / reference
    if settings.scale_lr:
        return scaled, f"batch {batch} instead of {reference}: learning rate scaled from {lr:g} to {scaled:g}"
    return lr, (
        f"batch {batch}, but {lr:g} was chosen for {reference}; by the linear rule it would be {scaled:g} "
        f"(train.scale_lr=True, or optimizer.lr={scaled:g})"
    )


def describe_run(
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: object,
    settings: TrainSettings,
    device: torch.device,
    batch: int | None,
    start: int,
    tests: Sequence[str],
) -> str:
    """Return the plan of a run, a line for each question."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    precision = settings.amp.dtype if settings.amp.enabled else "float32"
    where = f"{device}, {comm.get_world_size()} process(es), {torch.get_num_threads()} thread(s) each of {os.cpu_count()} cores"
    rates = ", ".join(f"{r:g}" for r in sorted({g["lr"] for g in optimizer.param_groups}, reverse=True))
    evaluated = ", ".join(tests) if tests and settings.eval_period >= 0 else "nothing"
    often = f"every {settings.eval_period} iterations and at the end" if settings.eval_period > 0 else "at the end"
    lines = [
        f"model       {type(model).__name__}: {trainable / 1e6:.2f} M parameters train, {frozen / 1e6:.2f} M are frozen",
        f"device      {where}, {precision}",
        f"optimizer   {type(optimizer).__name__}, learning rates {rates}"
        + (f", gradients clipped at {settings.clip_grad.max_norm:g}" if settings.clip_grad.max_norm else "")
        + (f", weights averaged with decay {settings.ema.decay:g}" if settings.ema.enabled else ""),
        f"iterations  {start} to {settings.max_iter}" + _epochs(loader, settings.max_iter - start, batch),
        f"evaluation  {evaluated}" + (f", {often}" if evaluated != "nothing" else ""),
        f"output      {settings.output_dir}, seed {settings.seed}",
    ]
    return "the plan\n" + "\n".join(lines)


def _epochs(loader: object, iterations: int, batch: int | None) -> str:
    if batch is None:
        return ""
    text = f" of {batch} pictures"
    try:
        size = len(loader.dataset)
    except (AttributeError, TypeError):
        return text
    return f"{text}: {iterations * batch} in all, {iterations * batch / max(size, 1):.1f} times the {size} training pictures"
