"""RegionCLIP in ShapesWorld, one seed: an image-level model from scratch, region pretraining, transfer to boxes of base classes.

All of it with the plugin's own parts, narrow: CLIP's stem and two stages up to stride 8, its attention pool on regions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances
from regionclip_fitting import batches, fit, share_right
from regionclip_towers import DIM, PIXELS, SIDE, build_rpn, build_tower
from torchvision.ops import roi_align

from openvocab.data import DatasetMapper, get_records
from openvocab.evaluation import COCOOVDEvaluator, evaluate
from openvocab.testing import SHAPES, ShapesWorld, get_taxonomy
from openvocab.testing.writer import register_shapes, write_coco
from openvocab.text import HashedTextEncoder
from regionclip.modeling import OfflineProposals, RegionCLIP, RegionCLIPOutputLayers, RegionCLIPROIHeads, RegionPostProcessor
from regionclip.pretraining import (
    CentredTextEncoder,
    CLIPTeacher,
    LabelTeacher,
    PairMapper,
    RegionAccuracyEvaluator,
    RegionCLIPPretraining,
    build_pool,
    captions_of,
    embed_concepts,
)

_number = itertools.count()  # of data set names in this process
NOVEL = ("star", "hexagon", "ring", "heart")
TAXONOMY = get_taxonomy("shape").with_novel(NOVEL)
WORLD = ShapesWorld(
    image_size=SIDE, num_objects=(1, 2), sizes=("medium", "large"), colors=("red", "blue", "yellow"), max_overlap=0.1
)
TEMPERATURE = 0.1
SURROUNDINGS = 2.0  # the teacher's regions are so many times as wide and high
PROPOSALS = 6  # a picture in pretraining
LOSSES = {
    "full": {},
    "no distillation": {"distill_weight": 0.0},
    "no contrastive": {"contrast_weight": 0.0},
    "no image-text": {"image_text_weight": 0.0},
    "image-text alone": {"distill_weight": 0.0, "contrast_weight": 0.0},
    "plain teacher": {},
    "true labels": {},
}


@dataclass(frozen=True)
class Budget:
    """Pictures of each set, and steps of each training."""

    train: int = 1200
    test: int = 400
    image_steps: int = 1200
    region_steps: int = 200
    transfer_steps: int = 100
    rpn_steps: int = 150


QUICK = Budget(train=24, test=8, image_steps=2, region_steps=2, transfer_steps=2, rpn_steps=2)


class Shapes:
    """Pictures of one seed, and what is trained on them. An arm's model is made by `pretrained`, judged by `judged`.

    Args:
        folder: where pictures are written.
        seed: of the pictures, the weights, and the order of both.
        budget: how much of everything.
    """

    def __init__(self, folder: Path, seed: int, budget: Budget) -> None:
        self.seed, self.budget, self.number = seed, budget, next(_number)
        self.mapped: dict[tuple[str, str], list[dict]] = {}
        single = replace(WORLD, num_objects=(1, 1))
        sets = (("train", budget.train, WORLD, 2), ("test", budget.test, WORLD, 0), ("single", budget.test, single, 0))
        for split, count, world, captions in sets:
            more = {"captions": captions, "referring": 0, "questions": 0}
            written = write_coco(folder, count, seed, taxonomy=TAXONOMY, split=split, world=world, **more)
            register_shapes(self.name(split), written)
        self.text = CentredTextEncoder(encoder=HashedTextEncoder(dim=DIM), names=SHAPES, template="{}")
        names = list(TAXONOMY.names)
        self.concepts = build_pool(captions_of(self.name("train")), min_count=max(budget.train // 60, 2), extra=names)
        self.concept_vectors = embed_concepts(self.concepts, self.text, recipe="own")

    def name(self, split: str) -> str:
        """Of a data set."""
        return f"regionclip_claims_{self.number}_{split}"

    def inputs(self, split: str, given: str) -> list[dict]:
        """Map all pictures of a set, once; training shuffles them."""
        if (split, given) not in self.mapped:
            mapper = PairMapper(is_train=False, given=given)
            self.mapped[split, given] = [mapper(r) for r in self.proposed(get_records(self.name(split)), given)]
        return self.mapped[split, given]

    def proposed(self, records: list[dict], given: str) -> list[dict]:
        """Add the RPN's best boxes to records, if these are asked for."""
        if given != "proposals":
            return records
        rows = []
        for record in records:
            image = PairMapper(is_train=False, given=None)(record)["image"]
            boxes = self.rpn([image])[0].proposal_boxes.tensor[:PROPOSALS]
            rows.append({**record, "proposal_boxes": boxes.numpy()})
        return rows

    # ---- models ---------------------------------------------------------------------------------------------------

    @cached_property
    def rpn(self) -> OfflineProposals:
        """Proposals from boxes of base classes; their names are not read."""
        torch.manual_seed(self.seed)
        network = build_rpn()
        fit(network, self.base_boxes, steps=self.budget.rpn_steps, batch=16, lr=3e-3, seed=self.seed)
        parts = {"backbone": network.backbone, "proposal_generator": network.proposal_generator}
        return OfflineProposals(**parts, input_format="RGB", **PIXELS)

    @cached_property
    def base_boxes(self) -> list[dict]:
        """Training pictures with true boxes of base classes, for detectors."""
        mapper = DatasetMapper(is_train=True, exclude_names=NOVEL)
        return [x for x in map(mapper, get_records(self.name("train"))) if x is not None]

    @cached_property
    def image_level(self) -> RegionCLIPPretraining:
        """CLIP in small: an image tower that learned from whole pictures and captions alone."""
        torch.manual_seed(self.seed)
        model = self.student(None, distill_weight=0.0, contrast_weight=0.0)
        inputs = self.inputs("train", "whole")
        return fit(model, inputs, steps=self.budget.image_steps, batch=32, lr=1.5e-3, seed=self.seed)

    def student(self, start: RegionCLIPPretraining | None, **options: object) -> RegionCLIPPretraining:
        """Build a model, with the weights of `start`."""
        backbone, features = build_tower()
        settings = {"text_encoder": self.text, "recipe": "own", "temperature": TEMPERATURE, **PIXELS, **options}
        model = RegionCLIPPretraining(backbone=backbone, region_features=features, **settings)
        if start is not None:
            model.load_state_dict(start.state_dict())
        return model

    def teacher(self, factor: float) -> CLIPTeacher:
        """The image-level model as a teacher that sees regions with their surroundings."""
        backbone, features = build_tower(factor=factor)
        backbone.load_state_dict(self.image_level.backbone.state_dict())
        features.load_state_dict(self.image_level.region_features.state_dict())
        options = {"concept_embeddings": self.concept_vectors, "temperature": TEMPERATURE, **PIXELS}
        return CLIPTeacher(backbone=backbone, region_features=features, **options)

    def pretrained(self, arm: str) -> RegionCLIPPretraining:
        """Make the model of an arm."""
        if arm not in LOSSES:
            return self.image_level
        options: dict[str, object] = {**LOSSES[arm], "concept_threshold": 0.3, "concepts": self.concepts, "sample_regions": 4}
        if arm == "true labels":
            options["teacher"] = LabelTeacher(names=TAXONOMY.names, concepts=self.concepts)
        else:
            options["teacher"] = self.teacher(1.0 if arm == "plain teacher" else SURROUNDINGS)
        inputs = self.inputs("train", "annotations" if arm == "true labels" else "proposals")
        model = self.student(self.image_level, **options)
        return fit(model, inputs, steps=self.budget.region_steps, batch=16, lr=2e-3, seed=self.seed + 1)

    def detector(self, student: RegionCLIPPretraining) -> RegionCLIP:
        """The student's tower as a detector, trained on boxes of base classes; stem and first stage stay (paper)."""
        backbone, features = build_tower(freeze_at=2)
        backbone.load_state_dict(student.backbone.state_dict())
        features.load_state_dict(student.region_features.state_dict())
        predictor = RegionCLIPOutputLayers(
            input_dim=DIM,
            postprocessor=RegionPostProcessor(score_fusion="sqrt_sigmoid"),
            temperature=TEMPERATURE,
            focal_gamma=0.5,
            background_weight=0.2,
        )
        heads = RegionCLIPROIHeads(
            region_features=features, box_predictor=predictor, batch_size_per_image=16, proposal_matcher=Matcher([0.5], [0, 1])
        )
        options = {"offline_rpn": self.rpn, "text_encoder": self.text, "recipe": "own", **PIXELS}
        return RegionCLIP(backbone=backbone, roi_heads=heads, vocabulary=list(TAXONOMY.base().names), **options)

    # ---- numbers --------------------------------------------------------------------------------------------------

    def named(self, student: RegionCLIPPretraining) -> dict[str, float]:
        """Zero-shot accuracy on whole pictures of one shape, and on given boxes."""
        name = self.name("test")
        groups = {"novel": NOVEL}
        regions = RegionAccuracyEvaluator(dataset_name=name, groups=groups)
        found = evaluate(student, batches(self.inputs("test", "annotations")), regions, progress=False)["regions"]
        whole = RegionAccuracyEvaluator(dataset_name=self.name("single"), given="pictures")
        seen = evaluate(student, batches(self.inputs("single", "whole")), whole, progress=False)["pictures"]
        return {"shapes: picture": seen["top1"], "shapes: region": found["top1"], "shapes: novel": found["macro_novel"]}

    def named_crops(self, student: RegionCLIPPretraining) -> float:
        """Accuracy on cut-out regions, each scaled to a picture of its own."""
        right = []
        frame = Instances((SIDE, SIDE), proposal_boxes=Boxes(torch.tensor([[0.0, 0.0, SIDE, SIDE]])))
        student.eval()
        for x in self.inputs("test", "annotations"):
            boxes = x["proposals"].proposal_boxes.tensor
            crops = roi_align(x["image"][None].float(), [boxes], SIDE, sampling_ratio=2, aligned=True)
            answers = student([{"image": c, "vocabulary": x["vocabulary"], "proposals": frame} for c in crops])
            said = [int(a["instances"].pred_classes[0]) for a in answers]
            right += list(zip(said, x["proposals"].gt_classes.tolist(), strict=True))
        return share_right(right)

    def transferred(self, student: RegionCLIPPretraining) -> dict[str, float]:
        """AP50 after training on base classes, with all names to choose from."""
        torch.manual_seed(self.seed)
        model = self.detector(student)
        fit(model, self.base_boxes, steps=self.budget.transfer_steps, batch=16, lr=5e-4, seed=self.seed + 2)
        mapper = DatasetMapper(is_train=False)
        inputs = [mapper(r) for r in get_records(self.name("test"))]
        evaluator = COCOOVDEvaluator(self.name("test"), drop_empty=False)
        found = evaluate(model, batches(inputs), evaluator, progress=False)["bbox_ovd"]
        return {"shapes: AP50 novel": found["AP50_novel"], "shapes: AP50 base": found["AP50_base"]}
