"""Box rules: what a data set's annotators draw a box around."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from openvocab.errors import DataError, nearest

Box = tuple[float, float, float, float]  # XYXY pixels


def _scaled(box: Box, across: float, down: float) -> Box:
    """Scale a box about its centre."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    w, h = (box[2] - box[0]) * across / 2, (box[3] - box[1]) * down / 2
    return x - w, y - h, x + w, y + h


def _square(box: Box, amount: float) -> Box:
    w, h = box[2] - box[0], box[3] - box[1]
    side = max(w, h) * amount
    return _scaled(box, side / w, side / h)


@dataclass(frozen=True)
class _Kind:
    of_visible: bool
    amount: float | None
    flags: tuple[str, ...]
    change: Callable[[Box, float], Box]


# name -> from the visible part?, default amount (None: takes none), convention flags of the hub, box -> box
_KINDS: dict[str, _Kind] = {
    "tight": _Kind(False, None, ("amodal", "tight"), lambda box, _: box),
    "visible": _Kind(True, None, ("visible", "tight"), lambda box, _: box),
    "loose": _Kind(False, 1.3, ("amodal", "loose"), lambda box, a: _scaled(box, a, a)),
    "center_half": _Kind(False, 0.5, ("parts",), lambda box, a: _scaled(box, a, a)),
    "square": _Kind(False, 1.0, ("amodal", "square"), _square),
    "upper": _Kind(False, 0.55, ("parts",), lambda box, a: (box[0], box[1], box[2], box[1] + a * (box[3] - box[1]))),
}
RULES: tuple[str, ...] = tuple(_KINDS)


@dataclass(frozen=True)
class BoxRule:
    """A box rule.

    Attributes:
        kind: "tight" (the full extent, hidden parts too), "visible" (the extent of the visible part, as COCO),
            "loose" (tight, scaled about its centre), "center_half" (the middle of tight), "square" (around tight,
            with its longer side), "upper" (the upper part of tight).
        amount: the scale, or for "upper" the share of the height; None for the kinds that have none.

    Raises:
        DataError: for an unknown kind or an amount that makes no box.
    """

    kind: str
    amount: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise DataError(f"there is no box rule '{self.kind}'.{nearest(self.kind, RULES)} Known: {', '.join(RULES)}")
        default = _KINDS[self.kind].amount
        if self.amount is None:
            object.__setattr__(self, "amount", default)
        elif default is None:
            raise DataError(f"the box rule '{self.kind}' takes no amount, got {self.amount}")
        elif not (math.isfinite(self.amount) and self.amount > 0):
            raise DataError(f"the amount of the box rule '{self.kind}' must be more than 0, got {self.amount}")

    @property
    def flags(self) -> tuple[str, ...]:
        """What the rule is called in a hub of data sets: "amodal", "visible", "tight", "loose", "parts", "square"."""
        return _KINDS[self.kind].flags

    def __call__(self, full_box: Box, visible_box: Box, size: tuple[int, int]) -> Box:
        """Return the box that the rule draws.

        Args:
            full_box: the object's full extent, XYXY pixels.
            visible_box: the extent of its visible part.
            size: (H, W); the box is cut off at the picture's border.
        """
        kind = _KINDS[self.kind]
        x0, y0, x1, y1 = kind.change(visible_box if kind.of_visible else full_box, self.amount)
        return max(0.0, float(x0)), max(0.0, float(y0)), min(float(size[1]), float(x1)), min(float(size[0]), float(y1))


def get_rule(rule: str | BoxRule) -> BoxRule:
    """Return a rule by name, "tight", or by name and amount, "loose:1.4".

    Raises:
        DataError: as `BoxRule`, or for an amount that is no number.
    """
    if isinstance(rule, BoxRule):
        return rule
    kind, colon, amount = rule.partition(":")
    try:
        return BoxRule(kind, float(amount) if colon else None)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the box rule '{rule}': '{amount}' is no number") from error
