"""What evaluators of grounded sentences share: which phrases are asked for, a row of whole numbers for each, all on rank 0."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances

from openvocab.errors import EvaluationError

from .gather import gather_rows

logger = logging.getLogger(__name__)


class PhraseEvaluator(DatasetEvaluator):
    """Base of evaluators over a grounding set's records: a protocol adds `rows_of` and `summary`.

    A sentence that was processed twice, by one process or by two (some samplers pad the last batch), counts once.

    Args:
        dataset_name: a registered grounding set.
        records: its records, instead.
        output_dir: where processes leave their parts for rank 0 for a moment.
        distributed: gather the results of all processes; they are returned on rank 0, {} elsewhere.

    Raises:
        EvaluationError: if neither a set nor records are given, or there are no phrases to evaluate.
        DataError: for an unknown data set.
    """

    columns: int  # of a row: the record's place, the phrase's place in it, and what the protocol needs

    def __init__(
        self,
        dataset_name: str | None = None,
        *,
        records: Sequence[dict] | None = None,
        output_dir: str | None = None,
        distributed: bool = True,
    ) -> None:
        self.dataset_name = dataset_name or "records"
        self.records = _records(dataset_name) if records is None else list(records)
        self.output_dir, self.distributed = output_dir, distributed
        self._places = {r["image_id"]: n for n, r in enumerate(self.records)}
        self._asked = [asked_phrases(r) for r in self.records]
        if not any(self._asked):
            raise EvaluationError(f"'{self.dataset_name}' has no phrase with a box, so there is nothing to evaluate")
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._rows: dict[int, list[tuple[int, ...]]] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take one batch of inputs ("image_id" of the sentence) and outputs ("instances", in pixels of the original picture, whose
        `pred_classes` are places among the sentence's phrases).

        Raises:
            EvaluationError: for a sentence that is not in the data set, or another number of outputs than inputs; and as `rows_of`.
        """
        if len(inputs) != len(outputs):
            raise EvaluationError(f"the model returned {len(outputs)} outputs for {len(inputs)} pictures")
        for x, output in zip(inputs, outputs, strict=True):
            place = self._places.get(x["image_id"])
            if place is None:
                raise EvaluationError(f"there is no sentence with id {x['image_id']!r} in '{self.dataset_name}'")
            if place not in self._rows:
                self._rows[place] = self.rows_of(place, output["instances"].to("cpu"))

    def rows_of(self, place: int, found: Instances) -> list[tuple[int, ...]]:
        """Return a row for each asked phrase of record `place`."""
        raise NotImplementedError

    def summary(self, table: np.ndarray) -> dict:
        """Return the results of the rows (P, columns) of all processes."""
        raise NotImplementedError

    def evaluate(self) -> dict:
        """Return the protocol's `summary`; {} on ranks above 0.

        Raises:
            EvaluationError: if no sentence was processed.
        """
        table = self._gather()
        if table is None:
            return {}
        if not len(table):
            raise EvaluationError(f"no sentence of '{self.dataset_name}' was processed, so there is nothing to evaluate")
        total = sum(len(a) for a in self._asked)
        if len(table) < total:
            logger.warning("'%s' is evaluated on %d of its %d phrases", self.dataset_name, len(table), total)
        return self.summary(table)

    def _gather(self) -> np.ndarray | None:
        """Return the rows of all processes, each phrase once; None on ranks above 0. A collective call, if `distributed`."""
        mine = np.array([row for rows in self._rows.values() for row in rows], dtype=np.int64).reshape(-1, self.columns)
        return gather_rows(mine, self.output_dir, distributed=self.distributed)


def asked_phrases(record: Mapping) -> list[int]:
    """Return which phrases of a grounding record are evaluated: those of "phrases_eval", or else all, where they have boxes."""
    named = {a["category_id"] for a in record["annotations"]}
    wanted = record.get("phrases_eval")
    if wanted is None:
        return sorted(named)
    spans = [sorted(tuple(s) for s in phrase) for phrase in wanted]
    return [i for i, phrase in enumerate(record["phrases"]) if i in named and sorted(tuple(s) for s in phrase) in spans]


def _records(name: str | None) -> list[dict]:
    from openvocab.data import get_records

    if name is None:
        raise EvaluationError("give the evaluator a dataset_name or records")
    return get_records(name)
