"""Detection Hub's claims: arms have the budgets they should, other rules other boxes, and a quick run writes every number."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from openvocab.data import get_records


@pytest.fixture
def parts(claims: ModuleType) -> ModuleType:
    return import_module("detection_hub_conventions")


@pytest.fixture
def fits(parts: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What would be trained: (arm, sets, steps)."""
    made: list[tuple] = []
    monkeypatch.setattr(parts, "build", lambda arm, hub, seed: (arm, hub.names))
    monkeypatch.setattr(parts, "fit", lambda model, hub, *, steps, seed: made.append((*model, steps)) or model)
    return made


def test_budgets_of_the_arms(parts: ModuleType, fits: list[tuple], tmp_path: Path) -> None:
    conventions = parts.Conventions(tmp_path, 0, parts.Budget(train=2, test=1, steps=12, same_names_steps=6))
    joint, separate = [], {}
    for arm in ("full", "sep_equal_compute", "sep_equal_steps"):
        fits.clear()
        for world in parts.WORLDS:
            conventions.fitted(arm, world)
            conventions.fitted(arm, world)  # is kept
        joint, separate[arm] = (list(fits), separate) if arm == "full" else (joint, list(fits))
    assert joint == [("full", ("A", "B", "C"), 12), ("full", ("full", "upper"), 6)]
    assert sum(s for _, _, s in separate["sep_equal_compute"]) == sum(s for _, _, s in joint)
    assert [s for _, _, s in separate["sep_equal_steps"]] == [12, 12, 12, 6, 6]
    assert [names for _, names, _ in separate["sep_equal_steps"]] == [("A",), ("B",), ("C",), ("full",), ("upper",)]
    assert {arm for arm, _, _ in separate["sep_equal_steps"]} == {"masked"}


def test_same_names_have_no_foreign_ones(parts: ModuleType, fits: list[tuple], tmp_path: Path) -> None:
    conventions = parts.Conventions(tmp_path, 0, parts.Budget(train=2, test=1, steps=20, same_names_steps=10))
    for arm in ("naive", "masked"):
        for world in parts.WORLDS:
            conventions.fitted(arm, world)
    assert [(arm, steps) for arm, _, steps in fits] == [("naive", 20), ("masked", 10), ("masked", 20)]


def test_unknown_sets_differ_in_boxes_alone(parts: ModuleType, tmp_path: Path) -> None:
    conventions = parts.Conventions(tmp_path, 3, parts.QUICK)
    for world, alike in ((parts.SAME, {"ball"}), (parts.DIFFERENT, set())):
        for own, other in parts.unknown_sets(world):
            assert own.classes == other.classes and own.flags != other.flags
            one, two = (get_records(conventions.split(s, "test")) for s in (own, other))
            changed = set()
            for a, b in zip(one, two, strict=True):
                assert Path(a["file_name"]).read_bytes() == Path(b["file_name"]).read_bytes()
                for x, y in zip(a["annotations"], b["annotations"], strict=True):
                    assert x["category_id"] == y["category_id"]
                    changed |= {own.classes[x["category_id"]]} if x["bbox"] != y["bbox"] else set()
            assert changed and not changed & alike


def test_sets_of_another_seed_are_others(parts: ModuleType, tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        conventions = parts.Conventions(tmp_path / str(seed), seed, parts.QUICK)
        records = get_records(conventions.split(parts.CONVENTION_SETS["A"], "train"))
        found.append([Path(r["file_name"]).read_bytes() for r in records])
    assert len(found[0]) == parts.QUICK.train and not set(found[0]) & set(found[1])


@pytest.mark.slow
def test_a_quick_run_measures_every_arm(claims: ModuleType, tmp_path: Path) -> None:
    options = ["--quick", "--seeds", "1", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    assert claims.main(["detection_hub", *options]) == 0
    result = json.loads((tmp_path / "out" / "detection_hub.json").read_text())
    paper = claims.load_paper("detection_hub")
    assert result["quick"] and list(result["arms"]) == list(paper.ARMS)
    for arm, row in result["arms"].items():
        assert {"AP", "AP75", "worst AP", "person A"} <= set(row) and ("same names: AP75" in row) == (arm != "full_minilm")
        adapted = arm in ("id", "lang", "full", "full_minilm")
        assert ("swap: difference" in row and "near names" in row) == adapted
        assert ("new list: other rule" in row) == (arm in ("id", "full", "full_minilm"))
        assert ("unknown: own rule" in row) == (arm in ("id", "full"))
        numbers = [v for m, cell in row.items() if m != "swap: difference" for v in cell["values"]]
        assert all(0 <= v <= 100 for v in numbers)
    assert all(claim["held"] is not None for claim in result["claims"]), "every claim has its numbers"
    assert result["arms"]["naive"]["same names: AP"] == result["arms"]["masked"]["same names: AP"]
    assert "A quick run" in (tmp_path / "out" / "detection_hub.md").read_text()
