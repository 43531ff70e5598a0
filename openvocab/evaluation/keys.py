"""Names of results: the one place where they are spelled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

BOX, MASK = "bbox", "segm"
HEADLINE = ("AP", "AP50", "AP75", "APs", "APm", "APl")
PER_CLASS = ("AP", "AP50")
FREQUENCIES = {"r": "APr", "c": "APc", "f": "APf"}
OVD, FIXED, ODINW, REFERRING = "ovd", "fixed", "odinw", "referring"
RECALL, ANY_BOX, MERGED_BOX = "recall", "any", "merged"
BASE, NOVEL, ALL = "base", "novel", "all"
VQA, CAPTION, CONSTANT, LINKS = "vqa", "caption", "constant", "links"


def class_key(metric: str, name: str) -> str:
    """Return the key of one class's result, such as "AP50-cat"; also of one set among several."""
    return f"{metric}-{name}"


def protocol_kind(kind: str, protocol: str) -> str:
    """Return the kind of a protocol that must never be taken for the plain one, such as "bbox_fixed"."""
    return f"{kind}_{protocol}"


def group_key(metric: str, group: str, *, alone: bool = False) -> str:
    """Return the key of a group of classes: "AP50_novel", or "AP50_novel_only" where no other names were looked for."""
    return f"{metric}_{group}{'_only' if alone else ''}"


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


def protocol_numbers(values: Mapping[str, float]) -> dict[str, float]:
    """Return what is neither a headline number nor that of one class: APr, AP50_novel, AP_mean, ..."""
    return {k: v for k, v in values.items() if k not in HEADLINE and "-" not in k}


def mean_of(values: Iterable[float]) -> float:
    """Mean of the defined values; nan if there is none."""
    defined = [v for v in values if not math.isnan(v)]
    return sum(defined) / len(defined) if defined else float("nan")


def median_of(values: Iterable[float]) -> float:
    """Median of the defined values; nan if there is none."""
    defined = sorted(v for v in values if not math.isnan(v))
    if not defined:
        return float("nan")
    middle = len(defined) // 2
    return defined[middle] if len(defined) % 2 else (defined[middle - 1] + defined[middle]) / 2
