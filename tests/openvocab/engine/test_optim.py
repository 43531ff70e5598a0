from __future__ import annotations

import copy

import pytest
import torch
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from torch import nn

from openvocab.engine import LearningRate, build_adamw, build_sgd, param_groups
from openvocab.errors import ConfigError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.text = nn.Linear(4, 4)
        self.tied = self.text
        self.scale = nn.Parameter(torch.ones(4))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def by_name(model: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    where = {p: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    return {n: where[p] for n, p in model.named_parameters() if p in where}


def test_groups_cover_what_trains_once():
    model = Net()
    groups = param_groups(model, lr=1.0, weight_decay=0.1)
    listed = [p for g in groups for p in g["params"]]
    assert len(listed) == len(set(listed)) == sum(p.requires_grad for p in model.parameters())
    assert len({(g["lr"], g["weight_decay"]) for g in groups}) == len(groups)


def test_norms_biases_and_scales_are_not_decayed():
    model = Net()
    found = by_name(model, param_groups(model, lr=1.0, weight_decay=0.1, bias_lr_factor=2.0))
    assert found["text.weight"] == (1.0, 0.1) and found["text.bias"] == (2.0, 0.0)
    assert found["backbone.1.weight"] == (1.0, 0.0) and found["scale"] == (1.0, 0.0)
    assert by_name(model, param_groups(model, lr=1.0, weight_decay=0.1, norm_weight_decay=None))["scale"] == (1.0, 0.1)


def test_overrides_by_part_of_a_name():
    model = Net()
    overrides = {"backbone": {"lr_factor": 0.5}, "backbone.0.weight": {"lr_factor": 0.5, "weight_decay": 0.3}}
    found = by_name(model, param_groups(model, lr=1.0, weight_decay=0.1, overrides=overrides))
    assert found["backbone.0.weight"] == (0.25, 0.3) and found["backbone.1.weight"] == (0.5, 0.0)
    assert found["text.weight"] == (1.0, 0.1)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [({"backbon3": {"lr_factor": 1}}, ["backbon3", "backbone"]), ({"text": {"lr": 1}}, ["'lr'", "lr_factor"])],
)
def test_overrides_that_do_not_fit_are_named(overrides, words):
    with pytest.raises(ConfigError) as error:
        build_adamw(model=Net(), lr=1.0, overrides=overrides)
    assert all(w in str(error.value) for w in words), str(error.value)


def test_nothing_to_train_is_an_error():
    with pytest.raises(ConfigError, match="frozen"):
        build_sgd(model=Net().requires_grad_(False), lr=1.0)


@pytest.mark.parametrize("build", [build_adamw, build_sgd])
def test_a_step_is_torchs_own(build):
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 1, bias=False), nn.Linear(3, 1, bias=False)
    theirs.load_state_dict(ours.state_dict())
    kinds = {build_adamw: (torch.optim.AdamW, {}), build_sgd: (torch.optim.SGD, {"momentum": 0.9})}
    kind, extra = kinds[build]
    pair = build(model=ours, lr=0.1, weight_decay=0.2), kind(theirs.parameters(), lr=0.1, weight_decay=0.2, **extra)
    x = torch.randn(5, 3)
    for _ in range(3):
        for model, optimizer in zip((ours, theirs), pair, strict=True):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)


def test_loaded_averages_are_laid_out_as_their_parameters_are():
    """The fused kernel reads memory in order: averages saved with other strides would meet the wrong weights."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)

    def step(conv: nn.Conv2d, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        conv(x).square().sum().backward()
        optimizer.step()

    plain = nn.Conv2d(3, 4, 3)
    optimizer = build_adamw(model=plain, lr=0.1)
    assert all(group["fused"] for group in optimizer.param_groups)
    step(plain, optimizer)
    other = nn.Conv2d(3, 4, 3)
    other.load_state_dict(plain.state_dict())
    other.to(memory_format=torch.channels_last)
    resumed = build_adamw(model=other, lr=0.1)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for conv, its in ((plain, optimizer), (other, resumed)):
        step(conv, its)
    assert torch.allclose(plain.weight, other.weight, atol=1e-5)


def test_gradients_of_other_strides_meet_the_right_weights():
    torch.manual_seed(0)
    convs = [nn.Conv2d(3, 4, 3, bias=False) for _ in range(2)]
    convs[1].load_state_dict(convs[0].state_dict())
    convs[1].to(memory_format=torch.channels_last)
    gradient = torch.randn(4, 3, 3, 3)
    for conv in convs:
        optimizer = build_adamw(model=conv, lr=0.1)
        conv.weight.grad = gradient.clone()
        optimizer.step()
    assert torch.allclose(convs[0].weight, convs[1].weight, atol=1e-6)


def test_a_step_counts_as_a_change_of_the_parameters():
    """torch's fused step leaves `_version` as it is, by which caches of what parameters give know that they are old."""
    model = nn.Linear(3, 1)
    optimizer = build_adamw(model=model, lr=0.1)
    before = model.weight._version
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    assert model.weight._version > before


