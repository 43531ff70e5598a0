"""A hub through the training engine: logs of each data set, an exact resume, two ranks with different data sets; and from yaml."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import ConstantParamScheduler
from omegaconf import DictConfig, OmegaConf
from torch import nn

from detection_hub import add_detection_hub_config, hub_from_config
from detection_hub.config import hub_loader_from_config
from detection_hub.data import HubDataset, LossDriven
from detection_hub.lazy import hub_dataloader, hub_datasets, only
from detection_hub.trainer import HubTrainer
from openvocab.config import instantiate
from openvocab.engine import build_adamw, evaluate_config, train
from openvocab.errors import ConfigError
from openvocab.testing import run_gloo

from .conftest import build_tiny, tiny_hub
from .data.conftest import SIZES, shapes
from .test_config import YAML

NAMES = ("A", "B")


def tiny_model(*, datasets: list) -> torch.nn.Module:
    return build_tiny(tiny_hub(datasets=datasets))


def config(folder: Path, grouping: str = "mixed", loss_driven: object = None, **train_options: object) -> DictConfig:
    sets = [L(HubDataset)(name=n, train=shapes(n), test=shapes(n, "val", num=4), flags=["tight"], **SIZES) for n in NAMES]
    node = {
        "model": L(tiny_model)(datasets=hub_datasets(sets)),
        "dataloader": hub_dataloader(sets, total_batch_size=4, seed=2, grouping=grouping, loss_driven=loss_driven),
        "optimizer": L(build_adamw)(lr=1e-3),
        "lr_multiplier": L(WarmupParamScheduler)(
            scheduler=L(ConstantParamScheduler)(value=1.0), warmup_factor=0.1, warmup_length=0.2
        ),
        "train": {"output_dir": str(folder), "max_iter": 8, "log_period": 2, "seed": 1, "device": "cpu", "eval_period": -1},
    }
    cfg = OmegaConf.create(node, flags={"allow_objects": True})
    cfg.train.update(train_options)
    return cfg


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def final(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def test_each_data_sets_losses_are_logged_and_each_is_tested(tmp_path: Path) -> None:
    cfg = config(tmp_path, eval_period=0)
    results = train(cfg)
    assert set(results) == {"A", "B", "mean"} and set(results["mean"]) >= {"AP", "AP50", "worst"}
    for row in rows(tmp_path):
        pictures = [row.get(f"data set {n}/pictures", 0.0) for n in NAMES]
        assert sum(pictures) == 8 or row["iteration"] == 7  # of two steps of four; a set that was not drawn keeps its last row
    cfg.train.init_checkpoint = str(tmp_path / "model_final.pth")
    cfg.train.output_dir = str(tmp_path / "again")
    assert evaluate_config(cfg)["mean"] == results["mean"]


def test_a_resume_is_exact_also_where_shares_follow_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detection_hub.data.loader.AHEAD", 2)
    options = {"loss_driven": L(LossDriven)(power=4.0, limit=9.0), "log_period": 2}
    train(config(tmp_path / "whole", **options))
    train(config(tmp_path / "part", **options, checkpointer={"period": 5, "max_to_keep": 1}))
    for later in ("model_final.pth", "last_checkpoint"):
        (tmp_path / "part" / later).unlink()
    train(config(tmp_path / "part", **options), resume=True)
    whole, part = final(tmp_path / "whole"), final(tmp_path / "part")
    assert all(torch.equal(whole[k], part[k]) for k in whole)
    own = [{k: v for k, v in rows(tmp_path / name)[-1].items() if k.startswith("data set")} for name in ("whole", "part")]
    assert own[0] == own[1] and own[0]


def two_ranks(folder: str) -> tuple[list[set[str]], float]:
    """Train with a data set a process; return the data sets of this process's batches, and a sum of all weights."""
    cfg = config(Path(folder), grouping="per_gpu", max_iter=4)
    loader = instantiate(cfg.dataloader.train)
    seen = [{x["dataset"] for x in batch} for batch, _ in zip(loader, range(4), strict=False)]
    train(cfg)
    return seen, float(sum(v.double().sum() for v in final(Path(folder)).values()))


@pytest.mark.slow
def test_two_ranks_with_different_data_sets(tmp_path: Path) -> None:
    """No find_unused_parameters: it is false in the config, and DDP would complain in the second step."""
    (first, weights), (second, same) = run_gloo(two_ranks, str(tmp_path), timeout=400.0)
    assert weights == same and all(len(names) == 1 for names in first + second)
    assert any(a != b for a, b in zip(first, second, strict=True)), "in some step the ranks held different data sets"
    expected = {n: sum(2 * (n in names) for names in (*first[:2], *second[:2])) for n in NAMES}
    logged = rows(tmp_path)[0]
    assert {n: logged.get(f"data set {n}/pictures", 0) for n in NAMES} == expected


