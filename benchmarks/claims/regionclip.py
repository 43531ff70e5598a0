"""RegionCLIP's claims (arXiv 2112.09106) in ShapesWorld and on coco_mini: run by `tools/claims.py regionclip`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from regionclip_photos import LOSSES as PHOTO_ARMS
from regionclip_photos import Photos, load_photos
from regionclip_shapes import QUICK, Budget, Shapes

TITLE = "RegionCLIP: does region pretraining help a model that learned from whole pictures?"
SETTING = """
**ShapesWorld**, pictures of 64 x 64 pixels with one or two shapes of ten kinds; star, hexagon, ring and heart are novel.
Everything is made anew for each seed. A small CLIP is trained from nothing on 1,200 whole pictures with captions (1,200
steps; CLIP's stem and two stages up to stride 8, its attention pool, a frozen text encoder of hashed words): it is the image-level
model, every student's start and their teacher. Region pretraining: `RegionCLIPPretraining`, 200 steps on the same pictures, on
boxes of an RPN that was trained on base shapes, with the nouns of the captions as concepts. Transfer: `RegionCLIP` with that
RPN, 100 steps on boxes of base shapes. Judged on 400 new pictures, and 400 with one shape. One thing is ours and not the
paper's: the teacher sees each region with its surroundings, twice as wide and high, which looks more like the pictures it
learned from. "plain teacher" is the paper's form, beside it.

**Photos**: coco_mini; left out where it is not on the disk. The image-level model is EfficientNet-Lite0 of ImageNet in MiniLM's
space (see docs/bridge.md), the teacher is the bridge on cut-out regions. To be cheap, all layers before the last convolution
are frozen, and their maps of regions are kept: 60 steps on the 130 training pictures with captions, 12 boxes each of the
shipped `default` without names (which learned its boxes on this training set). Judged on the true boxes of the validation
pictures that are at least 16 pixels wide and high, of COCO-OVD's 65 names. Novel means that no boxes of these names are used
(but in "true labels"), not that ImageNet lacks the names. The image-level model is one for all seeds, with a standard deviation
of 0: its claims on photos say no more than which number is larger.

Settings were chosen on seeds 100 to 102, whose shapes are other pictures, and for photos on training pictures without captions
(seeds 100 and 101): the number of shapes, width, steps and rates, the threshold, the surroundings (with the plain teacher seed
100 gained less). The image-level model's steps and rate were chosen last, on seeds 100 and 103 to 106: with half the steps and
twice the rate it did not learn on some seeds, as a stopped first run showed on seeds 0 (28 % of pictures named) and 1 (55 %).
"""
START, FULL = "image-level model", "full"
ARMS = {
    START: "learned from whole pictures and captions alone; where the others start, and their teacher",
    FULL: "region pretraining with contrast, distillation and image-text loss (the paper's)",
    "no distillation": "without the distillation loss",
    "no contrastive": "without the region-concept contrast",
    "no image-text": "without pictures and captions",
    "image-text alone": "as many steps of what the image-level model learned from, without regions",
    "plain teacher": "as full, but the teacher sees the region alone, as in the paper (shapes)",
    "true labels": "as full, but the truth is the teacher: boxes and names of all classes, novel ones too; an upper bound",
}
METRICS = {
    "shapes: picture": "whole pictures of one shape named rightly, %; chance is 10",
    "shapes: crop": "cut-out boxes, each scaled to a picture of its own, named rightly, %",
    "shapes: region": "given boxes, pooled, named rightly, %",
    "shapes: novel": "the same, mean over the four novel shapes",
    "shapes: AP50 novel": "of the four novel shapes after training on boxes of the six base shapes, all ten names asked for",
    "shapes: AP50 base": "of the base shapes, the same detector",
    "photos: picture": "whole pictures that show one class named rightly, %, of 65 names",
    "photos: crop": "cut-out boxes named rightly by the bridge, %",
    "photos: region": "given boxes, pooled, named rightly, %",
    "photos: macro": "the same, mean over classes",
    "photos: novel": "the same, mean over COCO-OVD's 17 novel classes, whose names are among those asked for",
    "photos: base": "the same, mean over its 48 base classes",
}
CLAIMS = [
    {"text": f"{text} ({where})", "better": (better, f"{where}: {high}"), "worse": (START, f"{where}: {low}")}
    for text, better, rows in (
        ("the image-level model names whole pictures better than cut-out regions", START, [("shapes", "picture", "crop")]),
        ("the image-level model names whole pictures better than pooled regions", START, [("shapes", "picture", "region")]),
        ("the image-level model names whole pictures better than cut-out regions", START, [("photos", "picture", "crop")]),
        ("the image-level model names whole pictures better than pooled regions", START, [("photos", "picture", "region")]),
        ("region pretraining names given boxes better", FULL, [("shapes", "region", "region"), ("photos", "macro", "macro")]),
        ("region pretraining names given boxes of novel classes better", FULL, [("photos", "novel", "novel")]),
        ("region pretraining finds more of novel classes", FULL, [("shapes", "AP50 novel", "AP50 novel")]),
    )
    for where, high, low in rows
]
HELPS = (START, ["shapes: region", "shapes: AP50 novel", "photos: macro", "photos: novel"])
FILES = ["regionclip_shapes.py", "regionclip_towers.py", "regionclip_photos.py", "regionclip_fitting.py"]


@dataclass
class State:
    """What a run keeps: the photos, and the shapes of the present seed."""

    folder: Path
    budget: Budget
    photos: Photos | None
    shapes: dict[int, Shapes] = field(default_factory=dict)

    def shapes_of(self, seed: int) -> Shapes:
        """Make the pictures of a seed; those of another are let go."""
        if seed not in self.shapes:
            self.shapes.clear()
            self.shapes[seed] = Shapes(self.folder / f"shapes_seed{seed}", seed, self.budget)
        return self.shapes[seed]


def prepare(work: Path, quick: bool) -> State:
    """See `tools/claims.py`."""
    logging.getLogger("openvocab").setLevel(logging.WARNING)
    return State(work, QUICK if quick else Budget(), load_photos(quick))


def run(state: State, arm: str, seed: int) -> dict[str, float]:
    """See `tools/claims.py`."""
    shapes = state.shapes_of(seed)
    student = shapes.pretrained(arm)
    result = shapes.named(student) | shapes.transferred(student)
    if arm == START:
        result["shapes: crop"] = shapes.named_crops(student)
    if state.photos is not None and arm in (START, *PHOTO_ARMS):
        result |= state.photos.named(state.photos.pretrained(arm, seed))
        if arm == START:
            result["photos: crop"] = state.photos.named_crops()
    return result
