"""`HubDataset` and `Hub`: what they are made of, and all that they refuse."""

from __future__ import annotations

import pytest

from detection_hub import Hub, HubDataset
from detection_hub.data import DerivedSet
from detection_hub.data.dataset import read_dataset
from openvocab.errors import ConfigError, DataError, VocabularyError

from .conftest import shapes, shapes_dataset


def cells(**more: object) -> HubDataset:
    fields = {"name": "cells", "train": "nowhere_train", "test": "nowhere_val", "classes": ["RBC", "WBC"], "flags": ["loose"]}
    return HubDataset(**{**fields, **more})


def test_classes_may_be_a_built_in_list() -> None:
    assert len(HubDataset(name="a", classes="lvis").vocabulary) == 1203
    with pytest.raises(VocabularyError, match="the classes of 'a' cannot be used.*'lvsi'"):
        HubDataset(name="a", classes="lvsi")


def test_a_context_needs_nothing_on_the_disk() -> None:
    words = {"aliases": {"RBC": "red blood cell"}, "templates": ["a {} here"]}
    data = cells(**words, label_policy="partial", evaluator="lvis", loss_weight=0.5)
    context = data.context()
    assert context.name == "cells" and context.vocabulary.names == ("RBC", "WBC")
    assert context.vocabulary.prompts == ("red blood cell", "WBC") and context.vocabulary.templates == ("a {} here",)
    assert context.sources == ("nowhere_train", "nowhere_val") and context.flags == (("loose", 1.0),)
    assert (context.label_policy, context.evaluator, context.loss_weight) == ("partial", "lvis", 0.5)
    assert cells(evaluator=print).context().evaluator == "print"
    with pytest.raises(ConfigError, match="no evaluator 'cocoo'.*'coco'"):
        cells(evaluator="cocoo")


def test_names_come_from_the_first_split() -> None:
    assert shapes_dataset("A").vocabulary.names == ("person", "ball", "box")
    with pytest.raises(DataError, match="no data set 'nowhere_train'"):
        cells(classes=None).context()


def test_a_hub_is_a_mapping_whose_order_means_nothing() -> None:
    one, other = (Hub([cells(), cells(name="more", train="b", test="c")][::step]) for step in (1, -1))
    assert one.names == other.names == ("cells", "more") and len(one) == 2 and "more" in one
    assert [c.name for c in one.contexts()] == [c.name for c in other.contexts()]
    assert one.only("more").names == ("more",)
    with pytest.raises(DataError, match="no data set 'cell'. Did you mean 'cells'"):
        one["cell"]


def test_dicts_as_yaml_has_them() -> None:
    split = {"source": "nowhere_train", "part": [1, 2], "names": {"RBC": "red"}}
    data = read_dataset({"name": "x", "train": [split, "other"], "test": None, "classes": ["red"], "flags": {"fit": "tight"}})
    assert isinstance(data.train[0], DerivedSet) and data.train[0].part == (1, 2) and data.train[1] == "other"
    assert data.context().sources == ("nowhere_train__1of2__RBC=red", "other")
    with pytest.raises(DataError, match="no field 'ratios'. Did you mean 'ratio'"):
        read_dataset({"name": "x", "ratios": 2})
    with pytest.raises(DataError, match="needs a 'name'"):
        read_dataset({"train": "x"})


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"name": " "}, ConfigError, "cannot name"),
        ({"name": "hub"}, ConfigError, "'hub' cannot name"),
        ({"train": (), "test": None, "classes": None}, ConfigError, "neither train, test nor classes"),
        ({"classes": []}, VocabularyError, "the classes of 'cells'"),
        ({"classes": ["a", "a"]}, VocabularyError, "the classes of 'cells'"),
        ({"aliases": {"RBC": " "}}, ConfigError, "the alias of 'RBC' is empty"),
        ({"aliases": {"RBCs": "red"}}, ConfigError, "'RBCs', no name of it. Did you mean 'RBC'"),
        ({"flags": ["lose"]}, ConfigError, "no convention flag 'lose'"),
        ({"label_policy": "full"}, ConfigError, "label_policy='full'"),
        ({"hierarchy": {"RBC": ["cell"]}}, DataError, "the hierarchy speaks of 'cell'"),
        ({"weights": [1.0]}, DataError, "1 weights for 2 names"),
        ({"ratio": -1}, ConfigError, "ratio=-1"),
        ({"repeat_threshold": float("nan")}, ConfigError, "repeat_threshold=nan"),
        ({"min_sizes": []}, ConfigError, "must lie in 1..max_size"),
        ({"test_size": 2000}, ConfigError, "2000 must lie in 1..max_size=1333"),
    ],
)
def test_what_a_data_set_cannot_be(fields: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        cells(**fields)


def test_what_a_hub_cannot_be() -> None:
    for rows, words in (
        ([], "at least one"),
        ([cells(), cells(train="x", test="y")], "the data set 'cells'"),
        ([cells(), cells(name="b", train="x")], "the split 'nowhere_val': 'cells' and 'b'"),
        ([cells(), cells(name="nowhere_val", train="x", test="y")], "'nowhere_val'"),
    ):
        with pytest.raises(ConfigError, match=words):
            Hub(rows)


def test_train_and_test_may_be_one_split() -> None:
    name = shapes("A")
    assert Hub([HubDataset(name="a", train=name, test=name)]).contexts()[0].sources == (name,)
