"""Boxes of the words that a model wrote: grounded captions and grounded answers (after Zhou et al. 2019, arXiv 1812.06587)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from torchvision.ops import box_iou

from openvocab.data.annotations import boxes_of
from openvocab.data.randomness import draw
from openvocab.errors import ConfigError, EvaluationError
from openvocab.vocabulary import Vocabulary

from .gather import gather_rows
from .keys import LINKS, mean_of, percent


class LinkEvaluator(DatasetEvaluator):
    """How often the words of captions and answers are linked to what they name, class by class.

    A phrase names a class if it ends with the class's name, one of its prompts or aliases ("a large red circle" names "circle";
    the longest name wins; so do plurals in -s, -es, -ies and -ves). A class's box is the best one that such phrases are linked
    to, and right if it overlaps a true box of that class by an IoU of 0.5. Classes that are there as a crowd alone do not count.
    Zhou et al.'s figures, for each class and averaged over the classes that occur:

    - "F1_all": precision is the share of classes said that are also there and linked right, recall the share of classes that are
      there and are said and linked right;
    - "F1_loc": of the classes that are said and there, the share that is linked right.

    Theirs counts as "there" what the reference sentences name, with Flickr30k Entities' boxes; here it is every box of a detection
    set of the same pictures (ours: any such set will do). For answers F1_loc alone means something: a question names little.

    Results, in percent: {"links": {"F1_all", "precision", "recall", "F1_loc"; "texts": how many}}; nan where no class decides it.

    Args:
        dataset_name: a registered detection set of the pictures that the texts are about.
        iou_threshold: least IoU of a right box.
        output_dir: where processes leave their parts for rank 0 for a moment.
        distributed: gather the results of all processes; they are returned on rank 0, {} elsewhere.

    Raises:
        ConfigError: for a threshold outside 0..1.
        DataError: for an unknown data set.
        EvaluationError: for a set without boxes.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        iou_threshold: float = 0.5,
        output_dir: str | None = None,
        distributed: bool = True,
    ) -> None:
        from openvocab.data import get_records, get_vocabulary

        if not 0 < iou_threshold <= 1:
            raise ConfigError(f"iou_threshold={iou_threshold} must be above 0 and at most 1")
        self.dataset_name, self.iou_threshold = dataset_name, float(iou_threshold)
        self.output_dir, self.distributed = output_dir, distributed
        self.vocabulary = get_vocabulary(dataset_name)
        self._records = {r["image_id"]: r for r in get_records(dataset_name)}
        if not any(r["annotations"] for r in self._records.values()):
            raise EvaluationError(f"'{dataset_name}' has no box, so no link can be right")
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._rows: dict[int, list[tuple[int, ...]]] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take one batch; what comes a second time does not count.

        Args:
            inputs: with "image_id", and "question_id" where there are several texts a picture.
            outputs: with "linked", the text's phrases (a `Caption`, or None if it has none), and their "instances", whose
                `pred_classes` count phrases; boxes in pixels of the original picture.

        Raises:
            EvaluationError: for a picture that is not in the data set, outputs without links, or another number of outputs than
                inputs.
        """
        if len(inputs) != len(outputs):
            raise EvaluationError(f"the model returned {len(outputs)} outputs for {len(inputs)} texts")
        for x, output in zip(inputs, outputs, strict=True):
            record = self._records.get(x.get("image_id"))
            if record is None:
                raise EvaluationError(
                    f"the picture with id {x.get('image_id')!r} is not in '{self.dataset_name}'; give LinkEvaluator a detection "
                    "set of the same pictures"
                )
            if "linked" not in output:
                raise EvaluationError(
                    f"the output for a sample of the task '{x.get('task')}' has no links: CaptionMapper and QuestionMapper ask "
                    "for them with links=True"
                )
            key = draw(x["image_id"], str(x.get("question_id")))
            if key not in self._rows:
                self._rows[key] = self._judge(record, output)

    def _judge(self, record: Mapping, output: Mapping) -> list[tuple[int, ...]]:
        """Return (class, said, there, right) for each class that is said or there; at least one row, -1 where there is none."""
        annotations = [a for a in record["annotations"] if not a.get("iscrowd")]
        there = {a["category_id"] for a in annotations}
        crowds = {a["category_id"] for a in record["annotations"] if a.get("iscrowd")} - there
        said: dict[int, tuple[float, torch.Tensor]] = {}
        if output["linked"] is not None:
            found: Instances = output["instances"].to("cpu")
            phrases = [class_of(text, self.vocabulary) for text in output["linked"].names]
            for name in {p for p in phrases if p is not None}:
                said[name] = -1.0, torch.zeros(0, 4)
            for score, box, phrase in zip(found.scores.tolist(), found.pred_boxes.tensor, found.pred_classes.tolist(), strict=True):
                name = phrases[phrase]
                if name is not None and score > said[name][0]:
                    said[name] = score, box[None]
        rows = []
        for name in sorted((there | set(said)) - crowds):
            true = torch.from_numpy(boxes_of([a for a in annotations if a["category_id"] == name])).float().reshape(-1, 4)
            box = said[name][1].float() if name in said else torch.zeros(0, 4)
            right = bool((box_iou(box, true) >= self.iou_threshold).any())
            rows.append((name, int(name in said), int(name in there), int(right)))
        return rows or [(-1, 0, 0, 0)]

    def evaluate(self) -> dict:
        """Return the results, see the class; {} on ranks above 0. A collective call, if `distributed`.

        Raises:
            EvaluationError: if nothing was processed.
        """
        rows = [(key, *row) for key, found in self._rows.items() for row in found]
        mine = np.array(rows, dtype=np.int64).reshape(-1, 5)
        table = gather_rows(mine, self.output_dir, distributed=self.distributed)
        if table is None:
            return {}
        if not len(table):
            raise EvaluationError(f"no text about '{self.dataset_name}' was processed, so there is nothing to evaluate")
        figures = [_figures(table[table[:, 1] == c, 2:]) for c in np.unique(table[:, 1]) if c >= 0]
        texts = float(len(np.unique(table[:, 0])))
        values = {k: mean_of(f[k] for f in figures) for k in ("F1_all", "precision", "recall", "F1_loc")}
        return {LINKS: {**values, "texts": texts}}


def class_of(phrase: str, vocabulary: Vocabulary) -> int | None:
    """Return the class of the longest name that the phrase ends with, or None."""
    words = phrase.casefold().replace("_", " ").split()
    for start in range(len(words)):
        *front, last = words[start:]
        for ending in _singular(last):
            for blank in " _":  # LVIS writes its names with underscores
                if (name := blank.join([*front, ending])) in vocabulary:
                    return vocabulary.index(name)
    return None


def _singular(word: str) -> list[str]:
    """The word, and what it may be the plural of."""
    endings = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe"))
    return [word, *(word[: -len(many)] + one for many, one in endings if word.endswith(many) and len(word) > len(many))]


def _figures(rows: np.ndarray) -> dict[str, float]:
    """One class's figures of rows (N, 3), said, there and right; nan where there is nothing to divide by."""
    said, there, right = rows.sum(axis=0).tolist()
    both = int((rows[:, 0] & rows[:, 1]).sum())
    shares = {"F1_all": (2 * right, said + there), "precision": (right, said), "recall": (right, there), "F1_loc": (right, both)}
    return {k: percent(part / whole) if whole else float("nan") for k, (part, whole) in shares.items()}
