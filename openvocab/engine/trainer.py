"""One training run: the loop, and what happens around a step."""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventStorage, JSONWriter
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from openvocab.errors import ConfigError, NonFiniteLossError
from openvocab.io import atomic_write

from .checkpoint import Checkpoints, rng_state, set_rng_state
from .ema import WeightAverage

logger = logging.getLogger(__name__)
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch with `seed` + rank."""
    seed = seed + comm.get_rank()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class Trainer:
    """Trains a model that returns a dict of losses.

    Args:
        model: built and on its device.
        loader: endless batches, with `state_dict` and `load_state_dict` for an exact resume.
        optimizer: over the model's parameters.
        schedule: learning rate factor of a position in 0..1 (an fvcore `ParamScheduler`).
        settings: the config's `train` group.
        evaluate: called without arguments at every evaluation; returns flat results such as {"bccd_val/bbox/AP50": 61.0}.
        extra: kept in every checkpoint, plain values only (the config as yaml, the vocabulary).
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        loader: object,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[float], float],
        settings: Mapping,
        evaluate: Callable[[], dict[str, float]] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        self.model, self.loader, self.optimizer, self.schedule = model, loader, optimizer, schedule
        self.settings, self.evaluate, self.extra = settings, evaluate, dict(extra or {})
        self.max_iter, self.iteration, self.best = int(settings["max_iter"]), 0, -math.inf
        if self.max_iter < 1:
            raise ConfigError(f"train.max_iter={self.max_iter} must be at least 1")
        self.device = next(model.parameters()).device
        amp = settings.get("amp", {})
        if amp.get("enabled") and amp.get("dtype", "bfloat16") not in DTYPES:
            raise ConfigError(f"train.amp.dtype='{amp['dtype']}' is not one of {', '.join(DTYPES)}")
        self.dtype = DTYPES[amp.get("dtype", "bfloat16")] if amp.get("enabled") else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)
        ema = settings.get("ema", {})
        self.average = WeightAverage(model, ema["decay"]) if ema.get("enabled") else None
        self.base_rates = [g["lr"] for g in optimizer.param_groups]
        keep = settings.get("checkpointer", {})
        self.output = Path(settings["output_dir"])
        self.checkpoints = Checkpoints(self.output, keep.get("max_to_keep", 3))
        self.parallel = model
        if comm.get_world_size() > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.parallel = DistributedDataParallel(model, device_ids=ids, **dict(settings.get("ddp", {})))

    # ---- state ----------------------------------------------------------------------------------------------------

    def state(self) -> dict:
        """All that an exact continuation needs."""
        with self.average.applied() if self.average else nullcontext():
            weights = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        state = {
            "model": weights,
            "iteration": self.iteration,
            "best": float(self.best),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": rng_state(),
            **self.extra,
        }
        if self.average:
            state["ema"] = self.average.state_dict()
            state["raw"] = {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}
        if hasattr(self.loader, "state_dict"):
            state["data"] = self.loader.state_dict()
        return state

    def resume(self) -> bool:
        """Continue from the newest readable checkpoint of the output folder; False if there is none."""
        found = self.checkpoints.newest()
        if found is None:
            logger.info("no checkpoint in %s: starting from the beginning", self.output)
            return False
        path, state = found
        self.model.load_state_dict({**state["model"], **state.get("raw", {})})
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.iteration, self.best = int(state["iteration"]), float(state["best"])
        if self.average and "ema" in state:
            self.average.load_state_dict(state["ema"])
        if "data" in state and hasattr(self.loader, "load_state_dict"):
            self.loader.load_state_dict(state["data"])
        set_rng_state(state["rng"])
        logger.info("resumed from %s at iteration %d", path, self.iteration)
        return True

    # ---- loop -----------------------------------------------------------------------------------------------------

    def train(self) -> dict[str, float]:
        """Run to `max_iter`; return the last evaluation's results."""
        s, results, started = self.settings, {}, time.monotonic()
        period, eval_period = s.get("checkpointer", {}).get("period", 0), s.get("eval_period", 0)
        self.parallel.train()
        batches = iter(self.loader)
        with EventStorage(self.iteration) as storage:
            writers = self._writers()
            try:
                while self.iteration < self.max_iter:
                    self.step(next(batches), storage)
                    done = self.iteration == self.max_iter
                    if self.iteration % s.get("log_period", 20) == 0 or done:
                        for writer in writers:
                            writer.write()
                    if done or (eval_period and self.iteration % eval_period == 0):
                        results = self._evaluate(storage)
                    if period and self.iteration % period == 0 and not done:
                        self.checkpoints.save(f"model_{self.iteration - 1:07d}.pth", self.state())
                    budget = s.get("max_seconds", 0)
                    if budget and time.monotonic() - started > budget and not done:
                        logger.warning("train.max_seconds=%s is over; continue with --resume", budget)
                        break
                    storage.step()
            except KeyboardInterrupt:
                path = self.checkpoints.save(f"model_{self.iteration - 1:07d}.pth", self.state())
                logger.warning("interrupted; %s is written, continue with --resume", path)
                raise
            finally:
                for writer in writers:
                    writer.close()
        name = "model_final.pth" if self.iteration >= self.max_iter else f"model_{self.iteration - 1:07d}.pth"
        self.checkpoints.save(name, self.state())
        return results

    def step(self, batch: list[dict], storage: EventStorage) -> dict[str, float]:
        """One forward, backward and update; return the losses."""
        start = time.perf_counter()
        factor = float(self.schedule(self.iteration / self.max_iter))
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        with torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext():
            losses = self.parallel(batch)
        self._check_finite(losses, batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(sum(losses.values())).backward()
        limit = self.settings.get("clip_grad", {}).get("max_norm", 0.0)
        if limit:
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], limit)
            storage.put_scalar("grad_norm", float(norm))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average:
            self.average.update()
        self.iteration += 1
        values = {k: float(v.detach()) for k, v in losses.items()}
        storage.put_scalars(total_loss=sum(values.values()), **values)
        storage.put_scalar("lr", self.optimizer.param_groups[0]["lr"], smoothing_hint=False)
        storage.put_scalar("time", time.perf_counter() - start)
        return values

    def _check_finite(self, losses: dict[str, Tensor], batch: list[dict]) -> None:
        """Stop every process before the update if any of them has a loss that is NaN or infinite."""
        bad = [k for k, v in losses.items() if not torch.isfinite(v)]
        flag = torch.tensor(float(bool(bad)), device=self.device)
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(flag)
        if not flag:
            return
        where = [{"image_id": x.get("image_id"), "file_name": x.get("file_name")} for x in batch]
        dump = self.output / f"nonfinite_batch_rank{comm.get_rank()}.json"
        with atomic_write(dump, "w") as file:
            json.dump({"iteration": self.iteration, "losses": {k: str(float(v)) for k, v in losses.items()}, "batch": where}, file)
        rate = self.optimizer.param_groups[0]["lr"]
        blame = f"{', '.join(bad)} on rank {comm.get_rank()}" if bad else "a loss on another rank"
        raise NonFiniteLossError(
            f"{blame} is not finite at iteration {self.iteration} (lr {rate:.2e}, pictures {[w['image_id'] for w in where]}; "
            f"see {dump}); a lower optimizer.lr or a longer warm-up is the usual cure"
        )

    def _evaluate(self, storage: EventStorage) -> dict[str, float]:
        if self.evaluate is None:
            return {}
        with self.average.applied() if self.average else nullcontext():
            results = self.evaluate()
        self.parallel.train()
        for key, value in results.items():
            storage.put_scalar(key, value, smoothing_hint=False)
        metric = self.settings.get("best_metric", "mean/AP50")
        if results.get(metric, -math.inf) > self.best:
            self.best = results[metric]
            content = {"model": self.state()["model"], "metric": metric, "value": float(self.best), **self.extra}
            if comm.is_main_process():
                with atomic_write(self.output / "model_best.pth") as file:
                    torch.save(content, file)
        comm.synchronize()
        return results

    def _writers(self) -> list:
        if not comm.is_main_process():
            return []
        self.output.mkdir(parents=True, exist_ok=True)
        writers = [CommonMetricPrinter(self.max_iter), JSONWriter(str(self.output / "metrics.json"))]
        try:
            from detectron2.utils.events import TensorboardXWriter

            writers.append(TensorboardXWriter(str(self.output)))
        except ImportError:
            logger.info("tensorboard is not installed: curves are in metrics.json only")
        return writers
