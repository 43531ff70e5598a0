"""Short clips in which one shape does something."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from openvocab.errors import DataError

from .backgrounds import BACKGROUNDS, paint_background
from .language import article
from .scenes import Look, SceneObject, add_noise, choose_looks, lay_out, paint
from .seeding import generator
from .shapes import COLORS, SHAPES, check_names, mask_box, shape_mask

# action -> what it reads like in a text
ACTIONS: dict[str, str] = {
    "move left": "moves left",
    "move right": "moves right",
    "move up": "moves up",
    "move down": "moves down",
    "grow": "grows",
    "shrink": "shrinks",
    "rotate": "rotates",
    "blink": "blinks",
}
_DIRECTION = {"move left": (-1, 0), "move right": (1, 0), "move up": (0, -1), "move down": (0, 1)}
_TURNING_SHOWS = tuple(s for s in SHAPES if s not in ("circle", "ring", "hexagon"))
_MIN_SIDE, _MIN_FRAMES = 32, 4


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip; T frames.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB.
        action: one of `ACTIONS`.
        label: its position in `ACTIONS`.
        shape, color: of the thing that acts; nothing else in the clip has both.
        masks: (T, H, W) bool, its pixels; none in the frames in which a blinking thing is off.
        index: the clip's number.
    """

    frames: np.ndarray = field(repr=False)
    action: str
    label: int
    shape: str
    color: str
    masks: np.ndarray = field(repr=False)
    index: int

    @property
    def boxes(self) -> np.ndarray:
        """(T, 4) float32 XYXY pixels; zeros where the thing is off."""
        return np.array([mask_box(m) for m in self.masks], dtype=np.float32)

    @property
    def text(self) -> str:
        """A caption: "a red circle moves left"."""
        return f"{article(self.color)} {self.color} {self.shape} {ACTIONS[self.action]}"


@dataclass(frozen=True)
class _Path:
    """The actor in every frame: (T, 2) centres in pixels, (T,) radii in pixels, (T,) angles, (T,) seen or not."""

    centers: np.ndarray
    radii: np.ndarray
    angles: np.ndarray
    seen: np.ndarray


def _still(rng: np.random.Generator, side: int, frames: int, radius: float) -> _Path:
    outer = radius * 1.45  # room for any angle
    center = rng.uniform(outer, side - outer, 2)
    angle = rng.uniform(-0.2, 0.2)
    shown = np.ones(frames, dtype=bool)
    return _Path(np.tile(center, (frames, 1)), np.full(frames, radius), np.full(frames, angle), shown)


def _move(rng: np.random.Generator, side: int, frames: int, action: str) -> _Path:
    path = _still(rng, side, frames, rng.uniform(0.12, 0.18) * side)
    outer, length = path.radii[0] * 1.1, rng.uniform(0.3, 0.5) * side
    along = np.array(_DIRECTION[action], dtype=float)
    step = (along + rng.uniform(-0.15, 0.15) * along[::-1]) * length
    low, high = outer + np.maximum(0, -step), side - outer - np.maximum(0, step)
    start = rng.uniform(low, high)
    return _Path(start + np.linspace(0, 1, frames)[:, None] * step, path.radii, path.angles, path.seen)


def _resize(rng: np.random.Generator, side: int, frames: int, action: str) -> _Path:
    small = rng.uniform(0.08, 0.12) * side
    radii = np.linspace(small, small * rng.uniform(1.8, 2.3), frames)
    path = _still(rng, side, frames, radii[-1])
    return _Path(path.centers, radii if action == "grow" else radii[::-1], path.angles, path.seen)


def _rotate(rng: np.random.Generator, side: int, frames: int, action: str) -> _Path:
    path = _still(rng, side, frames, rng.uniform(0.14, 0.2) * side)
    step = math.radians(rng.uniform(7, 12)) * rng.choice([-1, 1])
    return _Path(path.centers, path.radii, path.angles + step * np.arange(frames), path.seen)


