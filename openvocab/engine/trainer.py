"""The training step and the loop around it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from detectron2.engine.train_loop import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from openvocab.errors import ConfigError, DataError

from .ema import ModelEma
from .nonfinite import is_finite, refuse
from .settings import TrainSettings
from .stopping import LeftEarly, StopRequest


class Trainer(TrainerBase):
    """detectron2's loop of hooks around a step that never lets a bad number into the weights.

    A step: `accumulate` batches forward and backward, gradient norm, clipping, optimizer, moving average. Before each backward
    all processes agree that all losses are finite, and whether to stop after this step.

    Args:
        model: in training mode; takes a batch and returns a dict of scalar losses. May be wrapped in DistributedDataParallel.
        optimizer: steps the model's parameters; its groups' "lr" is set by hooks.
        loader: an iterable of batches; a finite one is begun again when it ends.
        settings: `amp`, `clip_grad`, `accumulate`, `log_period` and `output_dir` are used.
        device: of the model.
        ema: updated after each step.
        stop: asked for after each step.

    Raises:
        ConfigError: for float16 on a CPU.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loader: object,
        settings: TrainSettings,
        device: torch.device,
        ema: ModelEma | None = None,
        stop: StopRequest | None = None,
    ) -> None:
        super().__init__()
        self.model, self.optimizer, self.loader, self.settings = model, optimizer, loader, settings
        self.device, self.ema, self.stop = device, ema, stop or StopRequest()
        self.done, self.stopping, self.signalled = 0, False, False
        half = settings.amp.enabled and settings.amp.dtype == "float16"
        if half and device.type == "cpu":
            raise ConfigError("train.amp.dtype=float16 needs a GPU; on a CPU use train.amp.dtype=bfloat16")
        self.scaler = torch.amp.GradScaler(device.type, enabled=half)
        self._batches: Iterator | None = None

    # ---- loop -----------------------------------------------------------------------------------------------------

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run steps start_iter .. max_iter - 1, or until a stop is asked for; then `stopping` is true. `done` counts steps.

        As detectron2's, but errors are raised without being logged first: whoever catches them says it once.
        """
        self.iter = self.start_iter = self.done = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.done = self.iter + 1
                    self.after_step()
                    if self.wants_to_stop():
                        break
                self.iter += 1
            finally:
                self._close_batches()
                self.after_train()

    def wants_to_stop(self) -> bool:
        """Return whether the run ends after the present step; the same on all processes."""
        if comm.get_world_size() == 1:
            self.stopping = self.stopping or self.stop.requested
            self.signalled = bool(self.stop.signal_name)
        return self.stopping

    # ---- step -----------------------------------------------------------------------------------------------------

    def run_step(self) -> None:
        """Make one optimizer step.

        Raises:
            NonFiniteLossError: before the step, on all processes, if a loss or the gradient is not finite on any.
            DataError: if the loader gives nothing.
        """
        accumulate = self.settings.accumulate
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        data_time = 0.0
        for i in range(accumulate):
            start = time.perf_counter()
            batch = self._next_batch()
            data_time += time.perf_counter() - start
            synced = nullcontext() if i == accumulate - 1 else getattr(self.model, "no_sync", nullcontext)()
            with synced:
                losses = self._losses(batch)
                self._agree(losses, batch)
                self.scaler.scale(sum(losses.values()) / accumulate).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach().float() / accumulate
        norm = self._clipped_norm(sums, batch)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update()
        self._log(sums, norm, data_time)

    def _next_batch(self) -> list[dict]:
        if self._batches is None:
            self._batches = iter(self.loader)
        try:
            return next(self._batches)
        except StopIteration:
            self._batches = iter(self.loader)
        except RuntimeError as error:  # a signal to the terminal's group also ends the reading processes
            if self.stop.signal_name and comm.get_world_size() == 1:
                raise LeftEarly(f"a batch was left because of {self.stop.signal_name}") from error
            raise
        try:
            return next(self._batches)
        except StopIteration as error:
            raise DataError("dataloader.train gives no batches") from error

    def _close_batches(self) -> None:
        """End reading processes now; left to the garbage collector they are waited for in vain, 5 s each."""
        batches, self._batches = self._batches, None
        if hasattr(batches, "close"):
            batches.close()

    def _losses(self, batch: list[dict]) -> dict[str, Tensor]:
        amp = self.settings.amp
        with torch.autocast(self.device.type, dtype=getattr(torch, amp.dtype), enabled=amp.enabled):
            losses = self.model(batch)
        if isinstance(losses, Tensor):
            losses = {"loss": losses}
        if not isinstance(losses, Mapping) or not losses:
            raise ConfigError(f"in training the model must return a dict of losses, not {type(losses).__name__} {losses!r:.60}")
        return dict(losses)

    def _agree(self, losses: Mapping[str, Tensor], batch: list[dict]) -> None:
        bad = not is_finite(losses)
        if comm.get_world_size() > 1:
            own = [bad, self.stop.requested, bool(self.stop.signal_name)]
            flags = torch.tensor(own, dtype=torch.float32, device=self.device)
            torch.distributed.all_reduce(flags)
            bad, stop, signalled = (bool(f) for f in flags.tolist())
            self.stopping, self.signalled = self.stopping or stop, self.signalled or signalled
        if bad:
            self._refuse(losses, batch)

    def _clipped_norm(self, losses: Mapping[str, Tensor], batch: list[dict]) -> float:
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        clip = self.settings.clip_grad
        limit = clip.max_norm if clip.max_norm > 0 else float("inf")
        norm = float(nn.utils.clip_grad_norm_(parameters, float("inf") if clip.per_parameter else limit))
        for p in parameters if clip.per_parameter else ():
            nn.utils.clip_grad_norm_(p, limit)
        if norm != norm or norm == float("inf"):
            if not self.scaler.is_enabled():  # the scaler skips such a step by itself and lowers its scale
                self._refuse(losses, batch, what=f"the gradient's norm is {norm}")
        return norm

    def _refuse(self, losses: Mapping[str, Tensor], batch: list[dict], what: str = "") -> None:
        lr = max(g["lr"] for g in self.optimizer.param_groups)
        refuse(losses, batch, iteration=self.iter, lr=lr, output_dir=Path(self.settings.output_dir), what=what)

    def _log(self, losses: Mapping[str, Tensor], norm: float, data_time: float) -> None:
        last = self.iter + 1 == self.max_iter
        shared = last or (self.iter + 1) % self.settings.log_period == 0
        values = {k: float(v) for k, v in losses.items()} | {"grad_norm": norm, "data_time": data_time}
        everyone = comm.gather(values) if shared else [values]
        if not comm.is_main_process():
            return
        mean = {k: sum(v.get(k, 0.0) for v in everyone) / len(everyone) for k in everyone[0]}
        mean["data_time"] = max(v["data_time"] for v in everyone)
        self.storage.put_scalars(total_loss=sum(mean[k] for k in losses), **mean)
