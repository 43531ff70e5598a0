"""From nodes to objects."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable

import pytest
from detectron2.config import LazyCall as L
from detectron2.config import instantiate as reference
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from openvocab.config import instantiate
from openvocab.errors import ConfigError


@dataclasses.dataclass
class Settings:
    size: int = 1
    names: list = dataclasses.field(default_factory=list)


def keep(**kwargs: object) -> dict:
    return kwargs


def fails() -> None:
    raise TypeError("from inside")


NODES = {
    "nested": L(keep)(inner=L(nn.Linear)(in_features=2, out_features=3), numbers=[1, L(keep)(a=1)], group=dict(x=1)),
    "list": [L(keep)(a=1), 2, {"b": 3}],
    "list config": OmegaConf.create([1, {"a": 2}]),
    "no target": OmegaConf.create({"a": 1}),
    "plain": {"_target_": "torch.nn.Identity"},
    "structured": OmegaConf.structured(Settings(size=3)),
    "value": 3,
    "none": None,
    "text": "torch.nn.Linear",
    "target of a target": {"_target_": L(lambda: keep)(), "a": 1},
}


@pytest.mark.parametrize(
    "node", [v for k, v in NODES.items() if k != "target of a target"], ids=[k for k in NODES][:-1]
)
def test_the_same_as_detectron2(node: object) -> None:
    ours, theirs = instantiate(node), reference(node)
    assert type(ours) is type(theirs) and repr(ours) == repr(theirs)


def test_computed_targets_need_trust() -> None:
    node = NODES["target of a target"]
    with pytest.raises(ConfigError, match="not allowed"):
        instantiate(node)
    assert instantiate(node, trusted=True) == {"a": 1}


def test_names_need_the_allow_list_or_trust() -> None:
    node = OmegaConf.create({"_target_": "os.path.join", "a": "x"})
    with pytest.raises(ConfigError, match=r"'os\.path\.join' is not allowed"):
        instantiate(node)
    nested = {"_target_": keep, "list": [{"_target_": "collections.OrderedDict"}]}
    with pytest.raises(ConfigError, match=r"list\.0\._target_: the target 'collections"):
        instantiate(nested)
    assert instantiate(nested, trusted=True)["list"] == [{}]


def test_nothing_is_built_if_anything_is_refused() -> None:
    built: list[int] = []
    node = {"_target_": keep, "a": {"_target_": lambda: built.append(1)}, "b": {"_target_": "os.getcwd"}}
    with pytest.raises(ConfigError):
        instantiate(node)
    assert built == []


def test_python_configs_may_name_anything(load: Callable[..., DictConfig]) -> None:
    text = (
        "from detectron2.config import LazyCall as L\n"
        f"from {__name__} import Settings\n"
        "a = L(Settings)(size=4)\n"  # LazyCall keeps a dataclass by its name
        "b = dict(inner=dict(_target_='fractions.Fraction', numerator=1, denominator=2))\n"
    )
    cfg = load(text)
    assert isinstance(cfg.a._target_, str)
    assert instantiate(cfg.a).size == 4 and instantiate(cfg.b.inner) == 0.5
    for other in (cfg.copy(), pickle.loads(pickle.dumps(cfg)), OmegaConf.merge(cfg, {"x": 1})):
        assert instantiate(other.b.inner) == 0.5
    with pytest.raises(ConfigError, match="not allowed"):  # as plain data nobody knows where it came from
        instantiate(OmegaConf.to_container(cfg)["b"]["inner"])


def test_yaml_configs_may_not(load: Callable[..., DictConfig]) -> None:
    cfg = load("a: {_target_: torch.nn.Linear, in_features: 2, out_features: 3}", name="c.yaml")
    assert instantiate(cfg.a).in_features == 2
    cfg.a._target_ = "fractions.Fraction"  # changed later, past the check of the loader
    with pytest.raises(ConfigError, match="not allowed"):
        instantiate(cfg.a)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            L(nn.Linear)(in_feature=3, out_features=2),
            "Linear does not take the argument 'in_feature'. Did you mean 'in_features'",
        ),
        (
            L(nn.Linear)(in_features=3),
            "Linear cannot be called with in_features: missing a required argument: 'out_features'",
        ),
        ({"_target_": 3}, "not allowed"),
    ],
)
def test_arguments_that_do_not_fit(node: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        instantiate(node)


def test_type_errors_from_inside_stay_what_they_are() -> None:
    with pytest.raises(TypeError, match="from inside"):
        instantiate(L(fails)())


def test_lists_become_list_configs_only_where_they_were() -> None:
    built = instantiate(OmegaConf.create({"_target_": "torch.nn.Sequential"}))
    assert isinstance(built, nn.Sequential)
    values = instantiate(DictConfig({"_target_": keep, "x": [1]}, flags={"allow_objects": True}))
    assert isinstance(values["x"], ListConfig)
