"""A scene: shapes laid out on a canvas, and the picture painted from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .backgrounds import paint_background
from .seeding import generator
from .shapes import COLORS, SIZES, mask_box, shape_mask

Look = tuple[str, str, str]  # color, shape, size
TILT = math.radians(12)
GAP = 2.0  # pixels between shapes that must not overlap


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One shape of a scene.

    Attributes:
        shape, color, size: its words; the color of a figure of `ConventionWorld` is "".
        rgb: the color it is painted in.
        center: (x, y) of its unit window, pixels.
        full: (H, W) bool, the pixels it would cover with nothing in front of it.
        visible: (H, W) bool, the pixels it has in the picture.
    """

    shape: str
    color: str
    size: str
    rgb: tuple[int, int, int]
    center: tuple[float, float]
    full: np.ndarray = field(repr=False)
    visible: np.ndarray = field(repr=False)

    @cached_property
    def full_box(self) -> tuple[int, int, int, int]:
        """Extent of `full`, XYXY pixels."""
        return mask_box(self.full)

    @cached_property
    def visible_box(self) -> tuple[int, int, int, int]:
        """Extent of `visible`, XYXY pixels."""
        return mask_box(self.visible)


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and what is in it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        objects: from back to front.
        background: its word ("striped").
        seed, split, index: where it comes from.
        pairs: every (color, shape) that its world may paint; questions ask about no others.
    """

    image: np.ndarray = field(repr=False)
    objects: tuple[SceneObject, ...]
    background: str
    seed: int
    split: str
    index: int
    pairs: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def generator(self, purpose: str, number: int = 0) -> np.random.Generator:
        """Return the random numbers of this scene for one purpose ("caption"); the same ones at every call."""
        return generator(self.seed, self.split, self.index, purpose, number)


def choose_looks(
    rng: np.random.Generator,
    *,
    count: int,
    pairs: Sequence[tuple[str, str]],
    sizes: Sequence[str],
    repeat: float,
) -> list[Look]:
    """Draw `count` looks; each repeats an earlier one's color and shape with probability `repeat`."""
    looks: list[Look] = []
    for _ in range(count):
        if looks and rng.random() < repeat:
            color, shape, _ = looks[rng.integers(len(looks))]
        else:
            color, shape = pairs[rng.integers(len(pairs))]
        looks.append((color, shape, str(sizes[rng.integers(len(sizes))])))
    return looks


class _Canvas:
    """Places shapes one after the other, each in front of the ones before."""

    def __init__(self, size: tuple[int, int], max_overlap: float) -> None:
        self.size, self.max_overlap = size, max_overlap
        self.full: list[np.ndarray] = []
        self.visible: list[np.ndarray] = []
        self.centers: list[tuple[float, float, float]] = []

    def _too_near(self, x: float, y: float, radius: float) -> bool:
        """A quick look before the pixels: discs around the shapes may meet only as far as the overlap allows."""
        for cx, cy, r in self.centers:
            reach = radius + r + GAP if self.max_overlap == 0 else (radius + r) * (1 - self.max_overlap)
            if (x - cx) ** 2 + (y - cy) ** 2 < reach**2:
                return True
        return False

    def _hides_too_much(self, mask: np.ndarray) -> bool:
        for full, visible in zip(self.full, self.visible, strict=True):
            if (visible & ~mask).sum() < (1 - self.max_overlap) * full.sum():
                return True
        return False

    def place(self, rng: np.random.Generator, shape: str, radius: float, tries: int = 40) -> tuple[float, float] | None:
        """Find a place; return the shape's (x, y), or None if no place was found."""
        height, width = self.size
        angle = rng.uniform(-TILT, TILT)
        outer = radius * 1.1  # a tilted square reaches past its unit window by 1.02
        if 2 * outer > min(height, width):
            return None
        for _ in range(tries):
            x, y = rng.uniform(outer, width - outer), rng.uniform(outer, height - outer)
            if self._too_near(x, y, outer):
                continue
            mask = shape_mask(shape, self.size, (x, y), (radius, radius), angle)
            if not mask.any() or self._hides_too_much(mask):
                continue
            self.visible = [v & ~mask for v in self.visible]
            self.full.append(mask)
            self.visible.append(mask)
            self.centers.append((x, y, outer))
            return x, y
        return None


def lay_out(
    rng: np.random.Generator, looks: Sequence[Look], size: tuple[int, int], max_overlap: float
) -> tuple[SceneObject, ...]:
    """Place shapes on a canvas, larger ones behind smaller ones; what finds no place is left out.

    Args:
        rng: random numbers.
        looks: what to place.
        size: (H, W).
        max_overlap: the largest share of a shape's pixels that shapes in front of it may hide.
    """
    canvas = _Canvas(size, max_overlap)
    placed = []
    sized = [(rng.uniform(*SIZES[look[2]]) * min(size), look) for look in looks]
    for radius, look in sorted(sized, key=lambda pair: -pair[0]):
        center = canvas.place(rng, look[1], radius)
        if center is not None:
            placed.append((look, center))
    return tuple(
        SceneObject(
            shape=shape, color=color, size=size_word, rgb=_shade(rng, color), center=center, full=full, visible=visible
        )
        for ((color, shape, size_word), center), full, visible in zip(placed, canvas.full, canvas.visible, strict=True)
    )


def _shade(rng: np.random.Generator, color: str) -> tuple[int, int, int]:
    """A color a little off its palette value."""
    values = np.clip(np.array(COLORS[color]) + rng.integers(-8, 9, 3), 0, 255)
    return int(values[0]), int(values[1]), int(values[2])


def add_noise(rng: np.random.Generator, image: np.ndarray, amount: int) -> np.ndarray:
    """Add uniform integer noise of -amount..amount to an int16 picture; return uint8."""
    if amount:
        image = image + rng.integers(-amount, amount + 1, image.shape, dtype=np.int8)
    return np.clip(image, 0, 255).astype(np.uint8)


def paint(rng: np.random.Generator, objects: Sequence[SceneObject], background: np.ndarray, noise: int) -> np.ndarray:
    """Paint objects on a copy of a background, (H, W, 3) int16; return (H, W, 3) uint8."""
    image = background.copy()
    for thing in objects:
        image[thing.visible] = thing.rgb
    return add_noise(rng, image, noise)


def paint_scene(
    rng: np.random.Generator, objects: Sequence[SceneObject], size: tuple[int, int], background: str, noise: int
) -> np.ndarray:
    """Paint a background of a kind and the objects on it; return (H, W, 3) uint8 RGB."""
    return paint(rng, objects, paint_background(rng, background, *size), noise)
