"""Precision at 101 recalls, from whatever computed it, and the averages that are made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .keys import ALL, FREQUENCIES, HEADLINE, class_key, group_key, percent

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = 101
SIZES = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class Precision:
    """Precision of each category.

    Attributes:
        values: (10, 101, K, 4): IoU 0.50:0.95, recall 0:1, category, size; -1 where there is nothing to find.
        categories: K category ids.
    """

    values: np.ndarray
    categories: Sequence[int]

    def average(self, *, iou: float | None = None, size: int = 0, categories: Iterable[int] | None = None) -> float:
        """Return the mean over what is defined, in percent; nan if nothing is.

        Args:
            iou: only this one; None: all ten.
            size: place in `SIZES`.
            categories: only these ids.
        """
        part = self.values[..., size]
        if iou is not None:
            part = part[[int(np.argmin(np.abs(IOUS - iou)))]]
        if categories is not None:
            wanted = set(categories)
            part = part[:, :, [k for k, c in enumerate(self.categories) if c in wanted]]
        part = part[part > -1]
        return percent(part.mean() if part.size else -1.0)


def headline(precision: Precision) -> dict[str, float]:
    """Return AP, AP50, AP75 and AP of small, medium and large things."""
    average = precision.average
    whole = (average(), average(iou=0.5), average(iou=0.75))
    return dict(zip(HEADLINE, (*whole, *(average(size=s) for s in (1, 2, 3))), strict=True))


def by_class(precision: Precision, names: Mapping[int, str]) -> dict[str, float]:
    """Return "AP-<name>" and "AP50-<name>" of every category."""
    result = {}
    for category in precision.categories:
        result[class_key("AP", names[category])] = precision.average(categories=[category])
        result[class_key("AP50", names[category])] = precision.average(categories=[category], iou=0.5)
    return result


def by_frequency(precision: Precision, frequencies: Mapping[int, str]) -> dict[str, float]:
    """Return APr, APc, APf (Gupta et al. 2019: categories in under 10, under 100, more training pictures)."""
    groups = {mark: [c for c, f in frequencies.items() if f == mark] for mark in FREQUENCIES}
    return {key: precision.average(categories=groups[mark]) for mark, key in FREQUENCIES.items()}


def by_group(precision: Precision, groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return AP50 and AP of several groups of categories, and of all of them together."""
    everything = {**groups, ALL: [c for group in groups.values() for c in group]}
    rows = {"AP50": 0.5, "AP": None}
    return {group_key(m, g): precision.average(iou=iou, categories=ids) for m, iou in rows.items() for g, ids in everything.items()}
