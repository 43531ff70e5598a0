"""What happens when a loss or a gradient is NaN or infinite: every process stops before the step and says why."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from detectron2.utils import comm
from torch import Tensor

from openvocab.errors import NonFiniteLossError
from openvocab.io import atomic_write

_SHOWN = 8


def describe(batch: Sequence[Mapping]) -> list[dict]:
    """Return what identifies each picture of a batch: image_id, file_name, dataset."""
    keys = ("image_id", "file_name", "dataset")
    return [{k: _plain(x[k]) for k in keys if isinstance(x, Mapping) and k in x} for x in batch]


def _plain(value: object) -> object:
    return value if isinstance(value, (int, str)) else str(value)


def is_finite(losses: Mapping[str, Tensor]) -> bool:
    """Return whether all losses are finite; one wait for the device."""
    return bool(torch.isfinite(torch.stack([v.detach().float().sum() for v in losses.values()])).all())


def refuse(
    losses: Mapping[str, Tensor], batch: Sequence[Mapping], *, iteration: int, lr: float, output_dir: Path, what: str = ""
) -> None:
    """Write nonfinite_batch.json and raise; to be called on all processes together.

    Args:
        losses: of this process.
        batch: of this process.
        iteration: the step that is not made.
        lr: learning rate at this step.
        output_dir: where the file goes.
        what: what is not finite, when the losses are.

    Raises:
        NonFiniteLossError: always, with the same text on every process.
    """
    own = {
        "rank": comm.get_rank(),
        "losses": {k: float(v.detach()) for k, v in losses.items()},
        "images": describe(batch),
    }
    reports = comm.all_gather(own)
    path = output_dir / "nonfinite_batch.json"
    if comm.is_main_process():
        content = {"iteration": iteration, "lr": lr, "processes": [{**r, "losses": _readable(r["losses"])} for r in reports]}
        with atomic_write(path, "w") as file:
            json.dump(content, file, indent=1)
    raise NonFiniteLossError(_message(reports, iteration=iteration, lr=lr, path=path, what=what))


def _readable(losses: Mapping[str, float]) -> dict[str, float | str]:
    return {k: v if math.isfinite(v) else str(v) for k, v in losses.items()}  # json has no nan


def _message(reports: Sequence[Mapping], *, iteration: int, lr: float, path: Path, what: str) -> str:
    bad = [r for r in reports if not all(math.isfinite(v) for v in r["losses"].values())]
    terms = {k: v for r in bad for k, v in r["losses"].items() if not math.isfinite(v)}
    subject = ", ".join(f"{k}={v}" for k, v in terms.items()) or what
    images = [x for r in bad or reports for x in r["images"]]
    shown = "; ".join(" ".join(f"{k}={v}" for k, v in x.items()) for x in images[:_SHOWN])
    more = f"; and {len(images) - _SHOWN} more" if len(images) > _SHOWN else ""
    return (
        f"{subject} at iteration {iteration} with lr={lr:.3g}; the step was not made, the weights are those of the step before. "
        f"Pictures: {shown or 'without ids'}{more} (all in {path}). When training diverges, a lower optimizer.lr, a longer "
        "warm-up or train.clip_grad.max_norm=1 helps; else look at these pictures' boxes"
    )
