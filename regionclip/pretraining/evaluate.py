"""Zero-shot accuracy on given boxes: does a model name a region rightly? (paper, table 4, ground-truth boxes)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils import comm
from torch import Tensor, nn

from openvocab.bridge import Bridge
from openvocab.data import get_records, get_vocabulary
from openvocab.data.annotations import boxes_of
from openvocab.errors import EvaluationError
from openvocab.evaluation.keys import class_key, group_key, mean_of
from openvocab.vocabulary import Vocabulary

logger = logging.getLogger(__name__)
REGIONS, PICTURES = "regions", "pictures"
SAME_BOX = 0.9


class RegionAccuracyEvaluator(DatasetEvaluator):
    """Share of true boxes that get the right name.

    For each true box, the predictions with the same box (IoU above 0.9) are looked at, and the best score gives the name; so any
    model can be judged that is given the boxes, in whatever order it answers. A box without an answer counts as wrong. Crowds are
    left out.

    Args:
        dataset_name: a registered data set with boxes.
        names: the classes that are asked for, of which each region shows one; None: all of the data set. Boxes of other classes
            are left out, and answers of other classes count as wrong.
        groups: further means over classes, such as {"novel": [...], "base": [...]}.
        min_size: boxes narrower or lower than this many pixels are left out.
        given: "regions": the boxes; "pictures": the whole picture (`PairMapper(given="whole")`), for pictures whose boxes are all
            of one class.

    Raises:
        EvaluationError: for an unknown `given`, or a string instead of names.
        VocabularyError: for names that the data set does not have.
    """

    def __init__(
        self,
        *,
        dataset_name: str,
        names: Sequence[str] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        min_size: float = 0.0,
        given: str = REGIONS,
    ) -> None:
        if given not in (REGIONS, PICTURES):
            raise EvaluationError(f"given='{given}' must be '{REGIONS}' or '{PICTURES}'")
        wrong = next((v for v in (names, *dict(groups or {}).values()) if isinstance(v, str)), None)
        if wrong is not None:
            raise EvaluationError(f"{wrong!r} is one string; give a list of names")
        self.dataset_name, self.given, self.min_size = dataset_name, given, float(min_size)
        self.vocabulary = get_vocabulary(dataset_name)
        self.asked = {self.vocabulary.index(n) for n in (self.vocabulary.names if names is None else names)}
        self.groups = {g: [self.vocabulary.index(n) for n in members] for g, members in dict(groups or {}).items()}
        self._truth: dict[str, tuple[Tensor, Tensor]] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all answers."""
        self._rows: dict[str, list[list[int]]] = {}

    @property
    def truth(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each picture with something to name: boxes (N, 4) XYXY pixels, and classes (N,)."""
        if self._truth is None:
            found = {str(r["image_id"]): self._regions(r) for r in get_records(self.dataset_name)}
            self._truth = {k: v for k, v in found.items() if len(v[1])}
        return self._truth

    def _regions(self, record: dict) -> tuple[Tensor, Tensor]:
        rows = [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]
        boxes = torch.as_tensor(boxes_of(rows), dtype=torch.float32).reshape(-1, 4)
        classes = torch.tensor([a["category_id"] for a in rows], dtype=torch.long)
        if self.given == PICTURES:
            only = classes.unique()
            if len(only) != 1 or int(only) not in self.asked:
                return torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
            return torch.tensor([[0.0, 0.0, record["width"], record["height"]]]), only
        keep = ((boxes[:, 2:] - boxes[:, :2]) >= self.min_size).all(dim=1)
        keep &= torch.tensor([int(c) in self.asked for c in classes], dtype=torch.bool)
        return boxes[keep], classes[keep]

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Take in answers.

        Args:
            inputs: with "image_id", and "vocabulary" if the classes are not the data set's.
            outputs: {"instances": pred_boxes XYXY pixels of the picture as stored, scores, pred_classes}.
        """
        for x, output in zip(inputs, outputs, strict=True):
            found = self.truth.get(str(x["image_id"]))
            if found is not None:
                said = _answers(output["instances"].to("cpu"), found[0])
                meant = self._translated(x.get("vocabulary"))
                self._rows[str(x["image_id"])] = [
                    [truth, meant.get(answer, -1)] for truth, answer in zip(found[1].tolist(), said, strict=True)
                ]

    def _translated(self, spoken: Vocabulary | None) -> dict[int, int]:
        """Class of the model -> class of the data set."""
        if spoken is None or spoken == self.vocabulary:
            return {i: i for i in range(len(self.vocabulary))}
        return {i: self.vocabulary.index(n) for i, n in enumerate(spoken.names) if n in self.vocabulary}

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return {"regions" or "pictures": {"top1", "macro", "count", "top1_<group>", "macro_<group>", "top1-<name>"}}: percent,
        nan where there is nothing to name; "macro" is the mean over classes. On rank 0; {} elsewhere.

        Raises:
            EvaluationError: if no region was looked at.
        """
        parts = comm.gather(self._rows)  # two numbers a region
        if not comm.is_main_process():
            return {}
        rows = [pair for part in parts for pairs in part.values() for pair in pairs]
        if not rows:
            raise EvaluationError(f"there was no region of '{self.dataset_name}' to name")
        per_class = {c: [float(t == a) for t, a in rows if t == c] for c in sorted(self.asked)}
        means = {c: 100.0 * mean_of(v) for c, v in per_class.items()}
        unanswered = sum(a < 0 for _, a in rows)
        if unanswered:
            logger.warning("%d of %d regions of '%s' got no name, which counts as wrong", unanswered, len(rows), self.dataset_name)
        result = {"top1": 100.0 * mean_of(float(t == a) for t, a in rows), "macro": mean_of(means.values())}
        result["count"] = float(len(rows))
        for group, members in self.groups.items():
            result[group_key("top1", group)] = 100.0 * mean_of(v for c in members for v in per_class.get(c, ()))
            result[group_key("macro", group)] = mean_of(means[c] for c in members if c in means)
        result |= {class_key("top1", self.vocabulary.names[c]): v for c, v in means.items()}
        return {self.given: result}


def _answers(found: Instances, boxes: Tensor) -> list[int]:
    """The class said of each box (N, 4); -1 where there is none."""
    if not len(found):
        return [-1] * len(boxes)
    same = pairwise_iou(Boxes(boxes), Boxes(found.pred_boxes.tensor.float())) > SAME_BOX
    scores = torch.where(same, found.scores.float()[None], torch.full((), -1.0))
    best, place = scores.max(dim=1)
    return torch.where(best >= 0, found.pred_classes[place], -1).tolist()


class BridgeRegionNamer(nn.Module):
    """The bridge, on cut-out regions, as a model that names given boxes: the teacher's own accuracy.

    Args:
        bridge: see `openvocab.bridge`.
        context: of its crops.
        vocabulary: names to choose from where an input brings none.
    """

    def __init__(self, *, bridge: Bridge, context: float = 0.0, vocabulary: Vocabulary | None = None) -> None:
        super().__init__()
        self.bridge, self.context, self.vocabulary = bridge, context, vocabulary

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[dict]) -> list[dict[str, Instances]]:
        """Name the "proposals" of each input; outputs as `RegionCLIPPretraining`'s in evaluation."""
        from detectron2.modeling.postprocessing import detector_postprocess

        results = []
        for x in batched_inputs:
            vocabulary, boxes = x.get("vocabulary") or self.vocabulary, x["proposals"].proposal_boxes
            probs = self.bridge.score_regions(x["image"], boxes.tensor, list(vocabulary.prompts), context=self.context)
            scores, classes = probs.max(dim=1)
            named = Instances(x["image"].shape[-2:], pred_boxes=boxes.clone(), scores=scores, pred_classes=classes)
            results.append({"instances": detector_postprocess(named, x["height"], x["width"])})
        return results
