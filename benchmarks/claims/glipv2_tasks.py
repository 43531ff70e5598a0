"""GLIPv2's tasks in ShapesWorld, one seed: boxes, masks, answers and captions learned together, and each alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from detectron2.config import LazyCall as L
from regionclip_fitting import batches, fit
from torch import nn

from glipv2.modeling import GLIPv2MaskHead, MaskBranch, MaskConvs, MaskPooler, RegionWordAlignment
from openvocab.config import instantiate, load_config
from openvocab.data import CaptionMapper, DatasetMapper, QuestionMapper, get_records
from openvocab.evaluation import CaptionEvaluator, COCODetectionEvaluator, VQAEvaluator, evaluate
from openvocab.evaluation.captions import caption_words, constant_cider
from openvocab.evaluation.vqa import constants
from openvocab.testing import ShapesWorld
from openvocab.testing.quick_tasks import SIMPLE, register_tasks
from openvocab.testing.writer import write_coco

_number = itertools.count()  # of data set names in this process
CONFIG = "glipv2/models/glipv2_shapes_tasks"
RATE, SIDE = 2e-3, 64
SLOWER = {"detector.backbone": {"lr_factor": 0.1}}  # at the full rate it learns forms first, and loses colors for good
DETECTION, VQA, CAPTION = "detection", "vqa", "caption"
TOGETHER, ALONE, CONSTANT = "all tasks", "each alone", "one text for all"
ARMS = {TOGETHER: ((DETECTION, VQA, CAPTION),), ALONE: ((DETECTION,), (VQA,), (CAPTION,)), CONSTANT: ()}  # trainings of an arm
WORDS = {
    TOGETHER: "one model for boxes, masks, answers and captions",
    ALONE: "three models: boxes and masks, answers, captions",
    CONSTANT: "no model: the best single answer to all questions, the best single caption of all pictures",
}
METRICS = {
    "tasks: box AP": "of shapes by name",
    "tasks: mask AP": "of their masks",
    "tasks: VQA": "accuracy of answers",
    "tasks: CIDEr": "of captions, times 100",
    "tasks: BLEU4": "of captions, times 100",
}
_NEAR = "one set of weights for all tasks is not more than 2 points below models of single tasks"
AS_GOOD = [
    {"text": f"{_NEAR} ({m.removeprefix('tasks: ')})", "better": (TOGETHER, m), "worse": (ALONE, m), "within": 2} for m in METRICS
]
MAPPERS = {DETECTION: DatasetMapper, VQA: QuestionMapper, CAPTION: CaptionMapper}


@dataclass(frozen=True)
class Budget:
    """Pictures of each set, steps of each training, samples of each task in a step; what the losses of answers and of captions
    count, where those of boxes and masks count 1."""

    train: int = 800
    test: int = 150
    steps: int = 1200
    share: int = 8
    weights: tuple[float, float] = (0.2, 0.3)


QUICK = Budget(train=4, test=2, steps=1, share=2)


class TakingTurns(Sequence):
    """Several lists as one in which each has the same share; the shorter ones are repeated."""

    def __init__(self, parts: Sequence[Sequence[dict]]) -> None:
        self.parts = list(parts)

    def __len__(self) -> int:
        return len(self.parts) * max(map(len, self.parts))

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place, part = divmod(index, len(self.parts))
        return self.parts[part][place % len(self.parts[part])]


class Tasks:
    """One or two large shapes of four forms and four colors: where they are, what is asked and what is said about them.

    Args:
        folder: where pictures are written.
        seed: of the pictures, the weights and the order of both.
        budget: how much of everything.
    """

    def __init__(self, folder: Path, seed: int, budget: Budget) -> None:
        self.seed, self.budget, self.number = seed, budget, next(_number)
        world = ShapesWorld(image_size=SIDE, **SIMPLE)
        for split, count in (("train", budget.train), ("test", budget.test)):
            written = write_coco(folder, count, seed, taxonomy="shape", split=split, world=world, referring=0)
            register_tasks({task: self.name(split, task) for task in MAPPERS}, written)

    def name(self, split: str, task: str) -> str:
        """Return the name of a task's data set."""
        return f"glipv2_claims_tasks_{self.number}_{split}_{task}"

    @cached_property
    def train(self) -> Mapping[str, list[dict]]:
        """Training samples of each task; every caption is one."""
        options: dict[str, dict] = {DETECTION: {"with_masks": True, "mask_format": "bitmask"}}
        found = {}
        for task, mapper in MAPPERS.items():
            mapped = mapper(is_train=True, **options.get(task, {}))
            found[task] = [mapped(r) for r in get_records(self.name("train", task))]
        found[CAPTION] = [{**x, "sentence": text} for x in found[CAPTION] for text in x["captions"]]
        return found

    def detector(self, tasks: Sequence[str]) -> nn.Module:
        """Build the model of configs/glipv2/quick/shapes_tasks.py, with a mask branch, and heads for these tasks alone."""
        node = load_config(CONFIG).model
        if DETECTION in tasks:
            channels, width = node.detector.head.channels, node.heads[0].lang_dim
            node.detector.mask_branch = L(MaskBranch)(
                pooler=L(MaskPooler)(strides=(8, 16, 32), output_size=7),
                head=L(GLIPv2MaskHead)(
                    trunk=L(MaskConvs)(channels=channels, num_convs=2),
                    alignment=L(RegionWordAlignment)(channels=channels, lang_dim=width, prior_prob=None),
                    channels=channels,
                ),
                max_boxes=10,
            )
        node.heads[0].loss_weight, node.heads[1].loss_weight = self.budget.weights
        node.heads[1].search.beams = 1
        node.heads = [head for task, head in zip((VQA, CAPTION), node.heads, strict=True) if task in tasks]
        torch.manual_seed(self.seed)
        return instantiate(node)

    def fitted(self, tasks: Sequence[str]) -> nn.Module:
        """Train one model; whatever else it learns, it sees as many samples of each of its tasks."""
        samples = TakingTurns([self.train[task] for task in tasks])
        batch = self.budget.share * len(tasks)
        steps, model = self.budget.steps, self.detector(tasks)
        return fit(model, samples, steps=steps, batch=batch, lr=RATE, seed=self.seed, overrides=SLOWER)

    def measured(self, arm: str) -> dict[str, float]:
        """Train the models of an arm, and judge them on new pictures."""
        if arm == CONSTANT:
            return self.constants()
        result: dict[str, float] = {}
        for tasks in ARMS[arm]:
            model = self.fitted(tasks)
            for task in tasks:
                result.update(self.judged(model, task))
        return result

    def judged(self, model: nn.Module, task: str) -> dict[str, float]:
        """Judge one task on the test pictures."""
        name = self.name("test", task)
        inputs = [MAPPERS[task](is_train=False)(r) for r in get_records(name)]
        evaluator = {DETECTION: COCODetectionEvaluator, VQA: VQAEvaluator, CAPTION: CaptionEvaluator}[task](name)
        found = evaluate(model, batches(inputs), evaluator, progress=False)
        if task == VQA:
            return {"tasks: VQA": found["vqa"]["accuracy"]}
        if task == CAPTION:
            return {f"tasks: {k}": found["caption"][k] for k in ("CIDEr", "BLEU4")}
        return {"tasks: box AP": found["bbox"]["AP"], "tasks: mask AP": found["segm"]["AP"]}

    def constants(self) -> dict[str, float]:
        """What the best single answer, and the best single caption, are worth."""
        answers = constants(get_records(self.name("test", VQA)))["accuracy_constant"]
        captions = [[caption_words(t) for t in r["captions"]] for r in get_records(self.name("test", CAPTION))]
        return {"tasks: VQA": answers, "tasks: CIDEr": 100 * constant_cider(dict(enumerate(captions)), 20)}
