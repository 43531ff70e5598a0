"""Tensors into modules."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from openvocab.errors import WeightsError
from openvocab.io import load_into


def net() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), FrozenBatchNorm2d(4), nn.BatchNorm2d(4))
    for i, value in enumerate(model.state_dict().values()):
        value.fill_(i + 2)
    return model


def copy_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def test_frozen_batch_norm_keeps_what_the_file_does_not_have() -> None:
    model = net()
    before = copy_of(model)
    report = load_into(model, {"1.weight": torch.full((4,), 0.5)})
    assert report.matched == ["1.weight"] and "1.running_var" in report.missing
    after = copy_of(model)
    assert torch.equal(after.pop("1.weight"), torch.full((4,), 0.5))
    assert all(torch.equal(v, before[k]) for k, v in after.items())


def test_a_plain_partial_load_would_reset_it() -> None:
    """The trap itself, so that the test above means something."""
    model = net()
    model.load_state_dict({"1.weight": torch.full((4,), 0.5)}, strict=False)
    assert torch.equal(model[1].running_mean, torch.zeros(4))


@settings(max_examples=50, deadline=None)
@given(
    chosen=st.sets(st.sampled_from(sorted(net().state_dict()))),
    extra=st.sets(st.sampled_from(["x", "y.z", "0.weights"])),
    wrong=st.sets(st.sampled_from(sorted(net().state_dict()))),
)
def test_every_name_is_in_one_list_and_only_matches_change(chosen: set[str], extra: set[str], wrong: set[str]) -> None:
    model = net()
    before = copy_of(model)
    tensors = {k: torch.ones_like(before[k]) for k in chosen} | {k: torch.ones(1) for k in extra}
    tensors |= {k: torch.ones(7, 7) for k in wrong}
    report = load_into(model, tensors, min_matched=0)
    assert set(report.matched) == chosen - wrong and set(report.unexpected) == extra
    assert set(report.mismatched) == wrong == set(report.shapes)
    assert set(report.missing) == set(before) - chosen - wrong
    for name, value in model.state_dict().items():
        assert torch.equal(value, tensors[name] if name in report.matched else before[name])


def test_prefix() -> None:
    model = nn.Linear(2, 2)
    report = load_into(model, {"head.weight": torch.zeros(2, 2), "other.bias": torch.zeros(2)}, prefix="head.")
    assert report.matched == ["weight"] and report.unexpected == ["other.bias"] and report.missing == ["bias"]


@pytest.mark.parametrize(
    ("tensors", "hint"),
    [
        ({"module.0.weight": torch.zeros(4, 3, 1, 1)}, r"pass prefix='module\.'"),
        ({"a.b.1.weight": torch.zeros(4)}, r"pass prefix='a\.b\.'"),
        ({"nothing.like.it": torch.zeros(4)}, r"unexpected \(nothing\.like\.it\)\)\.$"),
    ],
)
def test_another_architecture(tensors: dict[str, torch.Tensor], hint: str) -> None:
    model = net()
    before = copy_of(model)
    with pytest.raises(WeightsError, match=rf"another architecture: 0 of at least 1 .*{hint}"):
        load_into(model, tensors)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_weights_of_a_part() -> None:
    model = nn.ModuleDict({"backbone": net()})
    with pytest.raises(WeightsError, match="load into its 'backbone' instead"):
        load_into(model, net().state_dict())


def test_min_matched_and_strict() -> None:
    model, full = net(), net().state_dict()
    assert len(load_into(model, full, strict=True).matched) == len(full)
    partial = {k: v for k, v in full.items() if k.startswith("0.")}
    with pytest.raises(WeightsError, match="2 of at least 3"):
        load_into(model, partial, min_matched=3)
    with pytest.raises(WeightsError, match=f"do not fit exactly: 2 tensors matched; {len(full) - 2} missing"):
        load_into(model, partial, strict=True)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (float("nan"), torch.float32),
        (float("inf"), torch.float32),
        (-float("inf"), torch.bfloat16),
        (float("nan"), torch.float8_e4m3fn),  # has no isfinite of its own
    ],
)
def test_weights_that_are_not_finite(value: float, dtype: torch.dtype) -> None:
    model = nn.Linear(2, 1)
    before = copy_of(model)
    bad = {"weight": torch.tensor([[1.0, value]]).to(dtype), "bias": torch.ones(1)}
    with pytest.raises(WeightsError, match="1 of 2 tensors hold NaN or infinity, such as weight"):
        load_into(model, bad)
    assert torch.equal(model.weight, before["weight"]) and torch.equal(model.bias, before["bias"])
    load_into(model, bad, allow_nonfinite=True)
    assert not torch.isfinite(model.weight).all() and model.bias.item() == 1


def test_numbers_too_large_for_the_model() -> None:
    with pytest.raises(WeightsError, match="NaN or infinity"):
        load_into(nn.Linear(1, 1).half(), {"weight": torch.tensor([[1e30]]), "bias": torch.zeros(1)})


def test_report_is_one_line_with_five_examples() -> None:
    report = load_into(net(), {f"x{i}": torch.ones(1) for i in range(8)} | {"0.bias": torch.ones(3)}, min_matched=0)
    text = str(report)
    assert "\n" not in text and text.startswith("0 tensors matched; ")
    assert "8 unexpected (x0, x1, x2, x3, x4, ...)" in text
    assert "1 mismatched (0.bias: [3] in the file, [4] in the model)" in text


def test_extra_state_is_left_alone() -> None:
    class Stateful(nn.Linear):
        def get_extra_state(self) -> dict:
            return {"steps": 3}

        def set_extra_state(self, state: dict) -> None:
            assert state == {"steps": 3}

    report = load_into(Stateful(1, 1), {"weight": torch.ones(1, 1)})
    assert report.matched == ["weight"] and report.missing == ["_extra_state", "bias"]
