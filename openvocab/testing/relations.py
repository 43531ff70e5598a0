"""Where things lie relative to each other, in two strengths: what we say, and what nobody could deny or maintain.

`relation` is what captions and questions state; `holds_at_all` is the weakest reading a person could give to the same
words. A sentence is unambiguous if its target fits the first and no other candidate fits the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .scenes import SceneObject

RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
DOMINANCE = 1.3  # how many times farther along one axis than along the other
MARGIN = 0.10  # least distance of the centres, as a share of the picture's shorter side


def _offset(a: SceneObject, b: SceneObject) -> tuple[float, float]:
    """Return b's centre minus a's, (dx, dy) in pixels; centres are those of the full boxes."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.full_box, b.full_box
    return (bx0 + bx1 - ax0 - ax1) / 2, (by0 + by1 - ay0 - ay1) / 2


def relation(a: SceneObject, b: SceneObject) -> str | None:
    """Return how `a` lies to `b` ("left of": a is left of b), or None where the direction is not clear."""
    dx, dy = _offset(a, b)
    far = MARGIN * min(a.full.shape)
    if abs(dx) >= DOMINANCE * abs(dy) and abs(dx) >= far:
        return "left of" if dx > 0 else "right of"
    if abs(dy) >= DOMINANCE * abs(dx) and abs(dy) >= far:
        return "above" if dy > 0 else "below"
    return None


def holds_at_all(a: SceneObject, words: str, b: SceneObject) -> bool:
    """Say whether a's centre is on that side of b's centre at all, however little and however far off to the side."""
    dx, dy = _offset(a, b)
    return {"left of": dx > 0, "right of": dx < 0, "above": dy > 0, "below": dy < 0}[words]


def relations_of(objects: Sequence[SceneObject]) -> list[tuple[int, str, int]]:
    """Return (i, words, j) for every ordered pair with a clear direction: object i lies `words` object j."""
    found = []
    for i, a in enumerate(objects):
        for j, b in enumerate(objects):
            words = relation(a, b) if i != j else None
            if words:
                found.append((i, words, j))
    return found
