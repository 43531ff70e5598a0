"""From a config to a training or an evaluation."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn

from openvocab.config import instantiate
from openvocab.errors import ConfigError
from openvocab.evaluation import evaluate, flatten, mean_of, print_results
from openvocab.io import load_into, load_weights

from .trainer import Trainer, seed_everything

logger = logging.getLogger(__name__)
TOP_LEVEL = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


def pick_device(name: str) -> torch.device:
    """Return the device for "auto", "cpu", "cuda" or "cuda:1"; with several processes each gets its own GPU.

    Raises:
        ConfigError: if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{comm.get_local_rank()}" if torch.cuda.is_available() else "cuda"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"train.device={name}: this machine has no CUDA device; use device=cpu or auto")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"train.device={name} is no device") from error


def build_model(cfg: DictConfig, weights: str | None = None) -> nn.Module:
    """Build the config's model on its device, with `weights` or the config's initial ones."""
    absent = [k for k in TOP_LEVEL if k not in cfg]
    if absent:
        raise ConfigError(f"the config has no '{absent[0]}'; an experiment has {', '.join(TOP_LEVEL)}")
    model = instantiate(cfg.model).to(pick_device(cfg.train.get("device", "auto")))
    source = weights or cfg.train.get("init_checkpoint", "")
    if source:
        report = load_into(model, load_weights(source).tensors)
        logger.info("%s: %s", source, report)
    return model


def do_test(cfg: DictConfig, model: nn.Module) -> dict:
    """Evaluate on every set of `dataloader.test`; return {name: {"bbox": {...}}} on rank 0, {} elsewhere.

    Evaluators count `pred_classes` in the words of their data set, which the loader gives to the model.
    """
    results = {}
    for name, parts in cfg.dataloader.test.items():
        result = evaluate(
            model, instantiate(parts.loader), instantiate(parts.evaluator), progress=comm.is_main_process(), name=name
        )
        if result:
            results[name] = result
    if results:
        logger.info("results, in percent:\n%s", print_results(results))
    return results


def summary(results: Mapping) -> dict[str, float]:
    """Flatten results and add the mean AP and AP50 over the sets."""
    flat = flatten(results)
    for metric in ("AP", "AP50"):
        values = [r["bbox"][metric] for r in results.values() if "bbox" in r]
        if values:
            flat[f"mean/{metric}"] = mean_of(values)
    return flat


def check_expected(results: Mapping, expected: list) -> None:
    """Compare results with `train.expected_results`, rows of [data set, task, metric, value, tolerance].

    Raises:
        ConfigError: for the first that is missing, nan, or off by more than the tolerance.
    """
    for name, task, metric, value, tolerance in expected or []:
        got = results.get(name, {}).get(task, {}).get(metric, math.nan)
        if math.isnan(got) or abs(got - value) > tolerance:
            raise ConfigError(f"{name}/{task}/{metric} is {got:.3f}, expected {value} within {tolerance}")


def train(cfg: DictConfig, *, resume: bool = False) -> dict[str, float]:
    """Train as the config says; return the last evaluation, flat.

    Args:
        cfg: the five names model, dataloader, optimizer, lr_multiplier, train.
        resume: continue from the newest checkpoint in `train.output_dir`.
    """
    seed_everything(int(cfg.train.get("seed", 0)))
    model = build_model(cfg)
    cfg.optimizer.model = model
    optimizer = instantiate(cfg.optimizer)
    del cfg.optimizer["model"]
    has_tests = bool(cfg.dataloader.get("test"))
    results: dict = {}

    def evaluation() -> dict[str, float]:
        results.clear()
        results.update(do_test(cfg, model))
        return summary(results)

    trainer = Trainer(
        model=model,
        loader=instantiate(cfg.dataloader.train),
        optimizer=optimizer,
        schedule=instantiate(cfg.lr_multiplier),
        settings=OmegaConf.to_container(cfg.train),
        evaluate=evaluation if has_tests else None,
    )
    if resume:
        trainer.resume()
    logger.info(plan(cfg, model, trainer))
    flat = trainer.train()
    check_expected(results, cfg.train.get("expected_results", []))
    return flat


def plan(cfg: DictConfig, model: nn.Module, trainer: Trainer) -> str:
    """Say in a few lines what is about to run."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    batch = cfg.dataloader.train.get("total_batch_size", 0)
    return (
        f"{type(model).__name__}: {trainable / 1e6:.2f} M of {total / 1e6:.2f} M parameters train, on {trainer.device}\n"
        f"iterations {trainer.iteration} to {trainer.max_iter}, {batch} pictures each ({batch * trainer.max_iter} in all), "
        f"{comm.get_world_size()} processes, {torch.get_num_threads()} threads\n"
        f"learning rates {sorted(set(trainer.base_rates))}, output in {trainer.output}"
    )
