"""`hub_test` and the swap matrix, judged with a detector that knows the answers."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from detection_hub import Hub, HubDataset
from detection_hub.data import DerivedSet
from detection_hub.evaluation import build_hub_evaluator, hub_test, hub_test_sets, swap_test
from openvocab.errors import ConfigError, DataError
from openvocab.evaluation import COCODetectionEvaluator, LVISEvaluator

from ..conftest import awake, build_tiny
from ..data.conftest import SIZES, register, shapes, shapes_dataset  # noqa: F401  a fixture
from .oracle import Oracle

KEYS = {"AP", "AP50", "AP75", "worst"}


def two() -> Hub:
    """A's pictures in two conventions: as they are, and with other words, fewer names, and boxes 1.4 times as large."""
    val = shapes("A", "val")
    loose = DerivedSet(source=val, names={"box": "crate", "person": "person"}, box_scale=1.4)
    return Hub(
        [
            HubDataset(name="tight", test=val, aliases={"box": "crate"}, **SIZES),
            HubDataset(name="loose", test=loose, flags=["loose"], **SIZES),
        ]
    )


class Counter(DatasetEvaluator):
    """An evaluator of one's own."""

    def __init__(self, dataset_name: str, **options: object) -> None:
        self.name, self.options, self.seen = dataset_name, options, 0

    def reset(self) -> None:
        self.seen = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        self.seen += len(inputs)

    def evaluate(self) -> dict:
        return {"count": {"pictures": float(self.seen)}}


# ---- hub_test ---------------------------------------------------------------------------------------------------------


def test_always_the_same_shape() -> None:
    hub = two()
    model = Oracle(hub).train()
    results = hub_test(model, hub)
    assert set(results) == {"tight", "loose", "hub"} and set(results["hub"]) == KEYS and model.training
    assert results["tight"]["bbox"]["AP"] == results["hub"]["AP"] == results["hub"]["worst"] == pytest.approx(100)
    assert {x["dataset"] for x in model.asked} == {"tight", "loose"} and len(model.asked) == 24
    one = hub_test(model, hub.only("loose"))
    assert set(one) == {"loose", "hub"} and set(one["hub"]) == KEYS
    counted = Hub([HubDataset(name="mine", test=shapes("A", "val"), evaluator=Counter, **SIZES)])
    own = hub_test(Oracle(counted), counted, batch_size=5)
    assert own["mine"] == {"count": {"pictures": 12.0}} and set(own["hub"]) == KEYS and own["hub"]["AP"] != own["hub"]["AP"]


def test_mean_and_worst() -> None:
    hub = two()
    results = hub_test(Oracle(hub, change=lambda b: b + 0.06 * (b[:, 2:] - b[:, :2]).repeat(1, 2)), hub)
    rows = [results[name]["bbox"] for name in hub.names]
    for key in ("AP", "AP50", "AP75"):
        assert results["hub"][key] == pytest.approx(sum(r[key] for r in rows) / 2) and 0 < results["hub"]["AP"] < 95
    blind = hub_test(Oracle(hub, blind="tight"), hub)
    assert blind["tight"]["bbox"]["AP75"] == pytest.approx(100) and blind["loose"]["bbox"]["AP75"] == pytest.approx(0)
    assert blind["hub"]["worst"] == blind["loose"]["bbox"]["AP"] < 15 and blind["hub"]["AP75"] == pytest.approx(50)


def test_pictures_have_their_data_sets_own_size() -> None:
    rows = [shapes_dataset("A"), shapes_dataset("B", test_size=64)]
    sizes = {name: tuple(next(iter(s.loader))[0]["image"].shape) for name, s in hub_test_sets(rows).items()}
    assert sizes == {"A": (3, 48, 48), "B": (3, 64, 64)}
    free = hub_test_sets(rows, augmentations=[])
    assert next(iter(free["A"].loader))[0]["image"].shape == (3, 96, 96)
    with pytest.raises(DataError, match="none of the hub's data sets"):
        hub_test_sets([shapes_dataset("A", test=None)])


def test_a_data_set_the_model_does_not_know_is_judged_by_its_names(caplog: pytest.LogCaptureFixture) -> None:
    model = awake(build_tiny())
    with caplog.at_level(logging.WARNING):
        results = hub_test(model, [shapes_dataset("A")])
    assert caplog.text.count("does not know the data set 'A'") == 1 and 0 <= results["hub"]["AP"] <= 100


