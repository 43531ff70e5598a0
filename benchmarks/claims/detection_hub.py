"""Detection Hub's claims (arXiv 2206.03484) in ConventionShapes: run by `tools/claims.py detection_hub`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from detection_hub_conventions import QUICK, Budget, Conventions
from detection_hub_measures import measure

TITLE = "Detection Hub: one detector for data sets that disagree about names and boxes"
SETTING = """
**ConventionShapes**: pictures of 96 x 96 pixels with two to four drawn figures: persons, balls, boxes, cones. All sets draw from
one distribution of pictures, so that no pixel tells them apart; they differ in what is labelled and where its box ends. A: person,
ball and box, tight. B: the upper 55 % of a person; box and cone, tight. C: ball and cone, boxes 1.4 times as large. The variant
**same names** has two sets, both with person, ball and box: in one all are tight, in the other a person is its upper 55 % and the
boxes of boxes are 1.4 times as large.

200 training and 100 test pictures a set, made anew for each seed. All arms have one model,
`configs/detection_hub/models/detection_hub_shapes.py` (1.2 M parameters, random at the start, 16 queries, 3 stages), one cycle of
rates, and batches of 8 pictures of one set. A joint arm has 450 steps over the three sets, and 450 over the two of the same names;
each set is seen as often as the others. A separate detector has a third (half) of these in "sep_equal_compute", so that all of them
together cost as much as one joint detector; in "sep_equal_steps" each has as many steps as the joint detector: three times (twice)
the compute, and three times (twice) as many views of its own set.

Settings: rates and model are those of `configs/detection_hub/quick/convention_shapes.py`; steps were chosen on seed 100 with the
arm "full", where 300 were too few for the same names.
"""
ARMS = {
    "sep_equal_compute": "a static detector for each set, with as many steps in all as one joint detector",
    "sep_equal_steps": "a static detector for each set, each with as many steps as a joint detector",
    "naive": "one static detector, one list of all names, foreign names are negatives; nothing says which set a picture is of",
    "masked": "the same, asked and judged for each picture with its own set's names only",
    "id": "the set's vector and convention flags change queries and kernels; no language there",
    "lang": "the set's names change queries and kernels; no vector and no flags",
    "full": "names, vector and flags: the hub",
    "full_minilm": "the hub, its names read by MiniLM (real text embeddings) in place of hashed words",
}
METRICS = {
    "AP": "COCO's AP (IoU 0.50 to 0.95), mean over the sets A, B, C, each on its own names and rule",
    "AP75": "the same at IoU 0.75",
    "worst AP": "the lowest AP of the three",
    "person A": "AP of persons in A, boxes around all of them",
    "person B": "AP of persons in B, boxes around their upper part",
    "same names: AP": "mean AP over the two sets of the same names",
    "same names: AP75": "the same at IoU 0.75",
    "same names: worst AP": "the lower of the two",
    "swap: own AP75": "AP75 on shared names, in the pictures' own context, mean over ordered pairs of A, B, C",
    "swap: other AP75": "the same pictures and boxes, detected as if they were of the other set",
    "swap: difference": "diagonal less off-diagonal",
    "unknown: own rule": "same names: an untrained set (no vector) with the flags of a trained one: AP on that one's boxes",
    "unknown: other rule": "the same detections, AP on the boxes that the other set's rule draws",
    "new list: own rule": "A, B, C: an unknown set of all four names, declared tight or loose: AP on tight, or loose, boxes",
    "new list: other rule": "the same detections, AP on loose, or tight, boxes",
    "near names": "mean AP over A, B, C with near names, never trained, for the names (human, sphere, crate, pyramid)",
    "unrelated names": "the same with unrelated names (river, music, engine, winter): what is left when names say nothing",
}
FULL, SWAP = "full", ("swap: own AP75", "swap: other AP75")


def _better(text: str, worse: str, metric: str, *, better: str = FULL, **margin: float) -> dict:
    return {"text": text, "better": (better, metric), "worse": (worse, metric), **margin}


CLAIMS = [
    *(
        _better(f"the hub beats one detector {what}, by at least {margin} {metric}", arm, metric, margin=margin)
        for arm, what in (("naive", "over the union of names"), ("masked", "that knows each picture's names only"))
        for metric, margin in (("AP", 10), ("AP75", 15))
    ),
    *(
        _better(f"the hub finds persons of both conventions better than a static detector ({set_})", "masked", f"person {set_}")
        for set_ in ("A", "B")
    ),
    _better("where names are the same, language alone is at least 10 AP below the hub", "lang", "same names: AP", margin=10),
    {
        "text": "another set's context makes another set's boxes: at least 20 AP75 are lost",
        "better": (FULL, SWAP[0]),
        "worse": (FULL, SWAP[1]),
        "margin": 20,
    },
    *(
        {"text": text, "better": (FULL, f"{what}: own rule"), "worse": (FULL, f"{what}: other rule")}
        for text, what in (
            ("an unknown set with known flags gets the boxes of its flags", "unknown"),
            ("so does an unknown set with a list of names that was never trained", "new list"),
        )
    ),
    {
        "text": "with real text embeddings, names near a trained one are understood",
        "better": ("full_minilm", "near names"),
        "worse": ("full_minilm", "unrelated names"),
    },
    _better("and better than hashed words understand them", FULL, "near names", better="full_minilm"),
    _better("the hub beats separate detectors at equal total compute", "sep_equal_compute", "AP"),
    _better("the hub beats separate detectors that each have as many steps as it has", "sep_equal_steps", "AP"),
    _better("on sets that were trained on, names help beside the vector", "id", "AP"),
]
HELPS = ("masked", ["AP", "AP75", "worst AP", "same names: AP"])
FILES = [
    "detection_hub_conventions.py",
    "detection_hub_measures.py",
    "../../configs/detection_hub/models/detection_hub_shapes.py",
    "../../openvocab/testing/convention_shapes.py",
]


@dataclass
class State:
    """What a run keeps: the sets of the present seed."""

    folder: Path
    budget: Budget
    conventions: dict[int, Conventions] = field(default_factory=dict)

    def of(self, seed: int) -> Conventions:
        """Make the pictures of a seed; those of another are let go."""
        if seed not in self.conventions:
            self.conventions.clear()
            self.conventions[seed] = Conventions(self.folder / f"pictures_seed{seed}", seed, self.budget)
        return self.conventions[seed]


def prepare(work: Path, quick: bool) -> State:
    """See `tools/claims.py`."""
    for name, level in (("openvocab", logging.WARNING), ("openvocab.evaluation", logging.ERROR), ("detectron2", logging.WARNING)):
        logging.getLogger(name).setLevel(level)  # a swapped context's other names are no news
    return State(work, QUICK if quick else Budget())


def run(state: State, arm: str, seed: int) -> dict[str, float]:
    """See `tools/claims.py`."""
    return measure(state.of(seed), arm)
