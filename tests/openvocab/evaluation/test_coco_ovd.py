"""Base, novel and all: equal to pycocotools on the same pictures and classes."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from openvocab.errors import EvaluationError, VocabularyError
from openvocab.evaluation import COCODetectionEvaluator, COCOOVDEvaluator
from openvocab.vocabulary import Vocabulary

from .test_scoring import make_world

OVD = Vocabulary.builtin("coco_ovd_65")
BASE = ["person", "bicycle", "car", "train"]  # of COCO's 48
NOVEL = ["airplane", "bus", "cat"]  # of its 17
OTHER = ["traffic light", "stop sign"]  # of neither


@pytest.fixture
def everything(tmp_path: Path) -> tuple[Path, dict, dict]:
    """A json with the names of COCO, some of them annotated; detections by (picture, category id)."""
    names = list(Vocabulary.builtin("coco").names)
    ids = {n: i * 3 + 2 for i, n in enumerate(names)}
    shown = [ids[n] for n in (*BASE, *NOVEL, *OTHER)]
    pictures, annotations, rows = make_world(11, images=40, most=40, crowd=0.1, levels=20)
    rng = np.random.default_rng(0)
    for a in annotations:
        a["category_id"] = int(rng.choice(shown))
    for image, group in rows.items():
        near = [a["category_id"] for a in annotations if a["image_id"] == image]
        for r in group:
            r["category_id"] = int(rng.choice(near if near and rng.random() < 0.8 else shown))
            r["score"] = float(np.float32(r["score"]))
            r["bbox"] = _as_float32(r["bbox"])
    content = {"images": pictures, "annotations": annotations, "categories": [{"id": i, "name": n} for n, i in ids.items()]}
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path, content, rows


def _as_float32(box: list[float]) -> list[float]:
    """XYWH that a model's float32 XYXY can express."""
    x, y, w, h = (np.float32(v) for v in box)
    x2, y2 = x + w, y + h
    return [float(v) for v in (x, y, x2 - x, y2 - y)]