def test_the_form_of_the_optimizer_is_not_taken_from_a_checkpoint():
    model = nn.Linear(3, 1)
    plain = torch.optim.AdamW([{"params": [p]} for p in model.parameters()], fused=False)
    model(torch.randn(2, 3)).sum().backward()
    plain.step()
    optimizer = build_adamw(model=model, lr=0.1)
    optimizer.load_state_dict({**plain.state_dict(), "param_groups": [
        {**theirs, "params": ours["params"]}
        for ours, theirs in zip(optimizer.state_dict()["param_groups"], plain.state_dict()["param_groups"], strict=True)
    ]})  # fmt: skip
    assert all(group["fused"] for group in optimizer.param_groups)
    optimizer.step()
    part = nn.Linear(4, 4, bias=False)
    part.weight = nn.Parameter(torch.randn(4, 8)[:, ::2])
    assert not build_adamw(model=part, lr=0.1).param_groups[0]["fused"], "its memory holds others' numbers too"


class Clock:
    """What a hook sees of a trainer."""

    def __init__(self, iteration: int, max_iter: int) -> None:
        self.iter, self.max_iter, self.storage = iteration, max_iter, self
        self.shown: dict[str, float] = {}

    def put_scalar(self, name: str, value: float, **_: object) -> None:
        self.shown[name] = value


def rates(schedule: object, iterations: list[int], max_iter: int) -> list[float]:
    groups = [{"params": [nn.Parameter(torch.ones(n))], "lr": lr} for n, lr in ((9, 2.0), (1, 1.0))]
    optimizer = torch.optim.SGD(groups)
    hook = LearningRate(optimizer=optimizer, schedule=schedule)
    found = []
    for iteration in iterations:
        hook.trainer = Clock(iteration, max_iter)
        hook.before_step()
        found.append(hook.trainer.shown["lr"])
        assert optimizer.param_groups[1]["lr"] == pytest.approx(found[-1] / 2)
    return found


def test_warm_up_then_cosine():
    schedule = WarmupParamScheduler(CosineParamScheduler(1.0, 0.0), warmup_factor=0.0, warmup_length=0.1)
    start, half, top, middle, end = rates(schedule, [0, 5, 10, 50, 99], 100)
    assert start == 0 and half == pytest.approx(top / 2) and middle == pytest.approx(1.0) and end < 0.001
    assert top == pytest.approx(2 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * 0.1)).item()))


def test_the_rate_depends_on_the_iteration_alone():
    schedule = MultiStepParamScheduler([1.0, 0.1], milestones=[6, 10])
    assert rates(schedule, [7, 2, 7], 10) == pytest.approx([0.2, 2.0, 0.2])
    assert rates(schedule, [70], 100) == rates(schedule, [7], 10)


def test_weight_decay_may_have_a_schedule_of_its_own():
    model = Net()
    schedule = MultiStepParamScheduler([1.0, 0.1, 0.01], milestones=[45, 59, 100])
    optimizer = build_adamw(model=model, lr=1.0, weight_decay=0.2, weight_decay_schedule=schedule)
    hook = LearningRate(optimizer=optimizer, schedule=MultiStepParamScheduler([1.0, 0.1], milestones=[67, 100]))
    saved = optimizer.state_dict()
    for iteration, rate, decay in ((0, 1.0, 0.2), (44, 1.0, 0.2), (45, 1.0, 0.02), (70, 0.1, 0.002), (3, 1.0, 0.2)):
        hook.trainer = Clock(iteration, 100)
        hook.before_step()
        found = by_name(model, optimizer.param_groups)
        assert found["text.weight"] == pytest.approx((rate, decay)) and found["text.bias"] == pytest.approx((rate, 0.0))
        optimizer.load_state_dict(saved)  # as a resume does: the next step's decay depends on its number alone
    plain = LearningRate(optimizer=build_adamw(model=model, lr=1.0, weight_decay=0.2), schedule=schedule)
    plain.trainer = Clock(70, 100)
    plain.before_step()
    assert by_name(model, plain.optimizer.param_groups)["text.weight"] == pytest.approx((0.01, 0.2))
