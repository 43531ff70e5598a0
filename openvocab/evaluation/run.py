"""Run a model over a loader and an evaluator."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from detectron2.evaluation import DatasetEvaluator
from torch import nn

from .keys import HEADLINE, protocol_numbers

logger = logging.getLogger(__name__)
LOG_SECONDS = 30.0


@contextmanager
def evaluation_mode(model: nn.Module | Callable) -> Iterator[None]:
    """Put the model into evaluation mode, and every part of it back into what it was, also when the block raises."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [m.training for m in modules]
    try:
        if isinstance(model, nn.Module):
            model.eval()
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


@torch.no_grad()
def evaluate(
    model: nn.Module | Callable,
    data_loader: Iterable,
    evaluator: DatasetEvaluator,
    *,
    progress: bool = True,
    name: str = "",
) -> dict:
    """Return the evaluator's results for the model's outputs on every batch of the loader.

    Args:
        model: list of input dicts -> list of output dicts. Its mode is restored, whatever happens.
        data_loader: gives lists of input dicts.
        evaluator: is reset first.
        progress: show progress and the time left: a bar on a terminal, a log line every 30 s elsewhere.
        name: of the data set, for the bar.
    """
    evaluator.reset()
    with evaluation_mode(model):
        for inputs in _with_progress(data_loader, f"evaluate {name}".strip(), progress):
            evaluator.process(inputs, model(inputs))
    return evaluator.evaluate() or {}


def _with_progress(loader: Iterable, title: str, progress: bool) -> Iterator:
    total = len(loader) if hasattr(loader, "__len__") else None
    if progress and sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(loader, desc=title, total=total, mininterval=1.0)
        return
    start = said = time.perf_counter()
    for done, batch in enumerate(loader):
        now = time.perf_counter()
        if progress and now - said > LOG_SECONDS:
            left = f" of {total}, {(now - start) / done * (total - done):.0f} s left" if total and done else ""
            logger.info("%s: %d%s", title, done, left)
            said = now
        yield batch


def print_results(results: Mapping) -> str:
    """Return the headline numbers as a table, a row a data set and kind; percent, "nan" where undefined.

    What a protocol has beside them (APr, AP50_novel, AP_mean) follows, a line a data set and kind.

    Args:
        results: {"bbox": {...}} of one evaluator, or {data set: {"bbox": {...}}} of several.
    """
    from tabulate import tabulate

    if not any(isinstance(v, Mapping) for value in results.values() if isinstance(value, Mapping) for v in value.values()):
        results = {"": results}
    rows = [
        [name, kind, *(float(values.get(k, float("nan"))) for k in HEADLINE)]
        for name, kinds in results.items()
        for kind, values in kinds.items()
        if isinstance(values, Mapping) and "AP" in values
    ]
    table = tabulate(rows, headers=["data set", "kind", *HEADLINE], floatfmt=".1f")
    more = [
        f"{name} {kind}: {', '.join(f'{k} {v:.1f}' for k, v in beside.items())}".strip()
        for name, kinds in results.items()
        for kind, values in kinds.items()
        if isinstance(values, Mapping) and (beside := protocol_numbers(values))
    ]
    return "\n".join([table, *more])
