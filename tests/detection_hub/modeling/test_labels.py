"""Label policies: what an unlabelled object means."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, Instances

from detection_hub import DatasetContext
from detection_hub.modeling.labels import FEDERATED_NAMES, LabelSpace, taking_part
from detection_hub.modeling.targets import read_target
from openvocab.errors import ConfigError, DataError
from openvocab.vocabulary import Vocabulary

NAMES = ["animal", "dog", "puppy", "cat", "cup"]
ABOVE = {"dog": ["animal"], "cat": ["animal"], "puppy": ["dog"]}
CPU = torch.device("cpu")


def space(policy: str, names: list[str] | None = None, **more: object) -> LabelSpace:
    context = DatasetContext.create("set", names or NAMES, label_policy=policy, **more)
    return LabelSpace(name="set", vocabulary=context.vocabulary, scored=context.vocabulary, context=context)


def example(labels: list[int], boxes: list | None = None, **more: object) -> dict:
    truth = Instances((40, 40))
    truth.gt_boxes = Boxes(torch.tensor(boxes or [[1.0, 1.0, 9.0, 9.0]] * len(labels)).view(-1, 4))
    truth.gt_classes = torch.tensor(labels, dtype=torch.int64)
    return {"image": torch.zeros(3, 40, 40), "instances": truth, "file_name": "x.png", **more}


def named(mask: torch.Tensor, names: list[str] = NAMES) -> set[str]:
    return {n for n, on in zip(names, mask.tolist(), strict=True) if on}


def test_exhaustive_takes_all() -> None:
    target = read_target(example([1]), space("exhaustive"), CPU)
    assert target.mask is None and target.positives is None and target.size == (40, 40)


def test_partial_takes_positives_and_checked_negatives() -> None:
    mask = read_target(example([1], negative_classes=[4]), space("partial"), CPU).mask
    assert named(mask) == {"dog", "cup"}
    assert named(read_target(example([]), space("partial"), CPU).mask) == set()


def test_verified_knows_what_is_above_and_nothing_of_what_is_below() -> None:
    x = example([1], negative_classes=[4], positive_classes=[3])
    target = read_target(x, space("verified", hierarchy=ABOVE), CPU)
    assert named(target.mask) == {"animal", "dog", "cat", "cup"}  # puppy is unknown
    assert named(target.positives[0]) == {"animal", "dog"}
    deep = read_target(example([2]), space("verified", hierarchy=ABOVE), CPU)
    assert named(deep.positives[0]) == {"animal", "dog", "puppy"}


def test_the_hierarchy_follows_names_when_a_prompt_holds_only_some() -> None:
    whole = space("verified", hierarchy=ABOVE)
    words = Vocabulary.from_names(["cup", "puppy", "animal"])
    part = LabelSpace(name="set", vocabulary=words, scored=words, context=whole.context)
    assert named(read_target(example([1]), part, CPU).positives[0], list(words.names)) == {"puppy", "animal"}


def test_federated_fills_up_with_sampled_names_by_weight() -> None:
    names = [f"name {i}" for i in range(3 * FEDERATED_NAMES)]
    weights = [1.0] * (2 * FEDERATED_NAMES) + [0.0] * FEDERATED_NAMES
    federated = space("federated", names, weights=weights)
    torch.manual_seed(0)
    counts = torch.zeros(len(names))
    for _ in range(50):
        mask = taking_part(federated, torch.tensor([0, 149]), {"negative_classes": torch.tensor([148])})
        assert int(mask.sum()) == FEDERATED_NAMES and bool(mask[[0, 148, 149]].all())
        counts += mask
    assert int((counts[1:100] > 0).sum()) > 80  # all that may be drawn are, sooner or later
    assert float(counts[100:148].sum()) == 0  # of weight 0
    few = taking_part(space("federated", NAMES), torch.tensor([0]), {})
    assert bool(few.all())  # there are not more


def test_a_mask_of_the_pipelines_own() -> None:
    x = example([1], label_mask=[False, False, False, False, True])
    assert named(read_target(x, space("partial"), CPU).mask) == {"dog", "cup"}
    with pytest.raises(DataError, match="label_mask has the shape"):
        read_target(example([1], label_mask=[True]), space("partial"), CPU)


def test_naive_makes_every_foreign_name_a_negative() -> None:
    federated = space("federated")
    words = Vocabulary.from_names(["x", *NAMES])
    union = LabelSpace(
        name="set", vocabulary=federated.vocabulary, scored=words, columns=(1, 2, 3, 4, 5), context=federated.context
    )
    target = read_target(example([0, 4]), union, CPU)
    assert target.mask is None and target.labels.tolist() == [1, 5]


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_outside_the_taxonomy(label: int) -> None:
    with pytest.raises(DataError, match=rf"x\.png of 'set' has a box of class {label}, and its data set has the classes 0 to 4"):
        read_target(example([0, label]), space("exhaustive"), CPU)


@pytest.mark.parametrize("box", [[1.0, 1.0, float("nan"), 4.0], [5.0, 1.0, 2.0, 4.0], [1.0, 1.0, float("inf"), 4.0]])
def test_a_box_that_is_none(box: list[float]) -> None:
    with pytest.raises(DataError, match=r"x\.png of 'set' has the box"):
        read_target(example([0], [box]), space("exhaustive"), CPU)


def test_checked_classes_outside_the_taxonomy() -> None:
    with pytest.raises(DataError, match="checked classes"):
        read_target(example([0], negative_classes=[9]), space("partial"), CPU)


def test_contexts_say_what_is_wrong_with_them() -> None:
    with pytest.raises(ConfigError, match="no convention flag 'tigth'.*'tight'"):
        DatasetContext.create("a", ["x"], flags=["tigth"])
    with pytest.raises(ConfigError, match="label_policy='federate'.*'federated'"):
        DatasetContext.create("a", ["x"], label_policy="federate")
    with pytest.raises(DataError, match="hierarchy speaks of 'y'"):
        DatasetContext.create("a", ["x"], hierarchy={"x": ["y"]})
    with pytest.raises(DataError, match="2 weights for 1 names"):
        DatasetContext.create("a", ["x"], weights=[1, 2])
    with pytest.raises(DataError, match="not blank"):
        DatasetContext.create(" ", ["x"])
    with pytest.raises(ValueError, match="name"):
        DatasetContext.create("a", [])
    with pytest.raises(DataError, match="'name' and 'vocabulary'"):
        DatasetContext.from_dict({"name": "a"})


def test_contexts_are_values() -> None:
    flags = {"extent": "full", "loose": 0.5, "tight": 0}
    one = DatasetContext.create("a", ["x", "y"], flags=flags, weights=[1, 2], hierarchy={"x": "y"})
    assert one.flags == (("amodal", 1.0), ("loose", 0.5))
    again = DatasetContext.from_dict(one.to_dict())
    assert again == one and hash(again) == hash(one)
