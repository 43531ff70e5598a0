"""Run a model over a loader and an evaluator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from detectron2.evaluation import DatasetEvaluator
from torch import nn
from tqdm import tqdm


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and back into what it was, also when the block raises."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@torch.no_grad()
def evaluate(model: nn.Module, loader: Iterable, evaluator: DatasetEvaluator, *, progress: bool = True, name: str = "") -> dict:
    """Return the evaluator's results for the model's outputs on every batch of the loader; shows progress and time left."""
    evaluator.reset()
    with evaluation_mode(model):
        for inputs in tqdm(loader, desc=f"evaluate {name}".strip(), disable=not progress, mininterval=2.0):
            evaluator.process(inputs, model(inputs))
    return evaluator.evaluate()


def print_results(results: dict) -> str:
    """Return the headline numbers as a table: a row a data set."""
    from tabulate import tabulate

    from .keys import HEADLINE

    rows = [[name, *(r["bbox"].get(k, float("nan")) for k in HEADLINE)] for name, r in results.items() if "bbox" in r]
    return tabulate(rows, headers=["data set", *HEADLINE], floatfmt=".1f")
