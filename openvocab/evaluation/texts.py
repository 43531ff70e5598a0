"""What evaluators of written answers and captions share: texts of all processes, each picture or question once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import IO

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from openvocab.errors import EvaluationError

from .gather import gather_by_files

logger = logging.getLogger(__name__)


class TextEvaluator(DatasetEvaluator):
    """Collects a text a record; a subclass says what they are worth, in `score`.

    Args:
        dataset_name: a registered set.
        records: its records, instead.
        output_dir: where processes leave their parts for rank 0 for a moment.
        distributed: gather the results of all processes; they are returned on rank 0, {} elsewhere.

    Raises:
        EvaluationError: if neither a set nor records are given, or there is nothing to evaluate.
        DataError: for an unknown data set.
    """

    id_key, output_key, truth_key, what = "image_id", "", "", "records"

    def __init__(
        self,
        dataset_name: str | None = None,
        *,
        records: Sequence[dict] | None = None,
        output_dir: str | None = None,
        distributed: bool = True,
    ) -> None:
        from openvocab.data import get_records

        if dataset_name is None and records is None:
            raise EvaluationError("give the evaluator a dataset_name or records")
        self.dataset_name = dataset_name or "records"
        self.records = get_records(dataset_name) if records is None else list(records)
        self.output_dir, self.distributed = output_dir, distributed
        self._places = {r[self.id_key]: n for n, r in enumerate(self.records)}
        if not self.records or not all(r.get(self.truth_key) for r in self.records):
            raise EvaluationError(f"'{self.dataset_name}' has {self.what} without {self.truth_key}, or none at all")
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._texts: dict[int, str] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take one batch; what comes a second time does not count.

        Args:
            inputs: with the record's id.
            outputs: with the text that the model gave.

        Raises:
            EvaluationError: for an id that is not in the data set, an output without text, or another number of outputs than
                inputs.
        """
        if len(inputs) != len(outputs):
            raise EvaluationError(f"the model returned {len(outputs)} outputs for {len(inputs)} {self.what}")
        for x, output in zip(inputs, outputs, strict=True):
            place = self._places.get(x.get(self.id_key))
            if place is None:
                raise EvaluationError(f"there is no {self.id_key} {x.get(self.id_key)!r} in '{self.dataset_name}'")
            if not isinstance(output.get(self.output_key), str):
                raise EvaluationError(f"the model gives no '{self.output_key}': it needs a head for it, and inputs their 'task'")
            self._texts.setdefault(place, output[self.output_key])

    def evaluate(self) -> dict:
        """Return the results, see the class; {} on ranks above 0. A collective call, if `distributed`.

        Raises:
            EvaluationError: if nothing was processed.
        """
        texts = self._gather()
        if texts is None:
            return {}
        if not texts:
            raise EvaluationError(f"nothing of '{self.dataset_name}' was processed, so there is nothing to evaluate")
        if len(texts) < len(self.records):
            logger.warning("'%s' is evaluated on %d of its %d %s", self.dataset_name, len(texts), len(self.records), self.what)
        places = sorted(texts)
        return self.score([self.records[p] for p in places], [texts[p] for p in places])

    def score(self, records: list[dict], texts: list[str]) -> dict:
        """Return the results for the model's text of each record."""
        raise NotImplementedError

    def _gather(self) -> dict[int, str] | None:
        if not self.distributed or comm.get_world_size() == 1:
            return self._texts
        mine = self._texts

        def save(file: IO) -> None:
            texts = [t.encode("utf-8", "surrogatepass") for t in mine.values()]
            content = np.frombuffer(b"".join(texts), dtype=np.uint8)
            lengths = np.array([len(t) for t in texts], dtype=np.int64)
            np.savez(file, places=np.array(list(mine), dtype=np.int64), lengths=lengths, content=content)

        parts = gather_by_files(save, _texts_of, self.output_dir)
        if parts is None:
            return None
        return {place: text for part in reversed(parts) for place, text in part.items()}


def _texts_of(content: Mapping[str, np.ndarray]) -> dict[int, str]:
    """Undo what a process saved."""
    ends = np.cumsum(content["lengths"])
    raw = content["content"].tobytes()
    starts = ends - content["lengths"]
    texts = [raw[s:e].decode("utf-8", "surrogatepass") for s, e in zip(starts.tolist(), ends.tolist(), strict=True)]
    return dict(zip(content["places"].tolist(), texts, strict=True))
