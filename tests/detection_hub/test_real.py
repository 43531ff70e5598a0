"""The comparison on real sets: budgets, quarters of the data, and results that are kept, with a training that is not one."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

import openvocab.engine
from detection_hub.data import DerivedSet
from openvocab.config import instantiate
from openvocab.errors import ConfigError

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "detection_hub_real.py"


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FILE.parents[1] / "tools"))
    spec = spec_from_file_location("comparison_on_real_sets", FILE)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arm", "names", "steps"),
    [
        ("hub", None, 35),
        ("hub_quarter", None, 35),
        ("single", ("bccd",), 5),
        ("single_triple", ("pothole",), 15),
        ("single_long_quarter", ("pothole",), 35),
    ],
)
def test_one_detectors_config(real: ModuleType, tmp_path: Path, arm: str, names: tuple[str, ...] | None, steps: int) -> None:
    names = names or real.SETS
    cfg = real.config_of(arm, names, steps=5, seed=2, folder=tmp_path)
    assert {d.name for d in cfg.dataloader.train.datasets} == set(names) == set(cfg.dataloader.test)
    assert {d.name for d in cfg.model.hub.datasets.datasets} == set(names)
    assert cfg.train.seed == cfg.dataloader.train.seed == 2 and cfg.dataloader.train.alpha == 0
    assert all(d.test_size == real.SIZES["test_size"] for d in cfg.dataloader.train.datasets)
    assert cfg.train.max_iter == steps
    assert all(isinstance(d.train, str) != arm.endswith("_quarter") or "bccd" in d.name for d in cfg.dataloader.train.datasets)


def test_budgets(real: ModuleType) -> None:
    assert all(sorted(n for names in real.detectors_of(arm) for n in names) == sorted(real.SETS) for arm in real.ARMS)
    steps = {arm: real.steps_of(arm, 5) for arm in real.ARMS}
    assert steps["hub"] == steps["single"] == steps["hub_quarter"] == 35
    assert steps["single_triple_quarter"] == steps["hub_triple"] == 3 * 35 and steps["single_long"] == 7 * 35


def test_quarters_share_no_picture(real: ModuleType, tmp_path: Path) -> None:
    content = {"images": [{"id": i} for i in range(40)], "annotations": [], "categories": [{"id": 1, "name": "RBC"}]}

    def pictures(split: DerivedSet) -> set[int]:
        return {i["id"] for i in split.derive(content)["images"]}

    quarters = [pictures(instantiate(real.quarter_of("bccd_train", seed))) for seed in range(5)]
    assert [len(q) for q in quarters] == [10] * 5 and set.union(*quarters) == set(range(40)) and quarters[4] == quarters[0]
    cfg = real.config_of("hub", ("bccd",), steps=1, seed=0, folder=tmp_path)
    (node,) = cfg.dataloader.train.datasets
    half = pictures(instantiate(node.train))
    parts = [pictures(instantiate(real.quarter_of(node.train, seed))) for seed in range(4)]
    assert len(half) == 20 and [len(p) for p in parts] == [5] * 4 and set.union(*parts) == half
    quarter = real.config_of("single_quarter", ("bccd_loose",), steps=1, seed=1, folder=tmp_path).dataloader.train.datasets[0]
    assert list(quarter.train.part) == [4, 8] and quarter.train.box_scale == 1.3


def test_results_are_kept_and_a_page_written(real: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    calls = []

    def train(cfg: dict, *, resume: bool) -> dict:
        calls.append((len(cfg["names"]), cfg["steps"], cfg["folder"]))
        if len(calls) == 4:
            raise KeyboardInterrupt
        value = cfg["seed"] + (30.0 if len(cfg["names"]) > 1 else 20.0)
        return {name: {"bbox": {"AP": value, "AP50": 50.0, "AP75": 25.0, "AP-x": 1.0}} for name in cfg["names"]}

    monkeypatch.setattr(openvocab.engine, "train", train)
    monkeypatch.setattr(real, "config_of", lambda arm, names, **more: {"names": names, **more})
    page, numbers = tmp_path / "real.md", tmp_path / "real.json"
    argv = ["--seeds", "2", "--steps", "3", "--arms", "hub,single", "--page", str(page), "--json", str(numbers)]
    argv += ["--work", str(tmp_path / "work")]
    with pytest.raises(KeyboardInterrupt):
        real.main(argv)
    assert not page.exists() and real.main(argv) == 0
    assert [c[0] for c in calls] == [7, 1, 1, 1] + [1] * 5 + [7] + [1] * 7, "three detectors were kept"
    assert {c[1] for c in calls} == {3} and calls[3][2] == calls[4][2], "it goes on in the same folder"
    result = json.loads(numbers.read_text())
    assert result["arms"]["hub"]["AP"] == {"mean": 30.5, "sd": pytest.approx(0.5**0.5), "values": [30.0, 31.0]}
    assert result["arms"]["single"]["coco_mini AP"]["mean"] == 20.5 and result["steps"] == 3
    assert [c["held"] for c in result["claims"]] == [True] + [None] * 6
    text = page.read_text()
    assert "3 steps a set: the hub has 21 in all" in text and "30.5 ± 0.7" in text and "**Not measured**" in text
    assert "](real.png)" in text and (tmp_path / "real.png").read_bytes().startswith(b"\x89PNG")
    real.main([*argv[:3], "4", *argv[4:]])
    assert len(calls) == 17 + 16, "another number of steps is another result"


def test_wrong_words_are_named(real: ModuleType) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'hub'"):
        real.parse(["--arms", "hubb"])
    with pytest.raises(ConfigError, match="--steps 0"):
        real.parse(["--steps", "0"])