def test_one_data_set_of_a_config(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    only("B", model=OmegaConf.create({"hub": {"datasets": cfg.model.datasets}}), dataloader=cfg.dataloader)
    assert [d.name for d in cfg.dataloader.train.datasets] == ["B"] and list(cfg.dataloader.test) == ["B"]
    with pytest.raises(ConfigError, match="no data set 'Bb'. Did you mean 'B'"):
        only("Bb", model=OmegaConf.create({"hub": {"datasets": cfg.model.datasets}}), dataloader=cfg.dataloader)


# ---- yaml -------------------------------------------------------------------------------------------------------------


def yaml_config(folder: Path, *changes: object) -> CfgNode:
    path = folder / "hub.yaml"
    path.write_text(YAML)
    cfg = get_cfg()
    add_detection_hub_config(cfg)
    cfg.merge_from_file(str(path))
    sets = [{"name": n, "train": shapes(n), "test": shapes(n, "val", num=4), "flags": ["tight"]} for n in NAMES]
    cfg.MODEL.DETECTION_HUB.DATASETS = [*sets[:1], {**sets[1], "test_size": 64}]
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (48, 64), 64, 48
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.DATALOADER.NUM_WORKERS = 2, 2, (), 0
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = "cpu", str(folder / "out")
    cfg.merge_from_list(list(changes))
    return cfg


def test_detectron2s_trainer_from_yaml(tmp_path: Path) -> None:
    cfg = yaml_config(tmp_path, "MODEL.BACKBONE.FREEZE_AT", 0)
    (tmp_path / "out").mkdir()
    hub = hub_from_config(cfg)
    assert hub["A"].min_sizes == (48, 64) and (hub["A"].test_size, hub["B"].test_size) == (48, 64)
    trainer = HubTrainer(cfg)
    assert set(trainer.model.hub.datasets) == {"A", "B"}
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert set(HubTrainer.test(cfg, trainer.model)) == {"A", "B", "hub"}
    saved = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert "hub.metadata" in saved
    cfg.MODEL.DETECTION_HUB.DATASETS = [{"name": "x", "vocabulary": ["cat"]}]
    with pytest.raises(ConfigError, match="has no splits"):
        hub_from_config(cfg)


def test_yaml_clips_gradients(tmp_path: Path) -> None:
    steps = {}
    for enabled in (False, True):
        cfg = yaml_config(tmp_path, "SOLVER.CLIP_GRADIENTS.ENABLED", enabled, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm")
        cfg.merge_from_list(["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1e-3])
        model = nn.Linear(2, 1, bias=False)
        optimizer = HubTrainer.build_optimizer(cfg, model)
        model.weight.grad = torch.full((1, 2), 5.0)
        optimizer.step()
        steps[enabled] = float(model.weight.grad.norm())
        assert all(group["fused"] for group in optimizer.param_groups) and model.weight._version > 0
    assert steps[True] == pytest.approx(1e-3) and steps[False] > 7


def test_yaml_chooses_the_order_of_samples(tmp_path: Path) -> None:
    hub = "DATALOADER.HUB."
    cfg = yaml_config(tmp_path, f"{hub}GROUPING", "per_step", f"{hub}ALPHA", 0.0, f"{hub}LOSS_DRIVEN.ENABLED", True)
    cfg.SOLVER.IMS_PER_BATCH = 4
    options = hub_loader_from_config(cfg)
    assert [type(a).__name__ for a in options["augmentations"]] == ["RandomFlip"] and options["aspect_ratio_grouping"] is True
    loader = HubTrainer.build_train_loader(cfg)
    assert loader.driver.limit == 3 and loader.shares == {"A": 0.5, "B": 0.5}
    assert all(len({x["dataset"] for x in batch}) == 1 for batch, _ in zip(loader, range(6), strict=False))
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.SIZE = "none", True, [0.5, 0.5]
    assert [type(a).__name__ for a in hub_loader_from_config(cfg)["augmentations"]] == ["RandomCrop"]
    cfg.DATALOADER.HUB.GROUPING = "gpu"
    with pytest.raises(ConfigError, match="grouping='gpu'"):
        HubTrainer.build_train_loader(cfg)


def test_a_yaml_run_logs_each_data_set_and_goes_on_with_the_next_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detection_hub.trainer.LOG_PERIOD", 1)
    seen: list[tuple[str, dict]] = []
    monkeypatch.setattr("detection_hub.data.HubTrainLoader.observe", lambda _, losses: seen.extend(losses.items()))
    cfg = yaml_config(tmp_path, "MODEL.BACKBONE.FREEZE_AT", 0, "SOLVER.MAX_ITER", 3, "DATALOADER.HUB.GROUPING", "mixed")
    (tmp_path / "out").mkdir()
    trainer = HubTrainer(cfg)
    trainer.train()
    assert {n for n, _ in seen} <= {"A", "B"} and sum(v["pictures"] for _, v in seen) == 6
    assert all(v["loss_ce"] > 0 for _, v in seen)
    whole = [[x["file_name"] for x in b] for b, _ in zip(HubTrainer.build_train_loader(cfg), range(5), strict=False)]
    cfg.SOLVER.MAX_ITER = 5
    again = HubTrainer(cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 3
    assert [[x["file_name"] for x in b] for b, _ in zip(again.data_loader, range(2), strict=False)] == whole[3:]
