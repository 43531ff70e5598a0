"""Few-shot choice: ODinW's walk, k of each class, the same for a seed whatever the order, in any training source."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.data import DatasetMapper, FewShot, TrainSource, build_train_loader, register_coco_folder
from openvocab.data.few_shot import classes_of
from openvocab.errors import ConfigError, DataError

from .conftest import write_coco


def record(image_id: int, *classes: int, crowd: bool = False) -> dict:
    return {"image_id": image_id, "annotations": [{"category_id": c, "iscrowd": int(crowd)} for c in classes]}


def ids(records: list[dict]) -> list[int]:
    return [r["image_id"] for r in records]


def walked(records: list[dict], shots: int) -> list[int]:
    """ODinW's rule, written down again: what is still needed of each class goes down by one a picture."""
    needed = {c: shots for r in records for c in classes_of(r)}
    chosen = []
    for r in records:
        if any(needed[c] > 0 for c in classes_of(r)):
            chosen.append(r["image_id"])
            for c in classes_of(r):
                needed[c] -= 1
    return chosen


RECORDS = st.lists(st.sets(st.integers(0, 3), min_size=1), min_size=1, max_size=25).map(
    lambda rows: [record(10 + i, *row) for i, row in enumerate(rows)]
)


def test_without_a_seed_it_is_the_walk_by_ids() -> None:
    records = [record(5, 0), record(1, 0, 1), record(2, 0), record(3, 1), record(4, 2), record(6, 2)]
    assert ids(FewShot(shots=1, seed=None)(records)) == [1, 4]
    assert ids(FewShot(shots=2, seed=None)(records)) == [1, 2, 3, 4, 6]
    assert ids(FewShot(shots=0)(records)) == ids(records)


@settings(deadline=None, max_examples=40)
@given(records=RECORDS, shots=st.integers(1, 5), seed=st.integers(0, 5))
def test_every_class_has_its_shots(records: list[dict], shots: int, seed: int) -> None:
    chosen = FewShot(shots=shots, seed=seed, allow_fewer=True)(records)
    there, kept = (Counter(c for r in rows for c in classes_of(r)) for rows in (records, chosen))
    assert all(kept[c] >= min(shots, there[c]) for c in there)
    assert ids(chosen) == sorted(ids(chosen)) and set(ids(chosen)) <= set(ids(records))
    assert ids(FewShot(shots=shots, seed=seed, allow_fewer=True)(records[::-1])) == ids(chosen), "the order given is no matter"
    assert ids(FewShot(shots=shots, seed=None, allow_fewer=True)(records)) == walked(records, shots)


def test_seeds_choose_differently_and_always_the_same() -> None:
    records = [record(i, i % 3) for i in range(60)]
    chosen = {seed: tuple(ids(FewShot(shots=3, seed=seed)(records))) for seed in range(5)}
    assert len(set(chosen.values())) == 5 and all(len(c) == 9 for c in chosen.values())
    few, more = (set(ids(FewShot(shots=k, seed=4)(records))) for k in (1, 5))
    assert few < more, "a seed's smaller sets lie within its larger ones"


def test_a_class_with_fewer_pictures_is_an_error() -> None:
    records = [record(1, 0), record(2, 0, 1), record(3, 1, crowd=True)]
    with pytest.raises(DataError, match="2 shots of class 1 are asked for, and it is in 1 of 3 pictures"):
        FewShot(shots=2)(records)
    assert ids(FewShot(shots=2, allow_fewer=True, seed=None)(records)) == [1, 2], "a crowd is no shot"
    with pytest.raises(ConfigError, match="shots=-1"):
        FewShot(shots=-1)


def test_a_name_without_any_box_is_named(tmp_path: Path) -> None:
    write_coco(tmp_path, names=("cat", "dog", "red_car"), count=1)
    register_coco_folder("few_shot_lacking", root=tmp_path, annotations="train.json", images="images")
    source = TrainSource(name="few_shot_lacking", mapper=DatasetMapper(is_train=True), select=FewShot(shots=1))
    with pytest.raises(DataError, match="'red_car' are asked for, and it is in 0 of 1 pictures of 'few_shot_lacking'"):
        source.load()


def test_a_training_source_reads_its_shots_alone(tmp_path: Path) -> None:
    write_coco(tmp_path, count=12)
    register_coco_folder("few_shot_source", root=tmp_path, annotations="train.json", images="images")
    source = TrainSource(name="few_shot_source", mapper=DatasetMapper(is_train=True), select=FewShot(shots=2, seed=1))
    chosen = set(ids(source.load()))
    assert 3 <= len(chosen) < 12
    batches = iter(build_train_loader(sources=[source], total_batch_size=2, aspect_ratio_grouping=False))
    assert {x["image_id"] for _ in range(12) for x in next(batches)} == chosen
