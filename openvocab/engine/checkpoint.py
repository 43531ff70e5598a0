"""Checkpoints that are whole or not there, and that continue a run exactly."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from detectron2.utils import comm

from openvocab.errors import WeightsError
from openvocab.io import atomic_write

logger = logging.getLogger(__name__)
LAST = "last_checkpoint"


def rng_state() -> dict:
    """Return the states of Python's, numpy's and torch's generators as plain values and tensors."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: Mapping) -> None:
    """Undo `rng_state`."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


class Checkpoints:
    """The checkpoints of one output folder.

    Args:
        folder: where they are written.
        max_to_keep: numbered ones to keep; older ones are removed. model_final.pth and model_best.pth stay.
    """

    def __init__(self, folder: str | Path, max_to_keep: int = 3) -> None:
        self.folder, self.max_to_keep = Path(folder), max_to_keep

    def save(self, name: str, content: dict) -> Path | None:
        """Write `content` as `name`, then remember it as the last one; only on rank 0."""
        if not comm.is_main_process():
            return None
        path = self.folder / name
        with atomic_write(path) as file:
            torch.save(content, file)
        with atomic_write(self.folder / LAST, "w") as file:
            file.write(name)
        numbered = sorted(self.folder.glob("model_[0-9]*.pth"))
        for old in numbered[: -self.max_to_keep] if self.max_to_keep > 0 else []:
            if old != path:
                old.unlink()
        return path

    def newest(self) -> tuple[Path, dict] | None:
        """Return the newest checkpoint that can be read, or None; says so when it is not the last one written.

        Raises:
            WeightsError: if there are checkpoints and none of them can be read.
        """
        if not self.folder.is_dir():
            return None
        candidates = sorted(self.folder.glob("model_*.pth"), key=lambda p: p.stat().st_mtime, reverse=True)
        tag = self.folder / LAST
        named = self.folder / tag.read_text().strip() if tag.is_file() and tag.read_text().strip() else None
        if named in candidates:
            candidates.remove(named)
            candidates.insert(0, named)
        for i, path in enumerate(candidates):
            try:
                content = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:
                logger.warning("%s cannot be read (%s); trying the one before", path, str(error).splitlines()[0])
                continue
            if "iteration" in content:
                if i or named != path:
                    logger.warning("resuming from %s, the newest checkpoint that can be read", path)
                return path, content
        if candidates:
            raise WeightsError(f"none of the {len(candidates)} checkpoints in {self.folder} can be read")
        return None
