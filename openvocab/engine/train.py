"""From a config with the five names model, dataloader, optimizer, lr_multiplier, train to a trained model or to results."""

from __future__ import annotations

import dataclasses
import logging
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from openvocab.config import instantiate
from openvocab.errors import ConfigError, WeightsError, nearest
from openvocab.io import atomic_write, load_into, load_weights
from openvocab.text.identity import check_encoder

from .budgets import check_budgets
from .checkpoint import Checkpointer, RunState
from .ema import ModelEma
from .evaluation import TestSet, build_test_sets, check_expected, do_test, report
from .hooks import DatasetLossHook, EvaluateHook, IterationTimer, MemoryHook, PeriodicWriter, SaveHook, build_writers
from .optim import LearningRate
from .plan import config_text, describe_run, logging_to, pick_device, scaled_lr, total_batch_size
from .randomness import seed_everything, set_random_state
from .settings import TrainSettings, read_settings
from .stopping import Interrupted, LeftEarly, StopRequest
from .trainer import Trainer

logger = logging.getLogger(__name__)
NAMES = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


def _settings(cfg: DictConfig, needed: tuple[str, ...] = NAMES) -> TrainSettings:
    for name in needed:
        if name not in cfg:
            raise ConfigError(f"the config has no '{name}'.{nearest(name, map(str, cfg))} It needs {', '.join(needed)}")
    return read_settings(cfg.train)


def _build_model(cfg: DictConfig, settings: TrainSettings, device: torch.device) -> nn.Module:
    model = instantiate(cfg.model)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"'model' of the config builds a {type(model).__name__}, not a torch module")
    if settings.init_checkpoint:
        try:
            content = load_weights(settings.init_checkpoint)
            check_encoder(model, content.metadata, "this file", content.tensors)
            result = load_into(model, content.tensors)
        except WeightsError as error:
            raise WeightsError(f"train.init_checkpoint={settings.init_checkpoint}: {error}") from error
        logger.info("%s: %s", settings.init_checkpoint, result)
    return model.to(device)


def _build_optimizer(cfg: DictConfig, model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    node = cfg.optimizer.copy()
    if "lr" in node:
        node.lr, sentence = scaled_lr(float(node.lr), total_batch_size(cfg.dataloader, settings.accumulate), settings)
        if sentence:
            logger.warning(sentence)
    if isinstance(node.get("params"), DictConfig):
        node.params.model = model  # detectron2's own configs: params=L(get_default_optimizer_params)(...)
    else:
        node._set_flag("allow_objects", True)
        node.model = model
    return instantiate(node)


def _wrap(model: nn.Module, settings: TrainSettings, device: torch.device) -> nn.Module:
    if comm.get_world_size() == 1:
        return model
    ddp = nn.parallel.DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        broadcast_buffers=settings.ddp.broadcast_buffers,
        find_unused_parameters=settings.ddp.find_unused_parameters,
    )
    if settings.ddp.fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

        ddp.register_comm_hook(state=None, hook=default_hooks.fp16_compress_hook)
    return ddp


class _Run:
    """A run that is built and may begin."""

    def __init__(self, cfg: DictConfig, settings: TrainSettings, stop: StopRequest) -> None:
        device = pick_device(settings.device)
        self.settings, self.stop, self.folder = settings, stop, Path(settings.output_dir)
        self.model = _build_model(cfg, settings, device)
        check_budgets(cfg.dataloader, self.model)
        self.optimizer = _build_optimizer(cfg, self.model, settings)
        self.rates = LearningRate(optimizer=self.optimizer, schedule=instantiate(cfg.lr_multiplier))
        self.loader = instantiate(cfg.dataloader.train)
        self.tests: dict[str, TestSet] = build_test_sets(cfg.dataloader) if settings.eval_period >= 0 else {}
        self.model.train()
        wrapped = _wrap(self.model, settings, device)  # gives all processes the weights of rank 0
        self.ema = ModelEma(self.model, decay=settings.ema.decay) if settings.ema.enabled else None
        self.trainer = Trainer(
            model=wrapped,
            optimizer=self.optimizer,
            loader=self.loader,
            settings=settings,
            device=device,
            ema=self.ema,
            stop=stop,
        )
        self.state = RunState(
            model=self.model,
            optimizer=self.optimizer,
            loader=self.loader,
            ema=self.ema,
            scaler=self.trainer.scaler,
            config=config_text(cfg),
        )
        self.checkpointer = Checkpointer(self.folder, max_to_keep=settings.checkpointer.max_to_keep)
        self.batch, self.device = total_batch_size(cfg.dataloader, settings.accumulate), device

    def resume(self, wanted: bool) -> int:
        """Return the number of steps that are done already."""
        found = self.checkpointer.latest() if wanted else None
        if found is not None:
            try:
                start = self.state.load_state_dict(found[1])
            except WeightsError as error:
                raise WeightsError(f"{found[0]} does not fit this config: {error}") from error
            logger.info("resumed from %s after %d of %d iterations", found[0], start, self.settings.max_iter)
            return start
        if wanted:
            logger.warning("there is no checkpoint in %s yet; the run begins at the start", self.folder)
        elif left := self.checkpointer.candidates():
            logger.warning("%s holds checkpoints of an earlier run, such as %s; they may be overwritten", self.folder, left[0].name)
        return 0

    def restore_randomness(self) -> None:
        """Set the random state of the checkpoint; nothing may be drawn between this and the first step."""
        rank = comm.get_rank()
        if rank < len(self.state.rng):
            set_random_state(self.state.rng[rank])
        elif self.state.rng:
            logger.warning("the checkpoint is of %d process(es); process %d starts with a fresh seed", len(self.state.rng), rank)

    def test(self) -> dict:
        with self.ema.applied() if self.ema else nullcontext():
            results = do_test(self.model, self.tests, stop=self.stop)
        report(results, self.folder)
        return results


