"""Promise 7: a bad picture in training is skipped, counted and named once; too many, or one with --strict, end it with the list."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from openvocab.data import (
    BadSampleBudget,
    DatasetMapper,
    TrainLoader,
    TrainSource,
    build_train_loader,
    register_coco_folder,
)
from openvocab.errors import ConfigError, DataError
from tests.faults.traps import run_tool

WORKERS = pytest.mark.parametrize("workers", [0, 2])


def build(budget: BadSampleBudget | None = None, **more: object) -> TrainLoader:
    mapper = DatasetMapper(is_train=True, skip=budget)
    sources = [TrainSource(name="t_set", mapper=more.pop("mapper", mapper))]
    return build_train_loader(**{"sources": sources, "total_batch_size": 2, "seed": 1, **more})


@pytest.fixture
def broken(coco: Path) -> Path:
    """Six pictures, of which number 2 is cut short."""
    register_coco_folder("t_set", root=coco, annotations="train.json")
    path = coco / "images/2.png"
    path.write_bytes(path.read_bytes()[:200])
    return coco


@WORKERS
def test_one_bad_picture_is_replaced_and_named_once(
    broken: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    loader = build(num_workers=workers)
    with caplog.at_level("WARNING", "openvocab.data.budget"):
        batches = list(itertools.islice(iter(loader), 30))
    assert all(len(b) == 2 for b in batches)
    assert not any(s["file_name"].endswith("/2.png") for b in batches for s in b)
    assert all(len({s["width"] > s["height"] for s in b}) == 1 for b in batches), "the substitute has the same shape"
    told = [m for m in caplog.messages if "2.png" in m]
    assert len(told) == 1 and "skipped in 't_set' (1 of 1 allowed)" in told[0]


def test_substitutes_are_the_same_for_any_number_of_workers_and_after_resume(broken: Path) -> None:
    def files(loader: TrainLoader, count: int) -> list[str]:
        return [s["file_name"] for b in itertools.islice(iter(loader), count) for s in b]

    whole = files(build(), 20)
    first = build(num_workers=2)
    assert files(first, 12) == whole[:24]
    second = build(num_workers=1)
    second.load_state_dict(first.state_dict())
    assert len(second._budgets[0]) == 1, "what was bad is remembered"
    assert files(second, 8) == whole[24:]


@WORKERS
def test_more_than_the_budget_stops_with_the_list(broken: Path, workers: int) -> None:
    (broken / "images/4.png").unlink()
    with pytest.raises(DataError, match=r"^2 of 6 in 't_set' are bad, 1 allowed: .*[24]\.png.*; .*[24]\.png") as caught:
        list(itertools.islice(iter(build(num_workers=workers)), 30))
    assert "Traceback" not in str(caught.value)
    assert len(list(itertools.islice(iter(build(BadSampleBudget(at_least=2))), 30))) == 30
    assert len(list(itertools.islice(iter(build(BadSampleBudget(fraction=0.4))), 30))) == 30


@WORKERS
def test_strict_stops_at_the_first(broken: Path, workers: int) -> None:
    with pytest.raises(DataError, match=r"1 of 6 in 't_set' are bad, 0 allowed: .*2\.png"):
        list(itertools.islice(iter(build(BadSampleBudget(strict=True), num_workers=workers)), 30))


@WORKERS
def test_strict_for_a_whole_run(broken: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the config's mappers say, and in reading processes too."""
    monkeypatch.setenv("OPENVOCAB_STRICT", "1")
    with pytest.raises(DataError, match=r"1 of 6 in 't_set' are bad, 0 allowed: .*2\.png"):
        list(itertools.islice(iter(build(BadSampleBudget(at_least=3), num_workers=workers)), 30))


