"""RegionCLIP's recipes hold the released numbers (microsoft/RegionCLIP), and ask for the right names."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from detectron2.config import instantiate
from omegaconf import DictConfig

from openvocab import Vocabulary
from openvocab.config import load_config
from openvocab.data import DatasetMapper
from tests.configs.test_all_configs import CONFIGS
from tests.regionclip.user_world import tool

FOLDER = CONFIGS / "regionclip"


@cache
def cfg(name: str) -> DictConfig:
    return load_config(FOLDER / f"{name}.py")


# score threshold, NMS, soft, top, fusion, box regression, report; RPN: kind, NMS, count
DETECTION = {
    "transfer/coco_ovd": (0.001, 0.5, True, 100, "none", True, "fused", "c4", 0.7, 1000),
    "transfer/lvis": (0.02, 0.5, True, 300, "sqrt_logit", True, "fused", "fpn_lsj", 0.7, 1000),
    "zero_shot/coco_rpn": (0.001, 0.5, False, 100, "sqrt_logit", False, "fused", "fpn", 0.9, 1000),
    "zero_shot/coco_gt": (0.001, 0.5, False, 100, "none", False, "fused"),
    "zero_shot/lvis_rpn": (0.02, 0.5, False, 300, "sqrt_logit", False, "fused", "fpn", 0.9, 1000),
    "zero_shot/lvis_gt": (0.0001, 0.5, False, 300, "none", False, "fused"),
    "zero_shot/custom": (0.02, 0.3, False, 300, "sqrt_logit", False, "class", "fpn", 0.9, 1000),
}
SIZES = {"rn50": ("RN50", 14, 1024), "rn50x4": ("RN50x4", 18, 640)}


def files() -> list[tuple[str, str]]:
    return [(name, size) for name in DETECTION for size in SIZES if (FOLDER / f"{name}_{size}.py").is_file()]


def test_both_sizes_have_all_recipes() -> None:
    assert len(files()) == 2 * len(DETECTION) - 1  # custom pictures: RN50
    names = {p.relative_to(FOLDER).with_suffix("").as_posix() for d in ("transfer", "zero_shot") for p in (FOLDER / d).glob("*.py")}
    others = {"transfer/coco80_rn50", "transfer/lvis_rn50_fixed", "transfer/regionclip_mini", "zero_shot/regionclip_mini"}
    assert names == {f"{n}_{s}" for n, s in files()} | others | {"zero_shot/regionclip_mini_gt"}


@pytest.mark.parametrize(("name", "size"), files())
def test_detection_settings(name: str, size: str) -> None:
    model = cfg(f"{name}_{size}").model
    box, rpn = model.roi_heads.box_predictor, model.offline_rpn
    post = box.postprocessor
    found = [post.score_threshold, post.nms_threshold, post.soft_nms is not None, post.max_detections, post.score_fusion]
    found += [box.regress_boxes, post.report]
    found += [] if rpn is None else [rpn.kind, rpn.nms_thresh, rpn.post_nms_topk]
    assert tuple(found) == DETECTION[name]
    assert model.regions == ("gt" if name.endswith("_gt") else "rpn")
    assert (model.backbone.depth, model.roi_heads.region_features.pooler.output_size, box.input_dim) == SIZES[size]
    assert box.temperature == 0.01 and model.backbone.freeze_at == 2
    if post.soft_nms is not None:
        assert dict(post.soft_nms, _target_=None) == dict(_target_=None, method="gaussian", sigma=0.5, threshold=0.5, prune=0.001)


# steps, warm-up, milestones, focal gamma, background weight, repeat threshold, masks
TRAINING = {
    "transfer/coco_ovd": (90_000, 5000, [60_000, 80_000], 0.5, 0.2, 0.0, False),
    "transfer/lvis": (180_000, 5000, [120_000, 160_000], None, 0.8, 0.001, True),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", TRAINING)
def test_training_settings(name: str, size: str) -> None:
    c = cfg(f"{name}_{size}")
    box, source, mask = c.model.roi_heads.box_predictor, c.dataloader.train.sources[0], c.model.roi_heads.mask_head
    schedule = instantiate(c.lr_multiplier)
    steps, warm_up, milestones, gamma, weight, repeat, masks = TRAINING[name]
    assert c.train.max_iter == c.lr_multiplier.scheduler.num_updates == steps
    assert (box.focal_gamma, box.background_weight, box.smooth_l1_beta) == (gamma, weight, 0.0)
    assert source.get("repeat_threshold", 0.0) == repeat and source.mapper.get("with_masks", False) is masks
    assert (c.optimizer.lr, c.optimizer.momentum, c.optimizer.weight_decay) == (0.002, 0.9, 1e-4)
    assert c.dataloader.train.total_batch_size == c.train.reference_batch_size == 16
    wanted = {0: 0.001, warm_up // 2: 0.5, warm_up: 1.0, milestones[0] - 1: 1.0, milestones[0]: 0.1, milestones[1]: 0.01}
    for step, factor in wanted.items():
        assert schedule(step / steps) == pytest.approx(factor, abs=0.001), step
    assert mask is None if not masks else mask.input_shape.channels == (2560 if size == "rn50x4" else 2048)


def names_of(mapper: DictConfig, dataset: str) -> tuple[str, ...]:
    """Names that a mapper speaks of."""
    made: DatasetMapper = instantiate(mapper)
    return (made.vocabulary or made._table(dataset)[0]).names


def test_names_of_training_and_of_the_protocols(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """48 names are taught, 65, 17 or 48 are asked for; LVIS's rare ones are asked for but never taught. No file is needed."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    coco, lvis = cfg("transfer/coco_ovd_rn50").dataloader, cfg("transfer/lvis_rn50").dataloader
    words = Vocabulary.builtin("lvis")
    frequent = tuple(n for n, f in zip(words.names, words.frequencies, strict=True) if f != "r")
    assert names_of(coco.train.sources[0].mapper, "coco_2017_train") == Vocabulary.builtin("coco_ovd_48").names
    assert names_of(lvis.train.sources[0].mapper, "lvis_v1_train") == frequent and len(frequent) == 866
    asked = {k: names_of(v.loader.mapper, "coco_2017_val") for k, v in coco.test.items()}
    assert asked == {
        "coco_2017_val_ovd": Vocabulary.builtin("coco_ovd_65").names,
        "coco_2017_val_ovd_novel": Vocabulary.builtin("coco_ovd_17").names,
        "coco_2017_val_ovd_base": Vocabulary.builtin("coco_ovd_48").names,
    }
    given = cfg("zero_shot/coco_gt_rn50").dataloader.test.coco_2017_val_ovd_given
    assert names_of(given.loader.mapper, "coco_2017_val") == Vocabulary.builtin("coco_ovd_65").names
    assert len(names_of(cfg("zero_shot/lvis_gt_rn50").dataloader.test.lvis_v1_val_given.loader.mapper, "lvis_v1_val")) == 1203
    assert len(names_of(cfg("transfer/coco80_rn50").dataloader.train.sources[0].mapper, "coco_2017_train")) == 80


def test_fixed_ap_is_not_cut_by_the_model() -> None:
    c = cfg("transfer/lvis_rn50_fixed")
    assert list(c.dataloader.test) == ["lvis_v1_val_fixed"]
    assert c.model.roi_heads.box_predictor.postprocessor.max_detections == 10_000


def test_no_recipe_depends_on_the_order_in_which_they_are_loaded() -> None:
    """A variant changes the config that it imports; another that imports the same must not see that."""
    first = load_config(FOLDER / "transfer/coco_ovd_rn50.py")
    load_config(FOLDER / "zero_shot/lvis_gt_rn50x4.py")
    assert load_config(FOLDER / "transfer/coco_ovd_rn50.py") == first


def test_commands_in_docstrings_are_those_of_the_tool() -> None:
    convert = tool("convert_weights")
    for path in [*FOLDER.rglob("*.py"), CONFIGS.parent / "regionclip" / "README.md"]:
        named = set(re.findall(r"--from ([\w-]+)", path.read_text()))
        assert named <= {*convert._KINDS, convert.AS_IS}, path


def test_variants_are_short() -> None:
    for path in FOLDER.rglob("*_rn50x4*.py"):
        assert len(path.read_text().splitlines()) < 40, path.name
