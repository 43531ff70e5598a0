"""Evaluation of a model on all test sets of a config."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn

from openvocab.config import instantiate
from openvocab.errors import ConfigError, EvaluationError
from openvocab.evaluation import evaluate, mean_of, print_results
from openvocab.io import atomic_write

from .stopping import StopRequest

logger = logging.getLogger(__name__)
MEAN = "mean"
MEANS = ("AP", "AP50", "AP75")


@dataclass
class TestSet:
    """A loader and the evaluator of what the model makes of it."""

    __test__ = False  # no pytest class

    loader: Iterable
    evaluator: DatasetEvaluator


def build_test_sets(dataloader: Mapping) -> dict[str, TestSet]:
    """Build the test sets of a config's `dataloader`.

    `dataloader.test` is a dict name -> {loader, evaluator}, a list of those, or, as in detectron2's configs, one loader, with
    `dataloader.evaluator` beside it.

    Raises:
        ConfigError: for another form.
    """
    test = dataloader.get("test")
    if not test:
        return {}
    if isinstance(test, Mapping) and "_target_" in test:
        test = [{"loader": test, "evaluator": dataloader.get("evaluator")}]
    if not isinstance(test, Mapping):
        test = {_name(row, i): row for i, row in enumerate(test)}
    sets = {}
    for name, row in test.items():
        if not isinstance(row, Mapping) or not row.get("loader") or not row.get("evaluator") or name == MEAN:
            raise ConfigError(f"dataloader.test.{name} must hold 'loader' and 'evaluator' (and not be called '{MEAN}')")
        sets[str(name)] = TestSet(instantiate(row["loader"]), instantiate(row["evaluator"]))
    return sets


def _name(row: object, index: int) -> str:
    parts = [row.get(k) for k in ("evaluator", "loader")] if isinstance(row, Mapping) else []
    names = [p.get(k) for p in parts if isinstance(p, Mapping) for k in ("dataset_name", "dataset")]
    return next((n for n in names if isinstance(n, str)), f"test{index}")


def do_test(
    model: nn.Module, sets: Mapping[str, TestSet], *, stop: StopRequest | None = None, progress: bool | None = None
) -> dict[str, dict]:
    """Evaluate a model on every set; afterwards it is in the mode it was in, also when an evaluation raises.

    Args:
        model: not wrapped; every process runs its share of the pictures.
        sets: by name.
        stop: a signal noted there leaves the evaluation (only with one process).
        progress: show a bar; by default when the output is a terminal.

    Returns:
        on rank 0 {name: {"bbox": {"AP50": percent, ...}}, "mean": {"AP", "AP50", "AP75": over the sets that define them, "worst":
        the lowest AP of a set}}; {} elsewhere.

    Raises:
        LeftEarly: see `stop`.
    """
    progress = sys.stderr.isatty() if progress is None else progress
    modes = {module: module.training for module in model.modules()}
    results = {}
    try:
        for name, test in sets.items():
            loader = stop.watch(test.loader) if stop is not None and comm.get_world_size() == 1 else test.loader
            shown = progress and comm.is_main_process()
            results[name] = evaluate(model, loader, test.evaluator, progress=shown, name=name)
    finally:
        for module, mode in modes.items():
            module.training = mode  # also of parts that were in evaluation mode in a training model
    if not comm.is_main_process():
        return {}
    results = {k: v or {} for k, v in results.items()}
    rows = [r["bbox"] for r in results.values() if "bbox" in r]
    means = mean_row(rows)
    return {**results, **({MEAN: means} if means else {})}


def mean_row(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sum up box results of several sets: means over those that define them, and "worst", the lowest AP; {} where none does."""
    means = {k: mean_of(row.get(k, math.nan) for row in rows) for k in MEANS}
    means = {k: v for k, v in means.items() if not math.isnan(v)}
    lowest = [row["AP"] for row in rows if not math.isnan(row.get("AP", math.nan))]
    return {**means, **({"worst": min(lowest)} if lowest else {})}


def report(results: Mapping, output_dir: Path) -> None:
    """Log the results as a table and write results.json (null where a number is undefined)."""
    if not results:
        return
    logger.info("results in percent\n%s", print_results({k: v for k, v in results.items() if k != MEAN}))
    if MEAN in results:
        logger.info("mean %s", ", ".join(f"{k} {v:.1f}" for k, v in results[MEAN].items()))
    with atomic_write(output_dir / "results.json", "w") as file:
        json.dump(_without_nan(results), file, indent=1)


def _without_nan(value: object) -> object:
    if isinstance(value, Mapping):
        return {k: _without_nan(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_expected(results: Mapping, expected: Sequence[Sequence]) -> None:
    """Compare results with [dataset, task, metric, value, tolerance] rows; nan and missing results do not pass.

    Raises:
        EvaluationError: naming every row that does not hold.
    """
    wrong = []
    for name, task, metric, value, tolerance in expected:
        got = results.get(name, {}).get(task, {}).get(metric, float("nan"))
        if not abs(got - value) <= tolerance:
            wrong.append(f"{name}/{task}/{metric} is {got:.3f}, not {value} +- {tolerance}")
    if wrong:
        raise EvaluationError(f"train.expected_results do not hold: {'; '.join(wrong)}")
    if expected:
        logger.info("all %d expected results hold", len(expected))