CONFIG = """
import torch
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import ConstantParamScheduler
from openvocab.data import DatasetMapper, TrainSource, build_train_loader, register_coco_folder
from openvocab.engine import build_sgd

register_coco_folder("t_set", root={folder!r}, annotations="train.json")


class Counting(torch.nn.Linear):
    def forward(self, batch):
        return {{"loss": super().forward(torch.tensor([[float(len(batch))]])).square().sum()}}


model = L(Counting)(in_features=1, out_features=1)
dataloader = dict(
    train=L(build_train_loader)(
        sources=[L(TrainSource)(name="t_set", mapper=L(DatasetMapper)(is_train=True))], total_batch_size=2, seed=1
    ),
    test=dict(),
)
optimizer = L(build_sgd)(lr=0.01)
lr_multiplier = L(WarmupParamScheduler)(scheduler=L(ConstantParamScheduler)(value=1.0), warmup_factor=1.0, warmup_length=0.1)
train = dict(max_iter=12, output_dir={output!r}, eval_period=-1, device="cpu")
"""


def test_the_command_goes_on_or_stops_in_one_sentence(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("OPENVOCAB_STRICT", "")  # restored afterwards, whatever the tool sets
    config, output = tmp_path / "config.py", tmp_path / "out"
    config.write_text(CONFIG.format(folder=str(broken), output=str(output)))
    assert run_tool("train_net", "--config-file", str(config)) == 0
    log = (output / "log.txt").read_text()
    assert log.count("2.png") == 1 and "(1 of 1 allowed)" in log
    capsys.readouterr()
    assert run_tool("train_net", "--config-file", str(config), "--strict") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: 1 of 6 in 't_set' are bad, 0 allowed") and "2.png" in error


@WORKERS
def test_all_bad_raises(broken: Path, workers: int) -> None:
    for picture in (broken / "images").iterdir():
        picture.write_bytes(b"")
    with pytest.raises(DataError, match="2 of 6 in 't_set' are bad"):
        next(iter(build(num_workers=workers)))


@WORKERS
def test_a_mapper_that_always_says_none_raises_instead_of_hanging(broken: Path, workers: int) -> None:
    with pytest.raises(DataError, match="^50 pictures of 't_set' in a row gave nothing to train on"):
        next(iter(build(mapper=lambda record: None, num_workers=workers)))


@WORKERS
def test_a_setting_that_cannot_work_is_no_bad_picture(broken: Path, workers: int) -> None:
    mapper = DatasetMapper(is_train=True, exclude_names=["cat", "dog", "red_car"])
    with pytest.raises(ConfigError, match="^exclude_names leaves no name of 't_set'"):
        next(iter(build(mapper=mapper, num_workers=workers)))


def test_a_programming_error_is_not_swallowed(broken: Path) -> None:
    def wrong(record: dict) -> dict:
        raise TypeError("bug")

    with pytest.raises(TypeError, match="bug"):
        next(iter(build(mapper=wrong)))


def test_pictures_without_boxes_are_left_out_unless_wanted(coco: Path, editor: Callable) -> None:
    editor(coco, lambda c: c.update(annotations=[a for a in c["annotations"] if a["image_id"] == 101]))
    register_coco_folder("t_set", root=coco, annotations="train.json")
    assert {s["image_id"] for b in itertools.islice(iter(build()), 10) for s in b} == {101}
    mapper = DatasetMapper(is_train=True, keep_empty=True)
    seen = {s["image_id"] for b in itertools.islice(iter(build(mapper=mapper)), 10) for s in b}
    assert seen == set(range(100, 106))


@pytest.mark.parametrize(
    ("total", "more", "allowed"),
    [(100, {}, 1), (5000, {}, 5), (100, {"at_least": 0}, 0), (100, {"fraction": 0.5}, 50), (9999, {"strict": True}, 0)],
)
def test_size_of_the_budget(total: int, more: dict, allowed: int) -> None:
    assert BadSampleBudget(**more).allowed(total) == allowed


@pytest.mark.parametrize("bad", [{"fraction": -0.1}, {"fraction": 1.1}, {"at_least": -1}])
def test_impossible_budgets(bad: dict) -> None:
    with pytest.raises(DataError, match="a budget needs"):
        BadSampleBudget(**bad)
