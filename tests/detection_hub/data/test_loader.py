"""A hub's training loader: samples, shares, resume, processes, and shares that follow losses."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable

import pytest
from detectron2.data import transforms as T

from detection_hub import Hub, HubDataset
from detection_hub.data import GROUPINGS, HubTrainLoader, LossDriven, build_hub_loader
from detection_hub.data.loader import AHEAD
from openvocab.errors import ConfigError, DataError

from .conftest import SIZES, shapes, shapes_dataset


def hub(**more: object) -> Hub:
    return Hub([shapes_dataset("A", **more), shapes_dataset("B", train=shapes("B", num=3), label_policy="partial")])


def build(**more: object) -> HubTrainLoader:
    return build_hub_loader(**{"datasets": hub(), "total_batch_size": 4, "seed": 3, **more})


def take(loader: HubTrainLoader, count: int) -> list[list[dict]]:
    return list(itertools.islice(loader, count))


def prints(batches: list[list[dict]]) -> list[list[tuple]]:
    return [[(x["dataset"], x["file_name"], int(x["image"].long().sum()), len(x["instances"])) for x in b] for b in batches]


def losses(**values: float) -> dict:
    """As a model returns them."""
    return {name: {"loss_ce": v / 2, "loss_bbox": v / 2, "boxes": 9.0} for name, v in values.items()}


def test_samples_say_whose_they_are_and_count_its_names() -> None:
    names = {"A": ("person", "ball", "box"), "B": ("person", "box", "cone")}
    seen = Counter()
    for x in itertools.chain(*take(build(grouping="mixed"), 8)):
        seen[x["dataset"]] += 1
        assert x["vocabulary"].names == names[x["dataset"]] and x["image"].shape[1] in (48, 64)
        assert int(x["instances"].gt_classes.max()) < 3 and "ignore_boxes" in x
    assert set(seen) == {"A", "B"}


def test_checked_names_come_along(register: Callable) -> None:
    name = register("load_a", [[(0, 1, 1, 9, 9)]], ["cat", "dog"], neg_category_ids=[20])
    data = HubDataset(name="x", train=name, label_policy="federated", **SIZES)
    (batch,) = take(build(datasets=[data], total_batch_size=1), 1)
    assert batch[0]["negative_classes"] == [1]


def test_shares() -> None:
    assert build(alpha=0.0).shares == {"A": 0.5, "B": 0.5}
    assert build(alpha=1.0).shares == pytest.approx({"A": 0.8, "B": 0.2})  # 12 and 3 pictures
    assert build(alpha=0.5).shares["A"] == pytest.approx(2 / 3)
    assert build(alpha=0.0, datasets=hub(ratio=3.0)).shares["A"] == pytest.approx(0.75)


def test_the_order_of_data_sets_means_nothing() -> None:
    rows = list(hub())
    assert prints(take(build(datasets=rows), 5)) == prints(take(build(datasets=rows[::-1]), 5))


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_resume_is_exact(grouping: str) -> None:
    whole = prints(take(build(grouping=grouping), 9))
    first = build(grouping=grouping)
    take(first, 4)
    second = build(grouping=grouping)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert prints(take(second, 5)) == whole[4:]
    with pytest.raises(DataError, match="saved data position"):
        build(seed=4).load_state_dict(first.state_dict())


def test_reading_processes_change_nothing() -> None:
    assert prints(take(build(num_workers=1), 5)) == prints(take(build(), 5))


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_processes_share_the_batch_of_one_stream(grouping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prints(take(build(grouping=grouping), 8))
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    ranks = []
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda r=rank: r)
        ranks.append(prints(take(build(grouping=grouping), 8)))
    kinds = [[{p[0] for p in b} for b in batches] for batches in ranks]
    if grouping == "per_gpu":  # which pictures share a step depends on the number of processes, by its nature
        assert all(len(k) == 1 for both in kinds for k in both) and kinds[0] != kinds[1]
    else:
        assert [[one[0], two[0], one[1], two[1]] for one, two in zip(*ranks, strict=True)] == whole


def test_rare_names_come_more_often(register: Callable) -> None:
    name = register("load_b", [[(0, 1, 1, 9, 9)]] * 15 + [[(1, 1, 1, 9, 9)]], ["common", "rare"])
    drawn = {}
    for threshold in (0.0, 0.5):
        data = HubDataset(name="x", train=name, repeat_threshold=threshold, **SIZES)
        batches = take(build(datasets=[data]), 16)
        drawn[threshold] = sum(x["image_id"] == 16 for b in batches for x in b)
    assert drawn[0.0] == 4 and drawn[0.5] >= 8  # once a round of 16; sqrt(0.5 / (1 / 16)) = 2.8 times


def test_losses_change_the_shares_later_and_a_resume_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detection_hub.data.loader.AHEAD", 6)

    def run(loader: HubTrainLoader, steps: range) -> list:
        batches, seen = iter(loader), []
        for step in steps:
            seen += prints([next(batches)])
            if step % 3 == 0:
                loader.observe(losses(A=10.0 / (1 + step), B=5.0))
        return seen

    def new() -> HubTrainLoader:
        return build(grouping="mixed", alpha=0.0, loss_driven=LossDriven(power=2.0, limit=50.0, smoothing=0.0))

    whole = run(loader := new(), range(20))
    assert loader.shares["B"] > 0.9 and len(loader.changes) <= 4
    assert whole[:6] == prints(take(build(grouping="mixed", alpha=0.0), 6)), "what was read ahead stays as it was"
    late = Counter(name for b in whole[-5:] for name, *_ in b)
    assert late["B"] > late["A"]
    first, second = new(), new()
    run(first, range(11))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert run(second, range(11, 20)) == whole[11:]


def test_a_loader_without_a_driver_does_not_listen() -> None:
    loader = build()
    loader.observe(losses(A=1.0, B=2.0))
    assert loader.changes == [] and loader.state_dict()["hub"] == {"changes": [], "driver": None}
    assert len(loader.dataset) == 15


def test_numbers_that_do_not_fit() -> None:
    for more, words in (
        ({"share": 0.0}, "share=0.0"),
        ({"num_workers": AHEAD}, f"num_workers={AHEAD} is too many"),
        ({"total_batch_size": 0}, "cannot be met"),
        ({"grouping": "gpu"}, "grouping='gpu'"),
        ({"datasets": [shapes_dataset("A", train=())]}, "none of the hub's data sets .* to train on"),
    ):
        with pytest.raises(ConfigError, match=words):
            build(**more)
    with pytest.raises(DataError, match="at least one above 0"):
        build(datasets=[shapes_dataset("A", ratio=0.0)])


def test_augmentations_stand_before_the_resize() -> None:
    loader = build(augmentations=[T.RandomCrop("absolute", (32, 64))], aspect_ratio_grouping=False)
    assert {tuple(x["image"].shape[1:]) for b in take(loader, 5) for x in b} <= {(32, 64), (48, 96)}
