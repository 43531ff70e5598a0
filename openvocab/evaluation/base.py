"""What every evaluator with boxes and a json does: take predictions, check them, bring them to rank 0."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from openvocab.errors import EvaluationError
from openvocab.io import atomic_write
from openvocab.vocabulary import Vocabulary

from .gather import gather_by_files
from .keys import BOX, MASK
from .limits import Collector, merge
from .table import Table, from_instances, load_table
from .truth import choose_categories, find_truth, match_names

logger = logging.getLogger(__name__)
NOWHERE = int(np.iinfo(np.int64).min)  # the category of a name that the data set does not have


class JsonEvaluator(DatasetEvaluator):
    """Base of the evaluators: collects detections as columns; a protocol adds `score`.

    Only pictures that were processed count; a warning says so if the json has more. A picture that was processed twice, by one
    process or by two (some samplers pad the last batch), counts once.

    Args:
        dataset_name: a registered data set; gives ground truth and the names that `pred_classes` count.
        annotations: a COCO json instead of the registered one; its names in order of the category ids.
        vocabulary: what `pred_classes` count, where it differs from the data set's names. Names are matched (by name,
            prompt or alias); predictions of names that the data set does not have are left out.
        category_names: evaluate only these categories of the data set.
        output_dir: where predictions are written, and where processes leave their parts for rank 0.
        distributed: gather the predictions of all processes; results are returned on rank 0, {} elsewhere.

    Raises:
        EvaluationError: if no name of the vocabulary is one of the data set.
        DataError: for an unknown data set, or annotations that cannot be read.
        VocabularyError: for a category name that the data set does not have.
    """

    results_file = "coco_instances_results.json"
    per_category: int | None = None  # best detections of a category over all pictures that are kept; None: all

    def __init__(
        self,
        dataset_name: str | None = None,
        *,
        annotations: str | Path | None = None,
        vocabulary: Vocabulary | Sequence[str] | None = None,
        category_names: Sequence[str] | None = None,
        output_dir: str | Path | None = None,
        distributed: bool = True,
    ) -> None:
        self.dataset_name = dataset_name or str(annotations)
        self.output_dir, self.distributed = output_dir, distributed
        self.truth = find_truth(dataset_name, annotations)
        self._told = vocabulary is not None
        self.vocabulary = self._default_vocabulary() if vocabulary is None else Vocabulary.coerce(vocabulary)
        self.categories = choose_categories(self.truth, category_names)
        table = match_names(self.vocabulary, self.truth)
        self._class_to_id = np.array([table.get(i, NOWHERE) for i in range(len(self.vocabulary))], dtype=np.int64)
        self._places = {image_id: n for n, image_id in enumerate(self.truth.image_ids)}
        self.reset()

    def _default_vocabulary(self) -> Vocabulary:
        return self.truth.vocabulary

    def reset(self) -> None:
        """Forget all predictions."""
        self._seen: set[int] = set()
        self._found = Collector(self.per_category)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take one batch of inputs ("image_id") and outputs ("instances", boxes in pixels of the original picture).

        Raises:
            EvaluationError: for a picture that is not in the annotations, a class index outside the vocabulary, a score or box
                that is not finite, names in the input that are not the evaluator's, or another number of outputs than inputs.
        """
        if len(inputs) != len(outputs):
            raise EvaluationError(f"the model returned {len(outputs)} outputs for {len(inputs)} pictures")
        for x, output in zip(inputs, outputs, strict=True):
            place = self._places.get(x["image_id"])
            if place is None:
                raise EvaluationError(
                    f"the picture with id {x['image_id']!r} is not in {self.truth.path}; is it of another data set?"
                )
            if place not in self._seen:
                self._check_names(x)
                self._found.add(self._table_of(output["instances"], place, x["image_id"]))
                self._seen.add(place)

    def _check_names(self, x: Mapping) -> None:
        """Class indices would mean other names than the evaluator thinks, and no figure would show it."""
        asked = x.get("vocabulary")
        if self._told or not isinstance(asked, Vocabulary) or asked is self.vocabulary or asked.names == self.vocabulary.names:
            return
        raise EvaluationError(
            f"picture {x['image_id']!r} was asked for {len(asked)} names ({', '.join(asked.names[:3])}, ...), but the evaluator "
            f"of '{self.dataset_name}' counts {len(self.vocabulary)} ({', '.join(self.vocabulary.names[:3])}, ...): give both the "
            "mapper and the evaluator the same vocabulary="
        )

    def _table_of(self, instances: Instances, place: int, image_id: int | str) -> Table:
        table = from_instances(instances, place)
        outside = np.flatnonzero((table.categories < 0) | (table.categories >= len(self.vocabulary)))
        if len(outside):
            raise EvaluationError(
                f"the model predicts class {table.categories[outside[0]]}, but the evaluator of '{self.dataset_name}' has "
                f"{len(self.vocabulary)} names; give it the model's names as vocabulary="
            )
        bad = np.flatnonzero(~(np.isfinite(table.scores) & np.isfinite(table.boxes).all(axis=1)))
        if len(bad):
            raise EvaluationError(
                f"detection {bad[0]} in picture {image_id!r} has score {table.scores[bad[0]]} and box (XYWH) "
                f"{table.boxes[bad[0]].tolist()}, and {len(bad)} of {len(table)} are not finite: the model has diverged or its "
                "precision overflows; check the weights, or evaluate in float32"
            )
        table.categories[:] = self._class_to_id[table.categories]
        return table.pick(self._kept(table))

    def _kept(self, table: Table) -> np.ndarray:
        """Say (N,) which detections are worth keeping; `categories` are ids, or `NOWHERE`."""
        return np.isin(table.categories, list(self.categories))

    def evaluate(self) -> dict:
        """Return {"bbox": {AP, AP50, ...}, "segm": ...} in percent, nan where undefined; {} on other ranks than 0.

        Raises:
            EvaluationError: if no picture was processed.
        """
        return self.score(self.gather())

    def gather(self) -> tuple[np.ndarray, Table] | None:
        """Return the places of all pictures (P,) and the detections of all processes; None on other ranks than 0.

        A collective call, if `distributed`.
        """
        seen = np.array(sorted(self._seen), dtype=np.int64)
        table = self._found.table()
        if not self.distributed or comm.get_world_size() == 1:
            return merge([(seen, table)], self.per_category)

        def save(file: IO) -> None:
            table.save(file, seen=seen)

        parts = gather_by_files(save, lambda content: (content["seen"], load_table(content)), self.output_dir)
        return None if parts is None else merge(parts, self.per_category)

    def score(self, gathered: tuple[np.ndarray, Table] | None) -> dict:
        """Return the results of what `gather` returned.

        Raises:
            EvaluationError: as `evaluate`.
        """
        if gathered is None:
            logger.info("results of '%s' are on rank 0, this is rank %d", self.dataset_name, comm.get_rank())
            return {}
        seen, table = gathered
        if not len(seen):
            raise EvaluationError(f"no picture of '{self.dataset_name}' was processed, so there is nothing to evaluate")
        if self.output_dir is not None:
            self._write(table)
        total = len(self.truth.image_ids)
        if len(seen) < total:
            logger.warning("'%s' is evaluated on %d of its %d pictures", self.dataset_name, len(seen), total)
        ids = [self.truth.image_ids[p] for p in seen.tolist()]
        images, annotations = self.truth.read(set(ids), set(self.categories))
        table.pictures[:] = np.searchsorted(seen, table.pictures)  # places among the processed pictures from here on
        return self._results(images, annotations, table)

    def _write(self, table: Table) -> None:
        """Write the predictions as a COCO result json, row by row."""
        with atomic_write(Path(self.output_dir) / self.results_file, "w") as file:
            file.write("[")
            for n, row in enumerate(table.rows(self.truth.image_ids)):
                file.write((",\n" if n else "") + json.dumps(row))
            file.write("]")

    def _results(self, images: list[dict], annotations: list[dict], table: Table) -> dict:
        """Compute the results; `table.pictures` are places among the sorted ids of `images`."""
        raise NotImplementedError


def kinds_of(table: Table, annotations: Sequence[dict]) -> list[str]:
    """Return ["bbox"], or ["bbox", "segm"] if detections and annotations have masks."""
    if not table.has_masks:
        return [BOX]
    if not all(a.get("segmentation") for a in annotations):
        logger.warning("masks are not evaluated: not every annotation of the data set has one")
        return [BOX]
    return [BOX, MASK]
