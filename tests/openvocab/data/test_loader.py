"""The training loader: order, randomness, resume, processes; and the test loader."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.data import transforms as T
from omegaconf import OmegaConf

from openvocab.data import (
    DatasetMapper,
    PromptSampler,
    TrainLoader,
    TrainSource,
    build_test_loader,
    build_train_loader,
    register_coco_folder,
)
from openvocab.errors import ConfigError, DataError, InputError

AUGMENTATIONS = [
    T.RandomCrop("relative_range", (0.6, 0.6)),
    T.ResizeShortestEdge((24, 32, 40), 90, "choice"),
    T.RandomFlip(),
]


@pytest.fixture
def sets(coco: Path, writer) -> list[str]:
    writer(coco.parent / "other", count=9, names=("ship", "sail"), seed=1)
    register_coco_folder("t_a", root=coco, annotations="train.json")
    register_coco_folder("t_b", root=coco.parent / "other", annotations="train.json")
    return ["t_a", "t_b"]


def build(sets: list[str], **more: object) -> TrainLoader:
    mapper = DatasetMapper(is_train=True, augmentations=AUGMENTATIONS, prompt=PromptSampler(), generic_name_prob=0.2)
    sources = [TrainSource(name=n, mapper=mapper, weight=w) for n, w in zip(sets, (1.0, 2.0), strict=True)]
    return build_train_loader(**{"sources": sources, "total_batch_size": 4, "seed": 3, **more})


def take(loader: TrainLoader, count: int) -> list[list[dict]]:
    return list(itertools.islice(iter(loader), count))


def print_of(batch: list[dict]) -> list[tuple]:
    return [
        (
            s["file_name"],
            int(s["image"].long().sum()),
            tuple(s["image"].shape),
            s["vocabulary"].names,
            s["instances"].gt_classes.tolist(),
            s["instances"].gt_boxes.tensor.tolist(),
        )
        for s in batch
    ]


def prints(batches: list[list[dict]]) -> list[list[tuple]]:
    return [print_of(b) for b in batches]


def test_mixture(sets: list[str]) -> None:
    batches = take(build(sets), 150)
    assert all(len(b) == 4 for b in batches)
    share = Counter(s["dataset"] for b in batches for s in b)["t_b"] / 600
    assert abs(share - 2 / 3) < 0.07
    assert all(len({s["width"] > s["height"] for s in b}) == 1 for b in batches)


def test_a_picture_is_augmented_anew_each_time(sets: list[str]) -> None:
    seen = [p for b in prints(take(build(sets), 60)) for p in b if p[0].endswith("/set/images/0.png")]
    assert len(seen) > 8 and len({p[1:3] for p in seen}) > len(seen) * 0.8


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(sets: list[str], workers: int) -> None:
    assert prints(take(build(sets), 8)) == prints(take(build(sets, num_workers=workers), 8))


@pytest.mark.parametrize(("workers", "after"), [(0, 0), (2, 2), (1, 0), (0, 1)])
def test_resume_is_exact(sets: list[str], workers: int, after: int) -> None:
    whole = prints(take(build(sets), 14))
    first = build(sets, num_workers=workers)
    iterator = iter(first)
    for _ in range(5):
        next(iterator)
    state = json.loads(json.dumps(first.state_dict()))  # plain values only
    second = build(sets, num_workers=after)
    second.load_state_dict(state)
    assert prints(take(second, 9)) == whole[5:]
    assert second.state_dict()["delivered"] == 14


def test_a_second_iterator_goes_on(sets: list[str]) -> None:
    loader = build(sets)
    assert prints([*take(loader, 3), *take(loader, 3)]) == prints(take(build(sets), 6))


@pytest.mark.parametrize("workers", [0, 1])
def test_random_state_of_the_process_neither_matters_nor_moves(sets: list[str], workers: int) -> None:
    def state() -> tuple:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    for module in (random.seed, np.random.seed, torch.manual_seed):
        module(5)
    expected = state()
    for module in (random.seed, np.random.seed, torch.manual_seed):
        module(5)
    got = prints(take(build(sets, num_workers=workers), 3))
    assert state() == expected
    assert got == prints(take(build(sets), 3))


def test_processes_share_the_batch_of_one(sets: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prints(take(build(sets), 6))
    parts = []
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda r=rank: r)
        parts.append(prints(take(build(sets), 6)))
    for together, one, two in zip(whole, *parts, strict=True):
        assert [one[0], two[0], one[1], two[1]] == together
    with pytest.raises(ConfigError, match="total_batch_size=5 over 2 processes"):
        build(sets, total_batch_size=5)


def test_state_of_other_data_is_refused(sets: list[str]) -> None:
    state = build(sets).state_dict()
    for other in (build(sets, seed=4), build(sets[::-1])):
        with pytest.raises(DataError, match="saved data position"):
            other.load_state_dict(state)
    with pytest.raises(DataError, match="saved data position"):
        build(sets).load_state_dict({"delivered": 3})


def test_misspelt_names_are_refused(sets: list[str]) -> None:
    mapper = DatasetMapper(is_train=True, exclude_names=["ship", "dgo"])
    sources = [TrainSource(name=n, mapper=mapper) for n in sets]
    with pytest.raises(ConfigError, match="'dgo' is a name of no source. Did you mean 'dog'"):
        build_train_loader(sources=sources, total_batch_size=2)
    mapper.exclude_names = ("ship", "dog")
    samples = [s for b in take(build_train_loader(sources=sources, total_batch_size=2), 20) for s in b]
    assert all("dog" not in s["vocabulary"] and "ship" not in s["vocabulary"] for s in samples)


def test_numbers_that_do_not_fit(sets: list[str]) -> None:
    for bad in ({"total_batch_size": 0}, {"num_workers": -1}):
        with pytest.raises(ConfigError, match="cannot be met"):
            build(sets, **bad)
    with pytest.raises(ConfigError, match="at least one source"):
        build_train_loader(sources=[], total_batch_size=1)
    empty = TrainSource(name="none", mapper=DatasetMapper(is_train=True), records=[])
    with pytest.raises(DataError, match="'none' has no pictures with boxes"):
        build_train_loader(sources=[empty], total_batch_size=1)


def test_pictures_of_rare_classes_come_more_often(coco: Path, editor: Callable) -> None:
    """LVIS's rule, with the share of pictures as the frequency; classes that are not taught do not count."""
    kinds = [{3}, {3}, {3, 7}, {3}, {3, 11}, {3}]  # cat in all, dog in one, red_car in one

    def relabel(content: dict) -> None:
        pairs = [(100 + i, c) for i, found in enumerate(kinds) for c in sorted(found)]
        first = content["annotations"][0]
        content["annotations"] = [{**first, "id": n, "image_id": i, "category_id": c} for n, (i, c) in enumerate(pairs, 1)]

    editor(coco, relabel)
    register_coco_folder("t_rare", root=coco, annotations="train.json")
    mapper = DatasetMapper(is_train=True, exclude_names=["red_car"])
    source = TrainSource(name="t_rare", mapper=mapper, repeat_threshold=0.96)
    expected = math.sqrt(0.96 / (1 / 6))  # 2.4
    assert source.repeats(source.load()).tolist() == pytest.approx([1, 1, expected, 1, 1, 1])
    loader = build_train_loader(sources=[source], total_batch_size=1, seed=1)
    seen = Counter(b[0]["image_id"] for b in take(loader, 7 * 20))
    assert {k: v for k, v in seen.items() if k != 102} == {100 + i: 20 for i in (0, 1, 3, 4, 5)} and seen[102] == 40
    assert TrainSource(name="t_rare", mapper=mapper).repeats(source.load()) is None
    with pytest.raises(ConfigError, match="repeat_threshold"):
        TrainSource(name="t_rare", mapper=mapper, repeat_threshold=-1)


