"""The recipe at full size reads its four data sets where they lie; here two pictures stand in for each."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from detectron2.config import get_cfg
from PIL import Image

from detection_hub import add_detection_hub_config
from detection_hub.config import hub_from_config, hub_loader_from_config
from openvocab.config import find_config, instantiate, load_config
from openvocab.evaluation import COCODetectionEvaluator, LVISEvaluator
from openvocab.vocabulary import Vocabulary

RECIPE = "detection_hub/hubs/coco_objects365_lvis_openimages_r50"
# annotations, folder of pictures, built-in names, how a picture is named in the json, what every image entry has besides
LVIS_LISTS = {"neg_category_ids": [3], "not_exhaustive_category_ids": []}
OID_LISTS = {"neg_category_ids": [3], "pos_category_ids": [2]}
FILES = {
    "coco": ("coco/annotations/instances_{}2017.json", "coco/{}2017", "coco", {}),
    "objects365": ("objects365/annotations/zhiyuan_objv2_{}.json", "objects365/{}", "objects365", {}),
    "lvis": ("lvis/lvis_v1_{}.json", "coco/{}2017", "lvis", LVIS_LISTS),
    "openimages": ("oid/annotations/oid_challenge_2019_{}.json", "oid/images", "openimages", OID_LISTS),
}


def write(root: Path, name: str, split: str) -> None:
    annotations, folder, names, more = FILES[name]
    kind = {"train": "train_bbox", "val": "val_expanded"}[split] if name == "openimages" else split
    folder = root / folder.format(split) / ("validation" if (name, split) == ("openimages", "val") else "")
    folder.mkdir(parents=True, exist_ok=True)
    (root / annotations.format(kind)).parent.mkdir(parents=True, exist_ok=True)
    for i in (1, 2):
        Image.new("RGB", (640, 480), (90, 40 * i, 90)).save(folder / f"{name}{i}.jpg")
    words = Vocabulary.builtin(names)
    box = {"bbox": [50, 60, 200, 100], "area": 20000, "iscrowd": 0}
    content = {
        "images": [{"id": i, "file_name": f"{name}{i}.jpg", "width": 640, "height": 480, **more} for i in (1, 2)],
        "annotations": [{"id": i, "image_id": i, "category_id": 2 * i, **box} for i in (1, 2)],
        "categories": [{"id": i + 1, "name": n, "frequency": words.frequencies[i] or "f"} for i, n in enumerate(words.names)],
    }
    if name == "lvis":
        for image in content["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/{split}2017/{image.pop('file_name')}"
    (root / annotations.format(kind)).write_text(json.dumps(content))


def test_its_data_sets_are_read_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name, split in itertools.product(FILES, ("train", "val")):
        write(tmp_path, name, split)
    cfg = load_config(RECIPE, ["dataloader.train.num_workers=0", "dataloader.train.total_batch_size=2"])
    contexts = {c.name: c for c in instantiate(cfg.model.hub.datasets)}
    assert {n: len(c.vocabulary) for n, c in contexts.items()} == {"coco": 80, "lvis": 1203, "objects365": 365, "openimages": 500}
    assert {n: c.evaluator for n, c in contexts.items()} == {**dict.fromkeys(contexts, "coco"), "lvis": "lvis"}
    assert contexts["lvis"].label_policy == "federated" and len(contexts["lvis"].weights) == 1203
    loader = instantiate(cfg.dataloader.train)
    assert loader.shares == pytest.approx(dict.fromkeys(contexts, 0.25))
    samples = {x["dataset"]: x for batch in itertools.islice(loader, 12) for x in batch}
    assert set(samples) == set(contexts)
    for name, x in samples.items():
        assert x["vocabulary"].names == contexts[name].vocabulary.names and x["instances"].gt_classes.tolist()[0] in (1, 3)
        assert x.get("negative_classes") == ([2] if name in ("lvis", "openimages") else None)
        assert x.get("positive_classes") == ([1] if name == "openimages" else None)
    judges = {name: instantiate(row.evaluator) for name, row in cfg.dataloader.test.items()}
    assert {n: type(j) for n, j in judges.items()} == {**dict.fromkeys(contexts, COCODetectionEvaluator), "lvis": LVISEvaluator}
    assert next(iter(instantiate(cfg.dataloader.test.openimages.loader)))[0]["image"].shape == (3, 800, 1067)


def test_the_yaml_recipe_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of data sets, sizes, shares and schedule; what it leaves out stands in its first lines."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name, split in itertools.product(FILES, ("train", "val")):
        write(tmp_path, name, split)
    lazy, cfg = load_config(RECIPE), get_cfg()
    add_detection_hub_config(cfg)
    cfg.merge_from_file(f"{find_config(RECIPE).with_suffix('.yaml')}")
    told = {c.name: c for c in instantiate(lazy.model.hub.datasets)}
    for dataset in hub_from_config(cfg):
        own, wanted = dataset.context(), told[dataset.name]
        assert own.vocabulary.names == wanted.vocabulary.names
        assert (own.flags, own.label_policy, own.evaluator) == (wanted.flags, wanted.label_policy, wanted.evaluator)
    options = hub_loader_from_config(cfg)
    assert (options["grouping"], options["alpha"], options["image_format"]) == ("per_gpu", 0.5, lazy.model.input_format)
    ends = lazy.lr_multiplier.scheduler.milestones
    assert cfg.SOLVER.MAX_ITER == lazy.train.max_iter
    assert [s * ends[-1] // cfg.SOLVER.MAX_ITER for s in cfg.SOLVER.STEPS] == ends[:-1]
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == (lazy.optimizer.lr, lazy.optimizer.weight_decay)
    assert cfg.MODEL.DETECTION_HUB.NUM_QUERIES == lazy.model.num_queries and cfg.MODEL.PIXEL_STD == lazy.model.pixel_std


def test_the_hub_of_small_sets_knows_its_names_with_nothing_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its checkpoint predicts anywhere."""
    for variable in ("OPENVOCAB_SHARED_DATA", "DETECTRON2_DATASETS"):
        monkeypatch.setenv(variable, str(tmp_path))
    cfg = load_config("detection_hub/hubs/small_sets", ["dataloader.train.share=0.25"])
    assert cfg.dataloader.train.share == 0.25, "as its docstring says"
    contexts = {c.name: c for c in instantiate(cfg.model.hub.datasets)}
    names = {n: len(c.vocabulary) for n, c in contexts.items()}
    assert names == {"aquarium": 7, "bccd": 3, "bccd_loose": 2, "coco_mini": 80, "deeppcb": 6, "pothole": 1, "raccoon": 1}
    assert contexts["bccd_loose"].flags == (("loose", 1.0),) and contexts["bccd_loose"].evaluator == "coco"
