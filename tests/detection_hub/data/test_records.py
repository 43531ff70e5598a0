"""Records: labels count the data set's own names, and what does not fit is said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from detection_hub import HubDataset
from detection_hub.data import hub_test_records, train_records
from detection_hub.data.records import read_split
from openvocab.errors import DataError

BOXES = [[(0, 1, 2, 8, 9)], [(1, 3, 3, 5, 5), (2, 9, 9, 4, 4)], []]


def labels(rows: list[dict]) -> list[list[int]]:
    return [[a["category_id"] for a in row["annotations"]] for row in rows]


def test_labels_count_the_data_sets_own_names(register: Callable) -> None:
    name = register("rec_a", BOXES, ["cat", "dog", "ship"])
    assert labels(train_records(HubDataset(name="x", train=name))) == [[0], [1, 2], []]
    other = HubDataset(name="x", train=name, test=name, classes=["ship", "boat", "dog", "cat"])
    assert labels(train_records(other)) == labels(hub_test_records(dataset=other)) == [[3], [2, 0], []]


def test_names_are_found_by_prompt_too(register: Callable) -> None:
    name = register("rec_b", BOXES, ["cat", "dog", "red ship"])
    data = HubDataset(name="x", train=name, classes=["dog", "cat", "vessel"], aliases={"vessel": "red ship"})
    assert labels(train_records(data)) == [[1], [0, 2], []]


def test_splits_are_joined(register: Callable) -> None:
    one, two = register("rec_c", BOXES, ["cat", "dog", "ship"]), register("rec_d", BOXES[:1], ["dog", "cat"])
    data = HubDataset(name="x", train=[one, two], classes=["cat", "dog", "ship"])
    assert labels(train_records(data)) == [[0], [1, 2], [], [1]]


def test_names_outside_the_classes(register: Callable) -> None:
    name = register("rec_e", BOXES, ["cat", "dog", "ship"])
    data = HubDataset(name="x", train=name, test=name, classes=["dog"])
    for read in (lambda: train_records(data), lambda: hub_test_records(dataset=data)):
        with pytest.raises(DataError, match=r"'x': 2 of 3 names of 'rec_e' are none of its 1 classes \(cat, ship\)"):
            read()


def test_a_label_outside_the_taxonomy() -> None:
    boxes = [{"bbox": [1, 1, 2, 2], "bbox_mode": 1, "category_id": 7}]
    rows = [{"file_name": "p.png", "height": 9, "width": 9, "annotations": boxes}]
    DatasetCatalog.register("rec_f", lambda: rows)
    MetadataCatalog.get("rec_f").thing_classes = ["cat", "dog"]
    try:
        with pytest.raises(DataError, match="'x': p.png has a box of class 7, and its set has the classes 0 to 1"):
            train_records(HubDataset(name="x", train="rec_f"))
    finally:
        DatasetCatalog.remove("rec_f")
        MetadataCatalog.remove("rec_f")


def test_nothing_to_train_or_test_on(register: Callable) -> None:
    name = register("rec_g", [[], []], ["cat"])
    with pytest.raises(DataError, match="'x' has no box in its 2 training pictures"):
        train_records(HubDataset(name="x", train=name, keep_empty=True))
    with pytest.raises(DataError, match="no split to train on"):
        train_records(HubDataset(name="x", classes=["cat"]))
    with pytest.raises(DataError, match="no split to be tested on"):
        hub_test_records(dataset=HubDataset(name="x", train=name))


def test_checked_names(register: Callable) -> None:
    """LVIS's and OpenImages' lists hold category ids; the detector reads places in the data set's names."""
    lists = {"neg_category_ids": [30, 10], "pos_category_ids": [20]}
    name = register("rec_h", BOXES, ["cat", "dog", "ship"], **lists)
    row = read_split(HubDataset(name="x", train=name, classes=["ship", "dog", "cat"]), name)[0]
    assert row["negative_classes"] == [0, 2] and row["positive_classes"] == [1]
    name = register("rec_i", BOXES, ["cat", "dog", "ship"], neg_category_ids=[11])
    with pytest.raises(DataError, match="0.png lists category 11 as checked"):
        read_split(HubDataset(name="x", train=name), name)


def test_a_share_is_a_fixed_choice_and_part_of_a_larger_one(register: Callable) -> None:
    name = register("rec_j", [[(0, 1, 1, 5, 5)]] * 20, ["cat"])
    data = HubDataset(name="x", train=name)
    chosen = {share: {r["image_id"] for r in train_records(data, share)} for share in (0.01, 0.25, 0.5, 1.0)}
    assert [len(c) for c in chosen.values()] == [1, 5, 10, 20]
    assert chosen[0.01] < chosen[0.25] < chosen[0.5] < chosen[1.0] and chosen[0.25] != set(range(1, 6))
