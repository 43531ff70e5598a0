"""What happens between steps: checkpoints, evaluation, and the log."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path

from detectron2.engine.hooks import IterationTimer, PeriodicWriter
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from torch import nn

from openvocab.evaluation import flatten

from .checkpoint import BEST, FINAL, Checkpointer, RunState
from .randomness import untouched_randomness

__all__ = ["DatasetLossHook", "EvaluateHook", "IterationTimer", "MemoryHook", "PeriodicWriter", "SaveHook", "build_writers"]


class SaveHook(HookBase):
    """Saves model_0000999.pth after iteration 999, 1999, ... and model_final.pth after the last.

    Args:
        state: of the run.
        checkpointer: writes it.
        period: iterations; 0: only the last.
    """

    def __init__(self, *, state: RunState, checkpointer: Checkpointer, period: int) -> None:
        self.state, self.checkpointer, self.period = state, checkpointer, period
        self.saved: tuple[int, Path] | None = None

    def save(self, name: str | None = None) -> Path:
        """Save the run after the present iteration, once; return the file."""
        done = self.trainer.done
        if self.saved is None or self.saved[0] != done:
            name = name or f"model_{done - 1:07d}.pth"
            self.saved = done, self.checkpointer.save(name, self.state.state_dict(done))
        return self.saved[1]

    def after_step(self) -> None:
        done = self.trainer.done
        if done == self.trainer.max_iter:
            self.save(FINAL)
        elif self.period and done % self.period == 0:
            self.save()


class EvaluateHook(HookBase):
    """Evaluates every `period` iterations and after the last, and keeps the best weights.

    Neither the weights nor the random generators are other than without an evaluation.

    Args:
        run: evaluates the weights to be used; returns nested results, on rank 0 (empty elsewhere).
        state: of the run; its `best` is updated.
        checkpointer: writes model_best.pth.
        period: iterations; 0: only at the end; negative: never.
        best_metric: key of a flattened result, higher is better; "" keeps no best.
    """

    def __init__(
        self, *, run: Callable[[], dict], state: RunState, checkpointer: Checkpointer, period: int, best_metric: str = ""
    ) -> None:
        self._run, self.state, self.checkpointer = run, state, checkpointer
        self.period, self.best_metric = period, best_metric
        self.results: dict = {}

    def after_step(self) -> None:
        done = self.trainer.done
        last = done == self.trainer.max_iter
        due = self.period >= 0 and (last or (self.period > 0 and done % self.period == 0))
        if due and (last or not self.trainer.wants_to_stop()):
            self.evaluate()

    def evaluate(self) -> None:
        """Evaluate now."""
        with untouched_randomness():
            results = self._run()
        self.results = results or {}
        flat = flatten(self.results)
        self.trainer.storage.put_scalars(**flat, smoothing_hint=False)
        value = comm.all_gather(flat.get(self.best_metric))[0]
        if value is not None and value > self.state.best.get("value", float("-inf")):  # nan is never above
            iteration = self.trainer.done
            self.state.best = {"metric": self.best_metric, "value": float(value), "iteration": iteration}
            content = {"model": self.state.weights(), "iteration": iteration, "best": dict(self.state.best)}
            self.checkpointer.save(BEST, content | {"config": self.state.config}, tag=False)


class DatasetLossHook(HookBase):
    """Logs each data set's own losses every `period` iterations, and tells them to a loader that listens.

    For models with `dataset_losses()`, a collective call that returns {data set: {"loss_x": value, ...}} of the steps since the
    last one. A loader listens if it has `observe(losses)`. It stands before what saves checkpoints, so that these know of it.

    Args:
        model: not wrapped.
        loader: of training data.
        period: iterations.
    """

    def __init__(self, *, model: nn.Module, loader: object, period: int) -> None:
        self.model, self.loader, self.period = model, loader, period

    def after_step(self) -> None:
        done = self.trainer.done
        if done % self.period and done != self.trainer.max_iter:
            return
        losses = self.model.dataset_losses()
        for name, values in losses.items():  # without "loss" in its name: the printed line would not end
            row = {f"data set {name}/{key.removeprefix('loss_')}": value for key, value in values.items()}
            self.trainer.storage.put_scalars(**row, smoothing_hint=False)
        if hasattr(self.loader, "observe"):
            self.loader.observe(losses)


class MemoryHook(HookBase):
    """Logs the largest resident memory of this process so far, in MB (detectron2's own printer only knows the GPU's)."""

    def after_step(self) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        megabytes = peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
        self.trainer.storage.put_scalar("[metric]peak_rss_mb", megabytes, smoothing_hint=False)


def build_writers(output_dir: Path, max_iter: int) -> list[EventWriter]:
    """Return the writers of rank 0: the printed line with the time left, metrics.json, and TensorBoard where it is installed."""
    if not comm.is_main_process():
        return []
    writers = [CommonMetricPrinter(max_iter), JSONWriter(str(output_dir / "metrics.json"))]
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        return writers
    return [*writers, TensorboardXWriter(str(output_dir))]
