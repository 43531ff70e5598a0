"""Coloured shapes as pixels: names, colours, sizes, and the exact set of pixels a shape covers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from openvocab.errors import DataError, nearest

# name -> RGB, 0..255; far from each other and from the grey backgrounds
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 40),
    "green": (36, 150, 58),
    "blue": (40, 72, 214),
    "yellow": (240, 216, 40),
    "orange": (246, 136, 16),
    "purple": (130, 44, 172),
    "pink": (250, 152, 196),
    "cyan": (48, 202, 216),
    "brown": (108, 64, 30),
    "white": (244, 244, 244),
}
# name -> lowest and highest radius, as a share of the picture's shorter side
SIZES: dict[str, tuple[float, float]] = {"small": (0.075, 0.090), "medium": (0.125, 0.145), "large": (0.190, 0.220)}
ROUND = ("circle", "ring", "heart", "crescent")

Array = np.ndarray


def _star(u: Array, v: Array) -> Array:
    """A pentagram: the points inside at least four of the five half planes that its long edges bound."""
    angles = -math.pi / 2 + 2 * math.pi / 5 * np.arange(5)
    inside = np.zeros(u.shape, dtype=np.int8)
    for a in angles:
        inside += u * math.cos(a) + v * math.sin(a) <= math.cos(2 * math.pi / 5)
    return inside >= 4


def _triangle(u: Array, v: Array) -> Array:
    return (v <= 0.8) & (np.abs(u) <= 0.95 * (v + 1.0) / 1.8)


def _cross(u: Array, v: Array) -> Array:
    x, y = np.abs(u), np.abs(v)
    return (np.maximum(x, y) <= 0.95) & (np.minimum(x, y) <= 0.32)


def _hexagon(u: Array, v: Array) -> Array:
    x, y = np.abs(u), np.abs(v)
    return (y <= 0.866) & (0.5 * y + 0.866 * x <= 0.866)


def _heart(u: Array, v: Array) -> Array:
    """Two discs, and a wedge that touches them both from below."""
    x = np.abs(u)
    lobes = (x - 0.48) ** 2 + (v + 0.42) ** 2 <= 0.25
    between = (v >= -0.42) & (v <= 0.0) & (x <= 0.5)
    return lobes | between | ((v >= -0.102) & (x <= 0.823 * (0.95 - v)))


def _ring(u: Array, v: Array) -> Array:
    r = u * u + v * v
    return (r <= 1.0) & (r >= 0.55**2)


def _crescent(u: Array, v: Array) -> Array:
    return (u * u + v * v <= 1.0) & ((u - 0.5) ** 2 + v * v >= 0.8**2)


def _person(u: Array, v: Array) -> Array:
    """Head, torso down to 55 % of the height, two legs; fills the window [-1, 1] x [-1, 1]."""
    x = np.abs(u)
    head = (u / 0.5) ** 2 + ((v + 0.78) / 0.22) ** 2 <= 1.0
    torso = (v >= -0.56) & (v <= 0.1) & (x <= 1.0)
    return head | torso | ((v > 0.1) & (v <= 1.0) & (x >= 0.2) & (x <= 0.8))


# name -> is the point (u right, v down; the unit window is [-1, 1] x [-1, 1]) inside?
_INSIDE: dict[str, Callable[[Array, Array], Array]] = {
    "circle": lambda u, v: u * u + v * v <= 1.0,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= 0.86,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "diamond": lambda u, v: np.abs(u) / 0.72 + np.abs(v) <= 1.0,
    "hexagon": _hexagon,
    "heart": _heart,
    "crescent": _crescent,
    "person": _person,
    "ball": lambda u, v: u * u + v * v <= 1.0,
    "box": lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= 1.0,
    "cone": lambda u, v: (v <= 1.0) & (np.abs(u) <= 0.5 * (v + 1.0)),
}
SHAPES: tuple[str, ...] = tuple(_INSIDE)[:10]
FIGURES: tuple[str, ...] = tuple(_INSIDE)[10:]


def check_names(what: str, names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return `names` as a tuple.

    Raises:
        DataError: for a string in place of a list, no names, one that is not `known`, or one that is there twice.
    """
    if isinstance(names, str) or len(names) == 0:
        raise DataError(f"{what} must be a list of at least one name, got {names!r}")
    for name in names:
        if name not in known:
            raise DataError(f"{what}: there is no '{name}'.{nearest(name, known)} Known: {', '.join(known)}")
    if len(set(names)) != len(names):
        raise DataError(f"{what} names something twice: {list(names)}")
    return tuple(names)


def shape_mask(
    kind: str,
    size: tuple[int, int],
    center: tuple[float, float],
    radii: tuple[float, float],
    angle: float = 0.0,
) -> Array:
    """Return the pixels a shape covers: those whose centre lies inside it.

    Args:
        kind: one of `SHAPES` or `FIGURES`.
        size: (H, W) of the canvas.
        center: (x, y) in pixels; the centre of the top left pixel is (0.5, 0.5).
        radii: half the width and half the height of the unit window, in pixels.
        angle: clockwise, in radians.

    Returns:
        (H, W) bool.

    Raises:
        DataError: for an unknown kind.
    """
    if kind not in _INSIDE:
        raise DataError(f"there is no shape '{kind}'.{nearest(kind, _INSIDE)}")
    (height, width), (cx, cy) = size, center
    reach = max(radii) * (math.sqrt(2.0) if angle else 1.0)
    x0, x1 = max(0, math.floor(cx - reach)), min(width, math.ceil(cx + reach))
    y0, y1 = max(0, math.floor(cy - reach)), min(height, math.ceil(cy + reach))
    mask = np.zeros(size, dtype=bool)
    if x0 >= x1 or y0 >= y1:
        return mask
    x = (np.arange(x0, x1) + 0.5 - cx)[None, :]
    y = (np.arange(y0, y1) + 0.5 - cy)[:, None]
    cos, sin = math.cos(angle), math.sin(angle)
    mask[y0:y1, x0:x1] = _INSIDE[kind]((x * cos + y * sin) / radii[0], (y * cos - x * sin) / radii[1])
    return mask


def mask_box(mask: Array) -> tuple[int, int, int, int]:
    """Return the extent of a mask (H, W) as XYXY pixels: right and bottom are one past the last pixel.

    An empty mask gives (0, 0, 0, 0).
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if len(columns) == 0:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
