"""ConventionShapes: data sets of one look that disagree about names and boxes (ours).

Every set's pictures come from the same distribution, so nothing in the pixels tells the sets apart; only which things
are labelled, and where their boxes go, differs. One static detector cannot satisfy them all, one that is told the data
set can.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from openvocab.errors import DataError, nearest

from .conventions import Box, BoxRule, get_rule
from .scenes import Scene, SceneObject, paint
from .seeding import generator
from .shapes import FIGURES, mask_box, shape_mask
from .taxonomies import TAXONOMIES, Taxonomy

SIDE = 96
GAP = 2
CONTRAST = 64  # grey levels; ours: a thing painted as its background could not be found by anyone


@dataclass(frozen=True)
class ConventionSet:
    """One data set: its classes and box rules.

    Attributes:
        name: of the set.
        classes: the labelled figures; the others are in the pictures without a label.
        rules: the rule of each class.
    """

    name: str
    classes: tuple[str, ...]
    rules: tuple[BoxRule, ...]

    @property
    def taxonomy(self) -> Taxonomy:
        """The names of the set."""
        return TAXONOMIES["figures"].keep(self.classes)

    @property
    def flags(self) -> tuple[str, ...]:
        """The convention flags of all its rules, sorted."""
        return tuple(sorted({flag for rule in self.rules for flag in rule.flags}))

    def rule_of(self, thing: SceneObject) -> BoxRule:
        """Return the rule for an object of one of the set's classes."""
        return self.rules[self.classes.index(thing.shape)]


def _set(name: str, **rules: str) -> ConventionSet:
    return ConventionSet(name, tuple(rules), tuple(get_rule(r) for r in rules.values()))


CONVENTION_SETS: dict[str, ConventionSet] = {
    "A": _set("A", person="tight", ball="tight", box="tight"),
    "B": _set("B", person="upper:0.55", box="tight", cone="tight"),
    "C": _set("C", ball="loose:1.4", cone="loose:1.4"),
}
# the variant in which names say nothing about the set
SAME_NAMES_SETS: dict[str, ConventionSet] = {
    "full": _set("full", person="tight", ball="tight", box="tight"),
    "upper": _set("upper", person="upper:0.55", ball="tight", box="loose:1.4"),
}


def _get_set(value: str | ConventionSet) -> ConventionSet:
    if isinstance(value, ConventionSet):
        return value
    known = {**CONVENTION_SETS, **SAME_NAMES_SETS}
    if value not in known:
        raise DataError(f"there is no convention set '{value}'.{nearest(value, known)} Known: {', '.join(known)}")
    return known[value]


def _draw_size(rng: np.random.Generator, kind: str) -> tuple[float, float]:
    """Width and height of a figure, pixels."""
    if kind == "person":
        width = rng.uniform(12, 22)
        return width, width * rng.uniform(2.0, 2.6)
    width = rng.uniform(14, 28)
    return width, width * rng.uniform(0.85, 1.18)


def _draw_color(rng: np.random.Generator, background: np.ndarray) -> tuple[int, int, int]:
    while True:
        rgb = rng.integers(0, 256, 3)
        if np.abs(rgb - background).max() >= CONTRAST:
            return int(rgb[0]), int(rgb[1]), int(rgb[2])


def _touch(a: Box, b: Box) -> bool:
    """Say whether two boxes come nearer than the gap."""
    return a[0] <= b[2] + GAP and b[0] <= a[2] + GAP and a[1] <= b[3] + GAP and b[1] <= a[3] + GAP


def _lay_out(rng: np.random.Generator, background: np.ndarray) -> tuple[SceneObject, ...]:
    """Place 2 to 4 figures (where they fit) whose boxes keep a gap."""
    boxes: list[Box] = []
    things = []
    for _ in range(int(rng.integers(2, 5))):
        kind = FIGURES[rng.choice(4, p=(0.4, 0.2, 0.2, 0.2))]
        width, height = _draw_size(rng, kind)
        for _ in range(50):
            x, y = rng.uniform(0, SIDE - width), rng.uniform(0, SIDE - height)
            box = (x, y, x + width, y + height)
            if not any(_touch(box, other) for other in boxes):
                center = (x + width / 2, y + height / 2)
                mask = shape_mask(kind, (SIDE, SIDE), center, (width / 2, height / 2))
                rgb = _draw_color(rng, background)
                things.append(SceneObject(kind, "", "", rgb, center, mask, mask))
                boxes.append(box)
                break
    return tuple(things)


@dataclass(frozen=True, kw_only=True)
class ConventionWorld:
    """The pictures of one set of ConventionShapes.

    Attributes:
        convention: "A", "B", "C", "full", "upper", or a set of your own.
        seed: 0 or more.
        split: any word; splits share no picture, and neither do sets.

    Raises:
        DataError: for an unknown set.
    """

    convention: str | ConventionSet = "A"
    seed: int = 0
    split: str = "train"
    convention_set: ConventionSet = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "convention_set", _get_set(self.convention))

    def scene(self, index: int) -> Scene:
        """Return picture number `index`, 96 x 96; drawn again until something in it has a label in this set."""
        rng = generator(self.seed, self.split, index, f"convention {self.convention_set.name}")
        while True:
            tint = rng.uniform(0.25, 0.75, 3) * 255
            objects = _lay_out(rng, tint)
            if any(o.shape in self.convention_set.classes for o in objects):
                break
        background = np.broadcast_to(tint, (SIDE, SIDE, 3)) + rng.normal(0, 0.04 * 255, (SIDE, SIDE, 3))
        image = paint(rng, objects, background.astype(np.int16), 0)
        return Scene(image, objects, "noisy", self.seed, self.split, int(index))


def iou_of_rules(a: BoxRule, b: BoxRule, thing: SceneObject) -> float:
    """Return the IoU of the boxes that two rules draw around one object (both cut off at the picture's border)."""
    size, visible = thing.full.shape, mask_box(thing.visible)
    p, q = a(thing.full_box, visible, size), b(thing.full_box, visible, size)
    width, height = min(p[2], q[2]) - max(p[0], q[0]), min(p[3], q[3]) - max(p[1], q[1])
    both = max(0.0, width) * max(0.0, height)
    return both / ((p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - both)