# ---- who judges -------------------------------------------------------------------------------------------------------


def test_evaluators_by_name_and_by_the_catalog(register: Callable) -> None:  # noqa: F811
    lists = {"neg_category_ids": [10], "not_exhaustive_category_ids": []}
    name = register("judge_a", [[(1, 1, 1, 9, 9)]], ["cat", "dog"], **lists)

    def build(**more: object) -> object:
        return build_hub_evaluator(dataset=HubDataset(name="x", test=name, **more))

    assert type(build()) is COCODetectionEvaluator and type(build(evaluator="lvis")) is LVISEvaluator
    MetadataCatalog.get(name).evaluator_type  # noqa: B018  there is one
    assert build(classes=["dog", "cat"]).vocabulary.names == ("dog", "cat")
    own = build(evaluator=Counter)
    assert own.name == name and own.options["vocabulary"].names == ("cat", "dog")
    with pytest.raises(ConfigError, match="'x': there is no evaluator 'coc'. Did you mean 'coco'"):
        build(evaluator="coc")
    with pytest.raises(ConfigError, match="Pascal VOC evaluator needs classes in the order"):
        build(evaluator="pascal_voc", classes=["dog", "cat"])
    with pytest.raises(DataError, match="1 of 2 names of 'judge_a' are none"):
        build(classes=["dog"])
    with pytest.raises(DataError, match="no split to be tested on"):
        build_hub_evaluator(dataset=HubDataset(name="x", train=name))


def test_the_catalog_says_lvis(register: Callable) -> None:  # noqa: F811
    lists = {"neg_category_ids": [10], "not_exhaustive_category_ids": []}
    name = register("judge_b", [[(0, 1, 1, 9, 9)]], ["cat"], **lists)
    metadata = MetadataCatalog.get(name).as_dict()
    MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(**{**metadata, "evaluator_type": "lvis"})
    assert type(build_hub_evaluator(dataset=HubDataset(name="x", test=name))) is LVISEvaluator


# ---- the swap matrix --------------------------------------------------------------------------------------------------


def test_a_detector_that_follows_contexts_fails_in_the_wrong_one() -> None:
    hub = two()
    model = Oracle(hub)
    matrix = swap_test(model, hub)
    assert set(matrix) == {"tight", "loose", "hub"} and set(matrix["tight"]) == {"loose"} and set(matrix["loose"]) == {"tight"}
    for one, other in (("tight", "loose"), ("loose", "tight")):
        cell = matrix[one][other]
        assert cell["names"] == 2 and cell["AP75_own"] == pytest.approx(100) and cell["AP75"] == pytest.approx(0)
        assert cell["AP_own"] - cell["AP"] > 85
    assert matrix["hub"]["AP75"] == pytest.approx(100)
    names = {x["dataset"]: x["vocabulary"].names for x in model.asked}
    assert names == {"tight": ("person", "ball", "box"), "loose": ("crate", "person")}, "each context has its own names"


def test_a_detector_without_contexts_shows_no_difference() -> None:
    matrix = swap_test(Oracle(two(), blind="tight"), two())
    assert matrix["hub"] == pytest.approx({"AP": 0, "AP50": 0, "AP75": 0})
    assert matrix["tight"]["loose"]["AP75_own"] == pytest.approx(100) and matrix["loose"]["tight"]["AP75_own"] == pytest.approx(0)


def test_what_cannot_be_swapped() -> None:
    hub = two()
    with pytest.raises(DataError, match="no two of the data sets tight share a name"):
        swap_test(Oracle(hub), hub.only("tight"))
    with pytest.raises(DataError, match="does not know the data set 'loose'"):
        swap_test(build_tiny(), hub)
    persons = DerivedSet(source=shapes("A", "val"), names={"person": "person"})
    counted = Hub([*hub.only("tight"), HubDataset(name="own", test=persons, evaluator=Counter)])
    assert set(swap_test(Oracle(counted), counted)) == {"tight", "hub"}, "an evaluator of one's own cannot leave names out"


def test_a_swap_leaves_the_model_as_it_was() -> None:
    model = build_tiny().train()
    model.set_datasets(two().contexts())
    hub_test(model, two())  # the mean of all names is computed now
    before = {k: v.clone() for k, v in model.state_dict().items()}
    matrix = swap_test(model, two(), batch_size=4)
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert set(matrix) == {"tight", "loose", "hub"}
