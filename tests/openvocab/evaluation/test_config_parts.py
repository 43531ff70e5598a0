"""The benchmarks as config parts, and the yaml of the docs: built on files laid out as users have them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.config import LazyConfig
from omegaconf import OmegaConf
from PIL import Image

from openvocab.config import config_from_text, instantiate
from openvocab.data import catalog
from openvocab.evaluation import COCOOVDEvaluator, LVISFixedEvaluator, ODinWEvaluator, evaluate
from openvocab.prompting import build_caption
from openvocab.vocabulary import Vocabulary
from tests.openvocab.colours import ColourDetector

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One grey picture in each of COCO, LVIS and a set of ODinW, with one thing in it."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    raccoon = tmp_path / "odinw/Raccoon/test"
    write(tmp_path / "coco/annotations/instances_val2017.json", list(Vocabulary.builtin("coco").names))
    write(tmp_path / "lvis/lvis_v1_minival.json", list(Vocabulary.builtin("lvis").names), "val2017/1.jpg")
    write(raccoon / "_annotations.coco.json", ["raccoon"])
    for folder in (tmp_path / "coco/val2017", raccoon):
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (128, 128, 128)).save(folder / "1.jpg")
    yield tmp_path
    catalog.unregister("odinw_Raccoon_test")


def write(path: Path, names: list[str], file: str = "1.jpg") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    content = {
        "images": [{"id": 1, "file_name": file, "width": 64, "height": 64, **lists}],
        "categories": [{"id": i, "name": n} for i, n in enumerate(names, start=1)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400}],
    }
    path.write_text(json.dumps(content))


def parts(*names: str) -> tuple:
    return LazyConfig.load(str(ROOT / "configs/common/evaluation.py"), names)


def run(entry: object) -> dict:
    entry.loader.num_workers = 0
    return evaluate(ColourDetector(max_tokens=100_000), instantiate(entry.loader), instantiate(entry.evaluator), progress=False)


def test_coco_ovd(root: Path) -> None:
    (coco_ovd,) = parts("coco_ovd",)
    for protocol, count in (("generalised", 65), ("novel", 17), ("base", 48)):
        ((name, entry),) = coco_ovd(protocol=protocol).items()
        entry = OmegaConf.create(entry, flags={"allow_objects": True})
        evaluator = instantiate(entry.evaluator)
        assert isinstance(evaluator, COCOOVDEvaluator) and len(evaluator.vocabulary) == count
        (batch,) = instantiate({**entry.loader, "num_workers": 0})
        assert batch[0]["vocabulary"].names == evaluator.vocabulary.names and name.startswith("coco_2017_val_ovd")
        if protocol != "novel":  # the only thing there is a person
            assert f"AP50_{'all' if protocol == 'generalised' else 'base_only'}" in run(entry)["bbox_ovd"]


def test_lvis_and_odinw(root: Path) -> None:
    lvis, odinw = parts("lvis", "odinw")
    entries = {**lvis("lvis_v1_minival"), **lvis("lvis_v1_minival", fixed=True), **odinw(13)}
    assert list(entries) == ["lvis_v1_minival", "lvis_v1_minival_fixed", "odinw13"]
    capped, fixed, wild = (OmegaConf.create(e, flags={"allow_objects": True}) for e in entries.values())
    assert set(run(capped)) == {"bbox"} and set(run(fixed)) == {"bbox_fixed"}
    numbers = run(wild)["odinw"]
    assert numbers["AP-Raccoon"] == 0 and numbers["sets_missing"] == 12


def test_odinw_of_given_sets_in_engineered_words(root: Path) -> None:
    (odinw,) = parts("odinw",)
    entry = odinw(13, datasets={"pothole": "odinw_Raccoon_test"}, engineered=True)["odinw13_engineered"]
    loader = instantiate(OmegaConf.create(entry["loader"], flags={"allow_objects": True}))
    asked = next(iter(loader))[0]["vocabulary"]
    assert build_caption(asked).text == "there are some holes on the road" and asked.names == ("raccoon",)
    evaluator = instantiate(OmegaConf.create(entry["evaluator"], flags={"allow_objects": True}))
    assert list(evaluator.evaluators) == ["pothole"]


def test_the_yaml_of_the_docs(root: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/evaluation.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    cfg = config_from_text("".join(blocks))
    kinds = [type(instantiate(entry.evaluator)) for entry in cfg.dataloader.test.values()]
    assert kinds == [COCOOVDEvaluator, LVISFixedEvaluator, ODinWEvaluator]
    assert "bbox_ovd" in run(cfg.dataloader.test.coco_ovd) and "odinw" in run(cfg.dataloader.test.odinw13)
