"""Names of results: the one place where they are spelled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

BOX, MASK = "bbox", "segm"
HEADLINE = ("AP", "AP50", "AP75", "APs", "APm", "APl")
PER_CLASS = ("AP", "AP50")


def class_key(metric: str, name: str) -> str:
    """Return the key of one class's result, such as "AP50-cat"."""
    return f"{metric}-{name}"


def percent(value: float) -> float:
    """COCO's -1 (undefined) becomes nan, all else percent."""
    return float("nan") if value < 0 else 100.0 * float(value)


def flatten(results: Mapping, prefix: str = "") -> dict[str, float]:
    """Turn nested results into {"bbox/AP50": 12.3, ...}."""
    flat: dict[str, float] = {}
    for key, value in results.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}/") if isinstance(value, Mapping) else {name: float(value)})
    return flat


def mean_of(values: Iterable[float]) -> float:
    """Mean of the defined values; nan if there is none."""
    defined = [v for v in values if not math.isnan(v)]
    return sum(defined) / len(defined) if defined else float("nan")
