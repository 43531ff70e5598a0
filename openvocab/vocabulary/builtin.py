"""Vocabularies that ship with the package, as json files beside this module, or come with detectron2."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources

from openvocab.errors import VocabularyError, nearest

from .vocabulary import Vocabulary

_SIMPLE = ("coco", "coco_ovd_48", "coco_ovd_17", "coco_ovd_65", "lvis", "objects365", "voc")
_FAMILIES = {"odinw13": "odinw13/", "odinw35": "odinw35/", "small_sets": ""}


@lru_cache(maxsize=16)
def _read(name: str) -> dict:
    return json.loads(resources.files("openvocab.vocabulary").joinpath(f"data/{name}.json").read_text(encoding="utf-8"))


def _coco() -> Vocabulary:
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    names = [c["name"] for c in COCO_CATEGORIES if c["isthing"]]
    ovd = _read("coco_ovd")
    return Vocabulary.from_names(
        names, splits=["base" if n in ovd["base"] else "novel" if n in ovd["novel"] else None for n in names]
    )


def _coco_ovd(which: str) -> Vocabulary:
    """The part of COCO's names that is base, novel, or either, in COCO's order."""
    coco = _coco()
    wanted = {"48": ("base",), "17": ("novel",), "65": ("base", "novel")}[which]
    return coco.subset([i for i, s in enumerate(coco.splits) if s in wanted])


def _lvis() -> Vocabulary:
    from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

    rows = sorted(LVIS_CATEGORIES, key=lambda c: c["id"])
    # two pairs of synsets share a spelling after cleaning ("bow", "crab", ...); names keep what tells them apart
    names = [c["name"] if "name" in c else c["synonyms"][0] for c in rows]
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        if name in seen:
            names[i] = f"{name} ({rows[i]['synset']})"
        seen[name] = i
    return Vocabulary.from_names(
        names,
        aliases=[tuple(s for s in c["synonyms"] if s != n) for c, n in zip(rows, names, strict=True)],
        frequencies=[c["frequency"] for c in rows],
        splits=["novel" if c["frequency"] == "r" else "base" for c in rows],
    )


def builtin_names() -> list[str]:
    """Names that `load_builtin` knows."""
    names = list(_SIMPLE)
    for file, prefix in _FAMILIES.items():
        names += [prefix + key for key in _read(file)["sets"]]
    return names


@lru_cache(maxsize=128)
def load_builtin(name: str) -> Vocabulary:
    """Return a built-in vocabulary.

    Raises:
        VocabularyError: with the nearest names.
    """
    if name in ("coco", "coco_mini"):
        return _coco()
    if name.startswith("coco_ovd_") and name in _SIMPLE:
        return _coco_ovd(name.removeprefix("coco_ovd_"))
    if name == "lvis":
        return _lvis()
    if name in _SIMPLE:
        content = {k: v for k, v in _read(name).items() if k != "source"}
        return Vocabulary.from_dict(content)
    for file, prefix in _FAMILIES.items():
        key = name.removeprefix(prefix)
        if name.startswith(prefix) and key in _read(file)["sets"]:
            return Vocabulary.from_dict(_read(file)["sets"][key])
    known = builtin_names()
    raise VocabularyError(f"there is no built-in vocabulary '{name}' and no such file.{nearest(name, known)} Known: {', '.join(known[:12])}, ...")
