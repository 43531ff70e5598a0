"""LVIS average precision: at most 300 detections a picture, and "fixed", at most 10,000 a category."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openvocab.errors import EvaluationError
from openvocab.vocabulary import Vocabulary

from .base import NOWHERE, JsonEvaluator, kinds_of
from .keys import FIXED, FREQUENCIES, protocol_kind
from .limits import best_of_picture
from .lvis_api import official_precision
from .precision import by_class, by_frequency, headline
from .scoring import lvis_precision
from .table import Table
from .truth import FEDERATED

FASTER, OFFICIAL = "faster", "lvis-api"


class LVISEvaluator(JsonEvaluator):
    """LVIS's federated AP (Gupta et al. 2019), 300 detections a picture.

    Returns {"bbox": {AP, AP50, AP75, APs, APm, APl, APr, APc, APf}, "segm": ...}.

    Args:
        max_dets: best detections a picture that count, whatever their categories.
        per_class: also return "AP-<name>" and "AP50-<name>" of every category.
        backend: "faster" (faster-coco-eval), or "lvis-api", the official code, slow, as a cross-check.
        dataset_name, annotations, vocabulary, category_names, output_dir, distributed: see `JsonEvaluator`.

    Raises:
        EvaluationError: for a json that is not federated or names no frequencies, an unknown backend or a `max_dets` below 1; else
            as `JsonEvaluator`.
    """

    results_file = "lvis_instances_results.json"

    def __init__(
        self,
        dataset_name: str | None = None,
        *,
        annotations: str | Path | None = None,
        vocabulary: Vocabulary | Sequence[str] | None = None,
        category_names: Sequence[str] | None = None,
        output_dir: str | Path | None = None,
        distributed: bool = True,
        max_dets: int = 300,
        per_class: bool = False,
        backend: str = FASTER,
    ) -> None:
        if max_dets < 1:
            raise EvaluationError(f"max_dets={max_dets} must be at least 1")
        if backend not in (FASTER, OFFICIAL):
            raise EvaluationError(f"backend={backend!r} must be {FASTER!r} or {OFFICIAL!r}")
        self.max_dets, self.per_class, self.backend = int(max_dets), per_class, backend
        super().__init__(
            dataset_name,
            annotations=annotations,
            vocabulary=vocabulary,
            category_names=category_names,
            output_dir=output_dir,
            distributed=distributed,
        )
        self.frequencies = self._frequencies()

    def _frequencies(self) -> dict[int, str]:
        """{category id: "r", "c" or "f"} of the evaluated categories."""
        if not self.truth.federated:
            raise EvaluationError(
                f"{self.truth.path} is no LVIS json: some pictures lack {' or '.join(FEDERATED)}; use COCODetectionEvaluator, or "
                "give every picture both lists"
            )
        marks = dict(zip(self.truth.category_ids, self.truth.frequencies, strict=True))
        for category, name in self.categories.items():
            if marks[category] not in FREQUENCIES:
                raise EvaluationError(
                    f"{self.truth.path}: category '{name}' has frequency {marks[category]!r}; it must be one of "
                    f"{', '.join(map(repr, FREQUENCIES))}, in the json or in the data set's vocabulary"
                )
        return {c: marks[c] for c in self.categories}

    def _kept(self, table: Table) -> np.ndarray:
        return table.categories != NOWHERE  # what is not evaluated takes its place among the best of a picture all the same

    def _limited(self, table: Table) -> tuple[Table, int | None]:
        """Return the detections that count, and the limit that lvis-api is to apply instead."""
        if self.backend == OFFICIAL:
            return table, self.max_dets
        return best_of_picture(table, self.max_dets), None

    def _results(self, images: list[dict], annotations: list[dict], table: Table) -> dict:
        result = {}
        table, limit = self._limited(table)
        for kind in kinds_of(table, annotations):
            task = {"images": images, "annotations": annotations, "table": table, "kind": kind}
            if self.backend == OFFICIAL:
                precision = official_precision(**task, frequencies=self.frequencies, max_dets=limit)
            else:
                precision = lvis_precision(**task, categories=list(self.categories))
            numbers = {**headline(precision), **by_frequency(precision, self.frequencies)}
            if self.per_class:
                numbers.update(by_class(precision, self.categories))
            result[self._key(kind)] = numbers
        return result

    def _key(self, kind: str) -> str:
        return kind


class LVISFixedEvaluator(LVISEvaluator):
    """LVIS's AP on the 10,000 best detections of each category over the data set, without a limit a picture.

    Dave et al. 2021 ("Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details"), as GLIP and its followers
    report. Returns {"bbox_fixed": {AP, ..., APr, APc, APf}, "segm_fixed": ...}: never the keys of `LVISEvaluator`.

    While it collects it holds at most two tables of K * max_per_class rows and a million more. The model must be told not to limit
    its detections either (detectron2: TEST.DETECTIONS_PER_IMAGE, or `test_topk_per_image`), which this class cannot see.

    Args:
        max_per_class: best detections of each category that count. Of equal scores, those of the picture with the lower id.
        dataset_name, annotations, vocabulary, category_names, output_dir, distributed, per_class, backend: see `LVISEvaluator`.
    """

    results_file = "lvis_fixed_instances_results.json"

    def __init__(
        self,
        dataset_name: str | None = None,
        *,
        annotations: str | Path | None = None,
        vocabulary: Vocabulary | Sequence[str] | None = None,
        category_names: Sequence[str] | None = None,
        output_dir: str | Path | None = None,
        distributed: bool = True,
        max_per_class: int = 10_000,
        per_class: bool = False,
        backend: str = FASTER,
    ) -> None:
        if max_per_class < 1:
            raise EvaluationError(f"max_per_class={max_per_class} must be at least 1")
        self.per_category = int(max_per_class)
        super().__init__(
            dataset_name,
            annotations=annotations,
            vocabulary=vocabulary,
            category_names=category_names,
            output_dir=output_dir,
            distributed=distributed,
            per_class=per_class,
            backend=backend,
        )

    def _kept(self, table: Table) -> np.ndarray:
        return np.isin(table.categories, list(self.categories))

    def _limited(self, table: Table) -> tuple[Table, int | None]:
        return table, None

    def _key(self, kind: str) -> str:
        return protocol_kind(kind, FIXED)