def _blink(rng: np.random.Generator, side: int, frames: int, action: str) -> _Path:
    path = _still(rng, side, frames, rng.uniform(0.12, 0.2) * side)
    half = max(1, frames // int(rng.integers(4, 7)))
    return _Path(path.centers, path.radii, path.angles, (np.arange(frames) // half) % 2 == 0)


_PATHS: dict[str, Callable[[np.random.Generator, int, int, str], _Path]] = {
    **dict.fromkeys(_DIRECTION, _move),
    "grow": _resize,
    "shrink": _resize,
    "rotate": _rotate,
    "blink": _blink,
}


@dataclass(frozen=True, kw_only=True)
class ClipWorld:
    """Clips by number; every action comes once in each run of as many clips as there are actions.

    Attributes:
        seed: 0 or more.
        split: any word; splits share no clip.
        frames: T, at least 4.
        image_size: the side, pixels, at least 32.
        actions: the actions to draw from.
        distractors: (fewest, most) shapes that do nothing.
        noise: largest pixel noise, 0..60; new in every frame.

    Raises:
        DataError: for a value outside its range or an unknown action.
    """

    seed: int = 0
    split: str = "train"
    frames: int = 16
    image_size: int = 64
    actions: tuple[str, ...] = tuple(ACTIONS)
    distractors: tuple[int, int] = (0, 2)
    noise: int = 6

    def __post_init__(self) -> None:
        generator(self.seed)
        check_names("actions", self.actions, tuple(ACTIONS))
        if self.frames < _MIN_FRAMES or self.image_size < _MIN_SIDE:
            raise DataError(
                f"a clip needs {_MIN_FRAMES} frames of {_MIN_SIDE} pixels or more,"
                f" got frames={self.frames}, image_size={self.image_size}"
            )
        low, high = self.distractors
        if not 0 <= low <= high <= 10 or not 0 <= self.noise <= 60:
            raise DataError(f"distractors={self.distractors} must lie within 0..10, noise={self.noise} within 0..60")

    def clip(self, index: int) -> Clip:
        """Return clip number `index`."""
        rng = generator(self.seed, self.split, index, "clip")
        turn, place = divmod(int(index), len(self.actions))
        order = generator(self.seed, self.split, turn, "actions").permutation(len(self.actions))
        action = self.actions[order[place]]
        actor, others = self._cast(rng, action)
        path = _PATHS[action](rng, self.image_size, self.frames, action)
        masks = np.stack([self._actor_mask(actor[1], path, t) for t in range(self.frames)])
        return Clip(
            frames=self._film(rng, actor, others, masks),
            action=action,
            label=tuple(ACTIONS).index(action),
            shape=actor[1],
            color=actor[0],
            masks=masks,
            index=int(index),
        )

    def clips(self, num: int, *, start: int = 0) -> Iterator[Clip]:
        """Yield clips `start` to `start + num - 1`."""
        return (self.clip(i) for i in range(start, start + num))

    def _cast(self, rng: np.random.Generator, action: str) -> tuple[Look, list[Look]]:
        shapes, colors = (_TURNING_SHOWS if action == "rotate" else SHAPES), tuple(COLORS)
        actor = (colors[rng.integers(len(colors))], shapes[rng.integers(len(shapes))], "medium")
        pairs = [(c, s) for c in colors for s in SHAPES if (c, s) != actor[:2]]
        count = int(rng.integers(self.distractors[0], self.distractors[1] + 1))
        return actor, choose_looks(rng, count=count, pairs=pairs, sizes=("small", "medium"), repeat=0.0)

    def _actor_mask(self, shape: str, path: _Path, t: int) -> np.ndarray:
        size, radius = (self.image_size, self.image_size), float(path.radii[t])
        if not path.seen[t]:
            return np.zeros(size, dtype=bool)
        x, y = path.centers[t]
        return shape_mask(shape, size, (float(x), float(y)), (radius, radius), float(path.angles[t]))

    def _film(self, rng: np.random.Generator, actor: Look, others: list[Look], masks: np.ndarray) -> np.ndarray:
        """Paint (T, H, W, 3): the same background and distractors in every frame, the actor in front."""
        size = (self.image_size, self.image_size)
        kind = tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
        still: tuple[SceneObject, ...] = lay_out(rng, others, size, 0.0)
        stage = paint(rng, still, paint_background(rng, kind, *size), 0).astype(np.int16)
        film = np.repeat(stage[None], len(masks), axis=0)
        film[masks] = COLORS[actor[0]]
        return add_noise(rng, film, self.noise)