def train(cfg: DictConfig, *, resume: bool = False) -> dict:
    """Train what a config describes; to be called on every process.

    Writes to `train.output_dir`: config.yaml, log.txt, metrics.json, TensorBoard events, checkpoints (model_0000499.pth, ...,
    model_final.pth, model_best.pth, last_checkpoint) and results.json.

    Args:
        cfg: model, dataloader (train, test), optimizer, lr_multiplier, train; see `TrainSettings`.
        resume: go on from the newest readable checkpoint in the output folder. On a CPU the run then equals one that was never
            interrupted, bit for bit.

    Returns:
        the last evaluation on rank 0: {dataset: {"bbox": {metric: percent}}, "mean": {"AP50": ...}}; {} without one.

    Raises:
        ConfigError: for a config that cannot be run.
        WeightsError: for weights or checkpoints that cannot be used.
        NonFiniteLossError: before the step, on all processes.
        EvaluationError: if `train.expected_results` do not hold.
        Interrupted: after SIGTERM or Ctrl-C, when the checkpoint is saved.
    """
    settings = _settings(cfg)
    with logging_to(Path(settings.output_dir)), StopRequest(max_seconds=settings.max_seconds) as stop:
        settings = dataclasses.replace(settings, seed=seed_everything(settings.seed))
        run = _Run(cfg, settings, stop)
        start = run.resume(resume)
        if comm.is_main_process():
            with atomic_write(run.folder / "config.yaml", "w") as file:
                file.write(run.state.config)
        logger.info(
            describe_run(
                model=run.model,
                optimizer=run.optimizer,
                loader=run.loader,
                settings=settings,
                device=run.device,
                batch=run.batch,
                start=start,
                tests=list(run.tests),
            )
        )
        return _go(run, start)


def _go(run: _Run, start: int) -> dict:
    settings, trainer = run.settings, run.trainer
    save = SaveHook(state=run.state, checkpointer=run.checkpointer, period=settings.checkpointer.period)
    period = settings.eval_period if run.tests else -1
    evaluation = EvaluateHook(
        run=run.test, state=run.state, checkpointer=run.checkpointer, period=period, best_metric=settings.best_metric
    )
    writer = PeriodicWriter(build_writers(run.folder, settings.max_iter), period=settings.log_period)
    own = DatasetLossHook(model=run.model, loader=run.loader, period=settings.log_period)
    losses = [own] if hasattr(run.model, "dataset_losses") else []
    trainer.register_hooks([IterationTimer(), run.rates, MemoryHook(), *losses, save, evaluation, writer])
    if start >= settings.max_iter:
        logger.info("all %d iterations are done already", settings.max_iter)
        results = run.test() if period >= 0 else {}
    else:
        run.restore_randomness()
        left = False
        try:
            trainer.train(start, settings.max_iter)
        except LeftEarly:
            left = True
        if left or (trainer.stopping and trainer.done < settings.max_iter):
            _stop(run, save)
        results = evaluation.results
    if comm.is_main_process() and results:
        check_expected(results, settings.expected_results)
    return results


def _stop(run: _Run, save: SaveHook) -> None:
    """Save what there is, say how to go on, and raise if it was a signal."""
    done = run.trainer.done
    saved = f"saved {save.save()}" if done > run.trainer.start_iter else "nothing new to save"
    signalled = run.trainer.signalled or bool(run.stop.signal_name)
    why = (run.stop.signal_name or "a signal") if signalled else f"the limit of {run.settings.max_seconds:g} s"
    line = f"stopped by {why} after {done} iterations; {saved}; go on with the same command and --resume"
    if signalled:
        raise Interrupted(line)
    logger.warning(line)


def evaluate_config(cfg: DictConfig, *, resume: bool = False) -> dict:
    """Evaluate `train.init_checkpoint` (or, with `resume`, the newest checkpoint of the output folder) on all test sets.

    Returns:
        as `train`.

    Raises:
        ConfigError: if there is nothing to evaluate on.
        WeightsError: for weights that cannot be used.
        EvaluationError: if `train.expected_results` do not hold.
    """
    settings = _settings(cfg, ("model", "dataloader", "train"))
    folder = Path(settings.output_dir)
    with logging_to(folder):
        seed_everything(settings.seed)
        sets = build_test_sets(cfg.dataloader)
        if not sets:
            raise ConfigError("the config has nothing in dataloader.test to evaluate on")
        model = _build_model(cfg, settings, pick_device(settings.device))
        found = Checkpointer(folder).latest() if resume else None
        if found is not None:
            check_encoder(model, {"tokenizer": found[1].get("tokenizer", "")}, str(found[0]))
            logger.info("%s: %s", found[0], load_into(model, found[1]["model"], strict=True))
        elif not settings.init_checkpoint:
            logger.warning("train.init_checkpoint is empty: the model is evaluated as the config builds it")
        start = time.perf_counter()
        results = do_test(model.eval(), sets)
        logger.info("evaluation took %.1f s", time.perf_counter() - start)
        report(results, folder)
        if results:
            check_expected(results, settings.expected_results)
        return results