def feed(evaluator: COCODetectionEvaluator, content: dict, rows: dict, words: Vocabulary) -> dict:
    """Run an evaluator on detections of the names that the model knows."""
    names = {c["id"]: c["name"] for c in content["categories"]}
    for image, group in rows.items():
        group = [r for r in group if names[r["category_id"]] in words.names]
        boxes = torch.tensor([r["bbox"] for r in group]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found = Instances((200, 200), pred_boxes=Boxes(boxes), scores=torch.tensor([r["score"] for r in group]))
        found.pred_classes = torch.tensor([words.index(names[r["category_id"]]) for r in group], dtype=torch.int64)
        evaluator.process([{"image_id": image, "vocabulary": words}], [{"instances": found}])
    return evaluator.evaluate()


def official(content: dict, rows: dict, wanted: set[int]) -> COCOeval:
    """pycocotools on a json cut down as the official OVD files are: chosen classes, pictures that show one of them."""
    annotations = [a for a in content["annotations"] if a["category_id"] in wanted]
    full = {a["image_id"] for a in annotations}
    cut = {
        "info": {},
        "images": [i for i in content["images"] if i["id"] in full],
        "annotations": annotations,
        "categories": [c for c in content["categories"] if c["id"] in wanted],
    }
    found = [
        {"image_id": i, "category_id": r["category_id"], "score": r["score"], "bbox": r["bbox"]}
        for i, group in rows.items()
        for r in group
        if i in full and r["category_id"] in wanted
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(cut)
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(found), "bbox")
        run.evaluate()
        run.accumulate()
    return run


def mean(run: COCOeval, ids: set[int] | None, *, half: bool) -> float:
    part = run.eval["precision"][..., 0, -1]
    part = part[:1] if half else part
    if ids is not None:
        part = part[:, :, [k for k, c in enumerate(run.params.catIds) if c in ids]]
    part = part[part > -1]
    return 100 * float(part.mean())


def ids_of(content: dict, names: tuple[str, ...]) -> set[int]:
    return {c["id"] for c in content["categories"] if c["name"] in names}


def split(mark: str) -> tuple[str, ...]:
    return tuple(n for n, s in zip(OVD.names, OVD.splits, strict=True) if s == mark)


def test_generalised_equals_pycocotools(everything: tuple) -> None:
    path, content, rows = everything
    result = feed(COCOOVDEvaluator(annotations=path), content, rows, OVD)
    run = official(content, rows, ids_of(content, OVD.names))
    groups = {"base": ids_of(content, split("base")), "novel": ids_of(content, split("novel")), "all": None}
    assert len(groups["base"]) == 48 and len(groups["novel"]) == 17
    expected = {f"{m}_{g}": mean(run, ids, half=m == "AP50") for g, ids in groups.items() for m in ("AP50", "AP")}
    assert result["bbox_ovd"] == pytest.approx(expected, abs=1e-9) and len(expected) == 6
    assert result["bbox"]["AP50"] == result["bbox_ovd"]["AP50_all"]
    assert len({round(v, 3) for v in expected.values()}) == 6 and all(1 < v < 99 for v in expected.values())
    assert "AP-traffic light" not in result["bbox"] and math.isnan(result["bbox"]["AP-dog"])


@pytest.mark.parametrize("protocol", ["novel", "base"])
def test_one_group_alone_has_keys_of_its_own(everything: tuple, protocol: str) -> None:
    path, content, rows = everything
    words = Vocabulary.from_names(split(protocol))
    result = feed(COCOOVDEvaluator(annotations=path, protocol=protocol), content, rows, words)
    run = official(content, rows, ids_of(content, words.names))
    expected = {f"{m}_{protocol}_only": mean(run, None, half=m == "AP50") for m in ("AP50", "AP")}
    assert result["bbox_ovd"] == pytest.approx(expected, abs=1e-9)


def test_pictures_that_show_nothing_of_it(everything: tuple) -> None:
    path, content, rows = everything
    kept = feed(COCOOVDEvaluator(annotations=path, drop_empty=False), content, rows, OVD)["bbox"]
    plain = feed(
        COCODetectionEvaluator(annotations=path, category_names=list(OVD.names), vocabulary=OVD), content, rows, OVD
    )["bbox"]
    dropped = feed(COCOOVDEvaluator(annotations=path), content, rows, OVD)["bbox"]
    assert repr(kept) == repr(plain) and kept["AP"] < dropped["AP"]
    shown = {a["image_id"] for a in content["annotations"] if a["category_id"] in ids_of(content, OVD.names)}
    evaluator = COCOOVDEvaluator(annotations=path)
    empty = next(i for i in rows if i not in shown)
    with pytest.raises(EvaluationError, match="none of the processed pictures .* 65 classes of the protocol 'generalised'"):
        feed(evaluator, content, {empty: rows[empty]}, OVD)


def test_a_model_asked_for_all_eighty_is_noticed(everything: tuple) -> None:
    path, content, rows = everything
    with pytest.raises(EvaluationError, match=r"asked for 80 names .* counts 65 .*the same vocabulary="):
        feed(COCOOVDEvaluator(annotations=path), content, rows, Vocabulary.builtin("coco"))
    eighty = COCOOVDEvaluator(annotations=path, vocabulary=Vocabulary.builtin("coco"))
    same = feed(eighty, content, rows, Vocabulary.builtin("coco"))
    assert same["bbox_ovd"] == feed(COCOOVDEvaluator(annotations=path), content, rows, OVD)["bbox_ovd"]


def test_groups_of_another_set(everything: tuple, tmp_path: Path) -> None:
    from openvocab.data import catalog, register_coco_folder

    path, content, rows = everything
    result = feed(COCOOVDEvaluator(annotations=path, base=["car", "bus"], novel=["person"]), content, rows, _three(content))
    (tmp_path / "images").mkdir()
    names = [c["name"] for c in content["categories"]]
    marks = {"car": "base", "bus": "base", "person": "novel"}
    words = Vocabulary.from_names(names, splits=[marks.get(n) for n in names])
    register_coco_folder("ovd_set", root=tmp_path, annotations=path.name, images="images", vocabulary=words)
    try:
        marked = feed(COCOOVDEvaluator("ovd_set"), content, rows, _three(content))
    finally:
        catalog.unregister("ovd_set")
    assert repr(marked) == repr(result) and not math.isnan(result["bbox_ovd"]["AP50_novel"])


def _three(content: dict) -> Vocabulary:
    return Vocabulary.from_names([c["name"] for c in content["categories"] if c["name"] in ("car", "bus", "person")])


def test_wrong_calls_are_sentences(everything: tuple, tmp_path: Path) -> None:
    path, content, _ = everything
    with pytest.raises(EvaluationError, match="protocol='target' must be one of 'generalised', 'base', 'novel'"):
        COCOOVDEvaluator(annotations=path, protocol="target")
    with pytest.raises(VocabularyError, match="'aeroplan' is not in .*Did you mean 'airplane'"):
        COCOOVDEvaluator(annotations=path, novel=["aeroplan"])
    with pytest.raises(EvaluationError, match="novel='cat' is one string; give a list of names"):
        COCOOVDEvaluator(annotations=path, novel="cat")
    with pytest.raises(EvaluationError, match="'car' is among the base and the novel"):
        COCOOVDEvaluator(annotations=path, base=["car"], novel=["car", "bus"])
    small = {**content, "categories": [{"id": 1, "name": "gizmo"}], "annotations": []}
    (tmp_path / "small.json").write_text(json.dumps(small))
    with pytest.raises(EvaluationError, match=r"has no base classes: .* pass base=\[names\]"):
        COCOOVDEvaluator(annotations=tmp_path / "small.json")


def test_masks_have_a_kind_of_their_own(annotations: Path, perfect: Callable) -> None:
    words = Vocabulary.from_names(["dog", "cat"])
    evaluator = COCOOVDEvaluator(annotations=annotations, base=["cat"], novel=["dog"])
    evaluator.process(*perfect(list(words.names), masks=True))
    result = evaluator.evaluate()
    assert list(result) == ["bbox", "bbox_ovd", "segm", "segm_ovd"]
    assert result["bbox_ovd"] == result["segm_ovd"] == dict.fromkeys(result["segm_ovd"], pytest.approx(100))
