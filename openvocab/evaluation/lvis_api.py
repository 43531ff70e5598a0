"""The official lvis-api as a cross-check: slow, and written for a numpy of before 1.24."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType

import numpy as np

from openvocab.errors import EvaluationError, MissingDependencyError

from .keys import MASK
from .precision import Precision
from .scoring import in_order
from .table import Table

OLD_NAMES = {"float": float, "int": int, "bool": bool, "object": object}
_LOCK = threading.RLock()


@contextmanager
def lvis_api() -> Iterator[ModuleType]:
    """Give the module `lvis`, which works inside the block alone.

    It uses names that numpy has dropped (`np.float`), and sets up logging when it is imported. Both are put back when the block
    ends, however it ends.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    with _LOCK, _old_numpy(), _root_logger_as_it_was():
        try:
            import lvis
        except ImportError as error:
            raise MissingDependencyError(
                f"backend='lvis-api' needs the package 'lvis' ({error}); run: pip install lvis, or use backend='faster'"
            ) from error
        yield lvis


@contextmanager
def _old_numpy() -> Iterator[None]:
    added = [name for name in OLD_NAMES if name not in vars(np)]
    try:
        for name in added:
            setattr(np, name, OLD_NAMES[name])
        yield
    finally:
        for name in added:
            delattr(np, name)


@contextmanager
def _root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for handler in [h for h in root.handlers if h not in handlers]:
            root.removeHandler(handler)
        root.setLevel(level)


def official_precision(
    *,
    images: Sequence[dict],
    annotations: Sequence[dict],
    table: Table,
    frequencies: Mapping[int, str],
    kind: str,
    max_dets: int | None,
) -> Precision:
    """Return what lvis-api makes of detections; arguments as for `scoring.lvis_precision`.

    Args:
        frequencies: {category id: "r", "c" or "f"} of those that are evaluated.
        max_dets: best detections a picture that count; None: all. lvis-api itself sees to it.

    Raises:
        EvaluationError: if there are no detections, which lvis-api cannot take.
    """
    if not len(table):
        raise EvaluationError("lvis-api cannot evaluate a run without detections; use backend='faster'")
    ids = in_order([i["id"] for i in images])
    rows = []
    for row, code in zip(table.rows(ids), table.masks() if kind == MASK else [None] * len(table), strict=True):
        row = {k: v for k, v in row.items() if k != "segmentation"}
        if code is not None:
            del row["bbox"]  # with a box in it, sizes would be those of boxes
            row["segmentation"] = code
        rows.append(row)
    with lvis_api() as api:
        truth = api.LVIS.__new__(api.LVIS)  # its constructor reads files only
        truth.logger = logging.getLogger("lvis")
        truth.dataset = {
            "images": [dict(i) for i in images],
            "annotations": [{"area": a["bbox"][2] * a["bbox"][3], **a, "id": n} for n, a in enumerate(annotations, start=1)],
            "categories": [{"id": c, "name": str(c), "frequency": f} for c, f in frequencies.items()],
        }
        truth._create_index()
        found = api.LVISResults(truth, rows, max_dets=-1 if max_dets is None else max_dets)
        run = api.LVISEval(truth, found, iou_type=kind)
        run.evaluate()
        run.accumulate()
    return Precision(np.asarray(run.eval["precision"]), [int(c) for c in run.params.cat_ids])
