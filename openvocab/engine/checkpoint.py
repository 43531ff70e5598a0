"""Checkpoints that are whole or not there, and a resume that continues exactly."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.utils import comm
from torch import nn

from openvocab.errors import WeightsError
from openvocab.io import atomic_write, load_into
from openvocab.text.identity import check_encoder, encoder_of

from .ema import ModelEma
from .randomness import random_state

logger = logging.getLogger(__name__)
TAG = "last_checkpoint"
FINAL, BEST = "model_final.pth", "model_best.pth"
_NUMBERED = re.compile(r"model_\d+\.pth")
_NEEDED = ("model", "optimizer", "iteration")


class RunState:
    """Everything that a run is at a moment between two steps.

    A checkpoint holds tensors and plain values only, so that `torch.load(weights_only=True)` reads it: "model" (with a moving
    average: the averaged weights), "raw" (then: the weights being trained), "ema", "optimizer", "scaler", "iteration" (steps
    done), "data" (position of the training loader), "rng" (of each process), "best", "vocabulary", "ledger" (losses not yet
    logged, of a model that keeps one), "config" (yaml text).

    Args:
        model: not wrapped.
        optimizer: of the model.
        loader: of training data; one without `state_dict` begins anew after a resume.
        ema: moving average, or None.
        scaler: of float16 gradients, or None.
        config: the config as text.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loader: object,
        ema: ModelEma | None = None,
        scaler: torch.amp.GradScaler | None = None,
        config: str = "",
    ) -> None:
        self.model, self.optimizer, self.loader = model, optimizer, loader
        self.ema, self.scaler, self.config = ema, scaler, config
        self.best: dict = {}
        self.rng: list[dict] = []

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights to be used: averaged where there is a moving average."""
        return {**self.model.state_dict(), **(self.ema.averages if self.ema else {})}

    def state_dict(self, iteration: int) -> dict:
        """Return the checkpoint after `iteration` steps; a collective call of all processes."""
        state = {
            "model": self.weights(),
            "optimizer": self.optimizer.state_dict(),
            "iteration": int(iteration),
            "rng": comm.all_gather(random_state()),
            "best": dict(self.best),
            "config": self.config,
        }
        if self.ema is not None:
            state |= {"raw": self.ema.raw(), "ema": self.ema.state_dict()}
        if self.scaler is not None and self.scaler.is_enabled():
            state["scaler"] = self.scaler.state_dict()
        if hasattr(self.loader, "state_dict"):
            state["data"] = self.loader.state_dict()
        if hasattr(self.model, "ledger"):
            state["ledger"] = self.model.ledger.state_dict()
        if tokenizer := getattr(encoder_of(self.model), "tokenizer_id", ""):
            state["tokenizer"] = tokenizer
        vocabulary = getattr(self.model, "vocabulary", None)
        if hasattr(vocabulary, "to_dict"):
            state["vocabulary"] = vocabulary.to_dict()
        return state

    def load_state_dict(self, state: dict) -> int:
        """Take over a checkpoint and return the number of steps done.

        Rates and decays of the optimizer stay those of the present config; its moments come from the checkpoint. The random
        state is only noted in `rng`, to be set right before the first step.

        Raises:
            WeightsError: if it was made by another model, tokenizer or optimizer.
            DataError: if its data position is of other data.
        """
        check_encoder(self.model, {"tokenizer": state.get("tokenizer", "")}, "the checkpoint")
        load_into(self.model, {**state["model"], **state.get("raw", {})}, strict=True)
        if self.ema is not None:
            updates = state.get("ema", {}).get("updates", 0)
            self.ema.load({k: state["model"][k] for k in self.ema.averages}, updates)
        self._load_optimizer(state["optimizer"])
        if self.scaler is not None and self.scaler.is_enabled() and "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])
        if hasattr(self.loader, "load_state_dict") and "data" in state:
            self.loader.load_state_dict(state["data"])
        else:
            logger.warning("the training loader cannot say where it stood; it begins anew")
        if hasattr(self.model, "ledger") and "ledger" in state:
            self.model.ledger.load_state_dict(state["ledger"])
        self.best, self.rng = dict(state.get("best", {})), list(state.get("rng", []))
        return int(state["iteration"])

    def _load_optimizer(self, saved: dict) -> None:
        present = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(saved)
        except (ValueError, KeyError) as error:
            raise WeightsError(f"the checkpoint's optimizer does not fit this model and config: {error}") from error
        for group, values in zip(self.optimizer.param_groups, present, strict=True):
            group.update(values)


class Checkpointer:
    """Writes checkpoints into a folder, keeps the last few, and finds the one to go on from.

    Args:
        output_dir: the folder.
        max_to_keep: numbered checkpoints that stay; 0: all.
    """

    def __init__(self, output_dir: str | Path, *, max_to_keep: int = 3) -> None:
        self.folder, self.max_to_keep = Path(output_dir), max_to_keep
        self._kept: list[Path] = []

    def save(self, name: str, content: dict, *, tag: bool = True) -> Path:
        """Write `content`, and then the tag that names it; on rank 0 only.

        Nothing is lost if the disk is full: files are written beside the old ones and then moved.
        """
        path = self.folder / name
        if comm.is_main_process():
            with atomic_write(path) as file:
                torch.save(content, file)
            if tag:
                with atomic_write(self.folder / TAG, "w") as file:
                    file.write(name)
                self._prune(path)
        comm.synchronize()
        return path

    def _prune(self, newest: Path) -> None:
        if not _NUMBERED.fullmatch(newest.name):
            return
        self._kept = [p for p in self._kept if p != newest] + [newest]
        while self.max_to_keep and len(self._kept) > self.max_to_keep:
            self._kept.pop(0).unlink(missing_ok=True)

    def candidates(self) -> list[Path]:
        """Return the checkpoints of the folder, first the one the tag names, then the newest first."""
        names = [p for p in self.folder.glob("model_*.pth") if _NUMBERED.fullmatch(p.name) or p.name == FINAL]
        found = sorted(names, key=lambda p: (p.stat().st_mtime_ns, p.name), reverse=True)
        try:
            tagged = self.folder / (self.folder / TAG).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return found
        return sorted(found, key=lambda p: p != tagged)

    def latest(self, *, say: Callable[[str], None] = logger.warning) -> tuple[Path, dict] | None:
        """Read the newest checkpoint that can be read; None if there is none at all.

        Raises:
            WeightsError: if there are some and none can be read.
        """
        problems = []
        candidates = self.candidates()
        for path in candidates:
            try:
                content = read_checkpoint(path)
            except WeightsError as error:
                problems.append(str(error))
                say(f"{error}; trying an older checkpoint")
                continue
            earlier = [p for p in reversed(candidates) if _NUMBERED.fullmatch(p.name)]
            self._kept = [p for p in earlier if p.stat().st_mtime_ns <= path.stat().st_mtime_ns]
            return path, content
        if problems:
            raise WeightsError(f"no checkpoint in {self.folder} can be read: {'; '.join(problems)}")
        return None


def read_checkpoint(path: Path) -> dict:
    """Read a checkpoint for a resume, without running anything from it.

    Raises:
        WeightsError: if it is damaged, or holds weights alone.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} is damaged or no checkpoint ({reason:.160})") from error
    lacking = [k for k in _NEEDED if not isinstance(content, dict) or k not in content]
    if lacking:
        raise WeightsError(f"{path} has no {', '.join(lacking)}: it cannot be resumed, only be given as train.init_checkpoint")
    return content
