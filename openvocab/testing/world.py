"""`ShapesWorld`: picture number i of a seed, the same in every process and in every order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from openvocab.errors import DataError

from .backgrounds import BACKGROUNDS
from .referring import sentence_needed
from .scenes import Look, Scene, SceneObject, choose_looks, lay_out, paint_scene
from .seeding import generator
from .shapes import COLORS, SHAPES, SIZES, check_names

_MIN_SIDE = 32
_ATTEMPTS = 300


@dataclass(frozen=True, kw_only=True)
class ShapesWorld:
    """A procedural world of coloured shapes.

    Attributes:
        seed: the world's number, 0 or more.
        split: any word; splits of one seed share no picture.
        image_size: a side, or (H, W), in pixels; at least 32.
        num_objects: (fewest, most) shapes a picture is planned with; one that finds no place is left out.
        max_overlap: the largest share of a shape's pixels that others may hide, 0..0.8; at 0 shapes keep 2 px apart.
        repeat: probability that a shape takes an earlier one's color and form.
        noise: largest pixel noise, 0..60 grey levels.
        backgrounds, shapes, colors, sizes: the words to draw from.
        excluded_pairs: (color, shape) never painted (see `held_out_pairs`).
        needs_sentence: every picture holds a shape that has doubles and that only a relation tells apart from them.

    Raises:
        DataError: for a value outside its range, an unknown word, or if no (color, shape) is left.
    """

    seed: int = 0
    split: str = "train"
    image_size: int | tuple[int, int] = 128
    num_objects: tuple[int, int] = (2, 6)
    max_overlap: float = 0.15
    repeat: float = 0.35
    noise: int = 6
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    shapes: tuple[str, ...] = SHAPES
    colors: tuple[str, ...] = tuple(COLORS)
    sizes: tuple[str, ...] = tuple(SIZES)
    excluded_pairs: frozenset[tuple[str, str]] = frozenset()
    needs_sentence: bool = False

    def __post_init__(self) -> None:
        generator(self.seed)
        if not self.split or not isinstance(self.split, str):
            raise DataError(f"split must be a word, got {self.split!r}")
        if min(self.size) < _MIN_SIDE:
            raise DataError(f"image_size {self.image_size} is too small for shapes; use at least {_MIN_SIDE}")
        low, high = self.num_objects
        if not 0 <= low <= high <= 20:
            raise DataError(f"num_objects must be (fewest, most) within 0..20, got {self.num_objects}")
        ranges = (("max_overlap", self.max_overlap, 0.8), ("repeat", self.repeat, 1.0), ("noise", self.noise, 60))
        for name, value, most in ranges:
            if not 0 <= value <= most:
                raise DataError(f"{name} must be within 0..{most}, got {value}")
        for what, known in (("backgrounds", BACKGROUNDS), ("shapes", SHAPES), ("colors", COLORS), ("sizes", SIZES)):
            check_names(what, getattr(self, what), tuple(known))
        for pair in self.excluded_pairs:
            if len(pair) != 2 or pair[0] not in COLORS or pair[1] not in SHAPES:
                raise DataError(f"excluded_pairs: {pair!r} is no (color, shape)")
        if not self.pairs:
            raise DataError("excluded_pairs leaves no color and shape to paint")
        if self.needs_sentence and (high < 3 or len(self.pairs) < 2):
            raise DataError("needs_sentence asks for num_objects of 3 or more and two different looks")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        height, width = self.image_size
        return int(height), int(width)

    @cached_property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every (color, shape) that may be painted."""
        every = ((c, s) for c in self.colors for s in self.shapes)
        return tuple(p for p in every if p not in self.excluded_pairs)

    def scene(self, index: int) -> Scene:
        """Return picture number `index`.

        Raises:
            DataError: if `needs_sentence` cannot be met (shapes too large for the canvas), or the index is negative.
        """
        rng = generator(self.seed, self.split, index)
        objects = self._objects(rng)
        background = str(self.backgrounds[rng.integers(len(self.backgrounds))])
        image = paint_scene(rng, objects, self.size, background, self.noise)
        return Scene(
            image=image,
            objects=objects,
            background=background,
            seed=self.seed,
            split=self.split,
            index=int(index),
            pairs=self.pairs,
        )

    def scenes(self, num: int, *, start: int = 0) -> Iterator[Scene]:
        """Yield pictures `start` to `start + num - 1`."""
        return (self.scene(i) for i in range(start, start + num))

    def _looks(self, rng: object) -> list[Look]:
        low, high = self.num_objects
        if not self.needs_sentence:
            count = int(rng.integers(low, high + 1))
            return choose_looks(rng, count=count, pairs=self.pairs, sizes=self.sizes, repeat=self.repeat)
        count = int(rng.integers(max(low, 3), high + 1))
        doubles = int(rng.integers(2, min(3, count - 1) + 1))
        picked = rng.choice(len(self.pairs), size=2, replace=False)
        twin, landmark = self.pairs[picked[0]], self.pairs[picked[1]]
        sizes = [str(self.sizes[rng.integers(len(self.sizes))]) for _ in range(doubles + 1)]
        looks = [(*pair, size) for pair, size in zip([landmark] + [twin] * doubles, sizes, strict=True)]
        others = [p for p in self.pairs if p not in (twin, landmark)]
        if others and count > len(looks):
            more = count - len(looks)
            looks += choose_looks(rng, count=more, pairs=others, sizes=self.sizes, repeat=self.repeat)
        return looks

    def _objects(self, rng: object) -> tuple[SceneObject, ...]:
        for _ in range(_ATTEMPTS):
            objects = lay_out(rng, self._looks(rng), self.size, self.max_overlap)
            if not self.needs_sentence or sentence_needed(objects):
                return objects
        raise DataError(
            f"no picture of {self.size} with num_objects={self.num_objects} has a shape that only a relation tells"
            " apart; allow small sizes or fewer objects"
        )
