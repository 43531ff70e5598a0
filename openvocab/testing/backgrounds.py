"""Grey backgrounds: plain, and with faint textures."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


def _plain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return np.zeros((height, width), dtype=np.float32)


def _wave(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    angle = rng.uniform(0, math.pi)
    along = np.arange(width, dtype=np.float32)[None, :] * math.cos(angle)
    across = np.arange(height, dtype=np.float32)[:, None] * math.sin(angle)
    return np.sin((along + across) * (2 * math.pi / period) + rng.uniform(0, 2 * math.pi)).astype(np.float32)


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return _wave(rng, height, width, rng.uniform(2.0, 4.0) * max(height, width))


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return np.sign(_wave(rng, height, width, rng.uniform(6.0, 16.0)))


def _checks(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    cell = int(rng.integers(4, 11))
    odd = (np.arange(height)[:, None] // cell + np.arange(width)[None, :] // cell) % 2
    return (2.0 * odd - 1.0).astype(np.float32)


def _clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth noise: a coarse random grid, interpolated linearly."""
    rows, columns = max(2, height // 16), max(2, width // 16)
    coarse = rng.uniform(-1.2, 1.2, (rows + 1, columns + 1)).astype(np.float32)
    y, x = np.linspace(0, rows - 1e-3, height), np.linspace(0, columns - 1e-3, width)
    i, j = y.astype(int), x.astype(int)
    fy, fx = (y - i).astype(np.float32)[:, None], (x - j).astype(np.float32)
    rowwise = coarse[i] * (1 - fy) + coarse[i + 1] * fy
    return rowwise[:, j] * (1 - fx) + rowwise[:, j + 1] * fx


# word used in captions ("on a striped background") -> values in about [-1, 1], (H, W) float32
BACKGROUNDS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "plain": _plain,
    "shaded": _gradient,
    "striped": _stripes,
    "checkered": _checks,
    "cloudy": _clouds,
}


def paint_background(rng: np.random.Generator, kind: str, height: int, width: int) -> np.ndarray:
    """Return a grey picture, (H, W, 3) int16 with values of about 90..165, slightly tinted."""
    level, contrast = rng.uniform(108, 148), rng.uniform(6, 13)
    tint = rng.uniform(-5, 5, 3).astype(np.float32)
    texture = BACKGROUNDS[kind](rng, height, width)
    return (level + contrast * texture[..., None] + tint).astype(np.int16)