def test_from_a_lazy_config(sets: list[str]) -> None:
    mapper = LazyCall(DatasetMapper)(
        is_train=True,
        augmentations=[LazyCall(T.RandomFlip)()],
        prompt=LazyCall(PromptSampler)(max_names=2),
        exclude_names=["dog"],
        super_names={"cat": "animal"},
        synonyms={"ship": ["boat"]},
        super_name_prob=0.5,
    )
    sources = [LazyCall(TrainSource)(name=n, weight=1.0, mapper=mapper) for n in sets]
    config = OmegaConf.create(
        {"train": LazyCall(build_train_loader)(sources=sources, total_batch_size=2, num_workers=0)}
    )
    loader = instantiate(config.train)
    assert len(take(loader, 2)[1]) == 2


@pytest.mark.parametrize(("workers", "size"), [(0, 1), (1, 4)])
def test_test_loader_gives_every_picture_once_in_order(sets: list[str], workers: int, size: int) -> None:
    loader = build_test_loader(
        dataset="t_b", mapper=DatasetMapper(is_train=False), num_workers=workers, batch_size=size
    )
    assert [s["image_id"] for b in loader for s in b] == list(range(100, 109)) and len(loader) == -(-9 // size)


@pytest.mark.parametrize("workers", [0, 1])
def test_test_loader_skips_nothing(sets: list[str], coco: Path, workers: int) -> None:
    (coco / "images/3.png").write_bytes(b"\x89PNG")
    loader = build_test_loader(dataset="t_a", mapper=DatasetMapper(is_train=False), num_workers=workers)
    with pytest.raises(InputError, match=r"^the file .*3.png is no picture") as caught:
        list(loader)
    assert "Traceback" not in str(caught.value)


def test_test_loader_of_records() -> None:
    with pytest.raises(DataError, match="no pictures"):
        build_test_loader(dataset=[], mapper=DatasetMapper(is_train=False))
    with pytest.raises(ConfigError, match="batch_size=0"):
        build_test_loader(dataset=[{}], mapper=DatasetMapper(is_train=False), batch_size=0)
