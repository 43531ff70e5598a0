"""Vocabularies that ship with the package, as json files beside this module, or come with detectron2.

Names are the data sets' own. Two things no data set should have are mended by rule: a blank name becomes "(unnamed)",
and a name that equals an earlier one but for blanks gets a number, "o (2)".
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources

from openvocab.errors import VocabularyError, nearest

from .vocabulary import Vocabulary

_SIMPLE = ("coco", "coco_mini", "coco_ovd_48", "coco_ovd_17", "coco_ovd_65", "lvis", "objects365", "openimages", "voc")
_FAMILIES = {"odinw13": "odinw13/", "odinw35": "odinw35/", "small_sets": ""}


@lru_cache(maxsize=16)
def _read(name: str) -> dict:
    text = resources.files("openvocab.vocabulary").joinpath(f"data/{name}.json").read_text(encoding="utf-8")
    return json.loads(text)


def _coco() -> Vocabulary:
    """COCO's 80 names in category-id order, marked base (48), novel (17) or neither (15)."""
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    names = [c["name"] for c in COCO_CATEGORIES if c["isthing"]]
    ovd = _read("coco_ovd")
    marks = {**dict.fromkeys(ovd["base"], "base"), **dict.fromkeys(ovd["novel"], "novel")}
    return Vocabulary.from_names(names, splits=[marks.get(n) for n in names])


def _coco_ovd(which: str) -> Vocabulary:
    """The part of COCO's names that is base, novel, or either, in COCO's order."""
    coco = _coco()
    wanted = {"48": ("base",), "17": ("novel",), "65": ("base", "novel")}[which]
    return coco.subset([i for i, s in enumerate(coco.splits) if s in wanted])


def _lvis() -> Vocabulary:
    """LVIS v1's 1203 names in id order: frequency groups, synonyms as aliases, rare ones marked novel."""
    from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

    rows = sorted(LVIS_CATEGORIES, key=lambda c: c["id"])
    names = [c.get("name", c["synonyms"][0]) for c in rows]
    return Vocabulary.from_names(
        names,
        aliases=[[s for s in c["synonyms"] if s != n] for c, n in zip(rows, names, strict=True)],
        frequencies=[c["frequency"] for c in rows],
        splits=["novel" if c["frequency"] == "r" else "base" for c in rows],
    )


def builtin_names() -> list[str]:
    """Names that `load_builtin` knows."""
    return [*_SIMPLE, *(prefix + key for file, prefix in _FAMILIES.items() for key in _read(file)["sets"])]


def load_builtin(name: str) -> Vocabulary:
    """Return a built-in vocabulary.

    Raises:
        VocabularyError: with the nearest names.
    """
    known = builtin_names()
    if not isinstance(name, str) or name not in known:
        hint = f"{nearest(name, known)} Known: {', '.join(known[:12])}, ..."
        raise VocabularyError(f"there is no built-in vocabulary '{name}' and no such file.{hint}")
    return _load(name)


@lru_cache(maxsize=128)
def _load(name: str) -> Vocabulary:
    if name in ("coco", "coco_mini"):
        return _coco()
    if name.startswith("coco_ovd_"):
        return _coco_ovd(name.removeprefix("coco_ovd_"))
    if name == "lvis":
        return _lvis()
    if name in _SIMPLE:
        return Vocabulary.from_dict({k: v for k, v in _read(name).items() if k != "source"})
    file, prefix = next((f, p) for f, p in _FAMILIES.items() if name.startswith(p))
    return Vocabulary.from_dict(_read(file)["sets"][name.removeprefix(prefix)])
