"""COCO average precision as a detectron2 evaluator, and its open-vocabulary protocol."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from openvocab.errors import EvaluationError
from openvocab.vocabulary import Vocabulary

from .base import JsonEvaluator, kinds_of
from .keys import ALL, BASE, NOVEL, OVD, group_key, protocol_kind
from .precision import Precision, by_class, by_group, headline
from .scoring import coco_precision, in_order
from .table import Table

logger = logging.getLogger(__name__)
GENERALISED = "generalised"
PROTOCOLS = {GENERALISED: (BASE, NOVEL), BASE: (BASE,), NOVEL: (NOVEL,)}


class COCODetectionEvaluator(JsonEvaluator):
    """AP of boxes, and of masks where both the predictions and the data set have them.

    Returns {"bbox": {AP, AP50, ..., "AP-<name>", "AP50-<name>"}, "segm": ...}.

    Args:
        dataset_name, annotations, vocabulary, category_names, output_dir, distributed: see `JsonEvaluator`.
        max_dets: best detections a picture and category that count.

    Raises:
        EvaluationError: for a `max_dets` below 1; else as `JsonEvaluator`.
    """

    def __init__(
        self,
        dataset_name: str | None = None,
        *,
        annotations: str | Path | None = None,
        vocabulary: Vocabulary | Sequence[str] | None = None,
        category_names: Sequence[str] | None = None,
        output_dir: str | Path | None = None,
        distributed: bool = True,
        max_dets: int = 100,
    ) -> None:
        if max_dets < 1:
            raise EvaluationError(f"max_dets={max_dets} must be at least 1")
        self.max_dets = int(max_dets)
        super().__init__(
            dataset_name,
            annotations=annotations,
            vocabulary=vocabulary,
            category_names=category_names,
            output_dir=output_dir,
            distributed=distributed,
        )

    def _results(self, images: list[dict], annotations: list[dict], table: Table) -> dict:
        result = {}
        for kind in kinds_of(table, annotations):
            precision = coco_precision(
                images=images,
                annotations=annotations,
                table=table,
                categories=list(self.categories),
                kind=kind,
                max_dets=self.max_dets,
            )
            result[kind] = {**headline(precision), **by_class(precision, self.categories)}
            result.update(self._extra(kind, precision))
        return result

    def _extra(self, kind: str, precision: Precision) -> Mapping[str, Mapping[str, float]]:
        return {}


class COCOOVDEvaluator(COCODetectionEvaluator):
    """COCO with 48 base and 17 novel classes (Zareian et al. 2021, OVR-CNN; as RegionCLIP reports it).

    Beside what COCO's evaluator returns, {"bbox_ovd": {...}, "segm_ovd": {...}}: AP50_base, AP50_novel, AP50_all (and AP_...) of
    the generalised protocol, in which the model chooses among all 65 names; AP50_novel_only or AP50_base_only where it chooses
    among those of one group, which is easier and never written under the same key.

    Other sets work too, if their vocabulary marks names as base and novel, or `base` and `novel` are given.

    Args:
        protocol: "generalised", "novel" or "base".
        base, novel: names; by default those marked in the data set's vocabulary, else COCO's 48 and 17.
        drop_empty: leave out pictures in which none of the evaluated classes is annotated, as the official annotation files do.
        vocabulary: what `pred_classes` count; by default the names of the protocol in the data set's order (the mapper then needs
            the same: `Vocabulary.builtin("coco_ovd_65")`).
        dataset_name, annotations, output_dir, distributed, max_dets: see `COCODetectionEvaluator`.

    Raises:
        EvaluationError: for an unknown protocol, a string instead of names, or a data set without one of the groups; else as
            the base class.
    """

    def __init__(
        self,
        dataset_name: str | None = None,
        *,
        annotations: str | Path | None = None,
        protocol: str = GENERALISED,
        base: Sequence[str] | None = None,
        novel: Sequence[str] | None = None,
        drop_empty: bool = True,
        vocabulary: Vocabulary | Sequence[str] | None = None,
        output_dir: str | Path | None = None,
        distributed: bool = True,
        max_dets: int = 100,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise EvaluationError(f"protocol={protocol!r} must be one of {', '.join(map(repr, PROTOCOLS))}")
        self.protocol, self.drop_empty = protocol, drop_empty
        self._given = {BASE: base, NOVEL: novel}
        super().__init__(
            dataset_name,
            annotations=annotations,
            vocabulary=vocabulary,
            output_dir=output_dir,
            distributed=distributed,
            max_dets=max_dets,
        )
        ids = dict(zip(self.truth.vocabulary.names, self.truth.category_ids, strict=True))
        self.groups = {g: [ids[n] for n in names] for g, names in self._names_by_group().items()}
        wanted = {i for group in self.groups.values() for i in group}
        self.categories = {i: n for i, n in self.categories.items() if i in wanted}

    def _names_by_group(self) -> dict[str, list[str]]:
        """Names of the data set in each group of the protocol."""
        words = self.truth.vocabulary
        marked = words if any(words.splits) else Vocabulary.builtin("coco")
        groups = {}
        for group in PROTOCOLS[self.protocol]:
            given = self._given[group]
            if isinstance(given, str):
                raise EvaluationError(f"{group}={given!r} is one string; give a list of names")
            if given is not None:
                groups[group] = [words.names[i] for i in sorted({words.index(n) for n in given})]
            else:
                chosen = {n for n, s in zip(marked.names, marked.splits, strict=True) if s == group}
                groups[group] = [n for n in words.names if n in chosen]
            if not groups[group]:
                raise EvaluationError(
                    f"'{self.dataset_name}' has no {group} classes: it is not COCO and its vocabulary marks none; "
                    f"pass {group}=[names]"
                )
        shared = set(groups.get(BASE, ())) & set(groups.get(NOVEL, ()))
        if shared:
            raise EvaluationError(f"{sorted(shared)[0]!r} is among the base and the novel classes; it can be one of them")
        return groups

    def _default_vocabulary(self) -> Vocabulary:
        words = self.truth.vocabulary
        chosen = {n for names in self._names_by_group().values() for n in names}
        return words.subset([i for i, n in enumerate(words.names) if n in chosen])

    def _results(self, images: list[dict], annotations: list[dict], table: Table) -> dict:
        if self.drop_empty:
            images, table = without_empty(images, annotations, table)
            if not images:
                raise EvaluationError(
                    f"none of the processed pictures of '{self.dataset_name}' shows one of the {len(self.categories)} classes of "
                    f"the protocol {self.protocol!r}; process more pictures, or set drop_empty=False"
                )
        return super()._results(images, annotations, table)

    def _extra(self, kind: str, precision: Precision) -> Mapping[str, Mapping[str, float]]:
        numbers = by_group(precision, self.groups)
        if self.protocol != GENERALISED:
            pairs = {group_key(m, self.protocol, alone=True): numbers[group_key(m, ALL)] for m in ("AP50", "AP")}
            numbers = pairs
        return {protocol_kind(kind, OVD): numbers}


def without_empty(images: list[dict], annotations: list[dict], table: Table) -> tuple[list[dict], Table]:
    """Leave out pictures without annotations, and what was detected there."""
    ids = in_order([i["id"] for i in images])
    full = {a["image_id"] for a in annotations}
    kept = np.array([i in full for i in ids], dtype=bool)
    table = table.pick(kept[table.pictures])
    table.pictures[:] = (np.cumsum(kept) - 1)[table.pictures]
    logger.info("%d of %d pictures show none of the evaluated classes and are left out", len(ids) - kept.sum(), len(ids))
    return [i for i in images if i["id"] in full], table
