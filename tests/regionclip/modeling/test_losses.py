"""The three published forms of the classification loss, and the box loss, written out by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regionclip.modeling import box_loss, classification_loss

FORMS = [(None, None), (None, 0.8), (0.5, 0.2), (0.5, None), (2.0, 0.0)]


def by_hand(logits: Tensor, labels: Tensor, gamma: float | None, background: float | None) -> float:
    terms, weights = [], []
    for row, label in zip(logits.double(), labels.tolist(), strict=True):
        p = torch.softmax(row, dim=0)[label]
        w = background if background is not None and label == len(row) - 1 else 1.0
        terms.append(w * (1 if gamma is None else float((1 - p) ** gamma)) * float(-p.log()))
        weights.append(w)
    return sum(terms) / (sum(weights) if gamma is None else len(terms))


@pytest.mark.parametrize(("gamma", "background"), FORMS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 9), names=st.integers(1, 5))
def test_by_hand(gamma: float | None, background: float | None, seed: int, count: int, names: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, names + 1, generator=generator)
    labels = torch.randint(0, names + 1, (count,), generator=generator)
    loss = classification_loss(logits, labels, focal_gamma=gamma, background_weight=background)
    assert float(loss) == pytest.approx(by_hand(logits, labels, gamma, background), rel=1e-4, abs=1e-6)


def test_the_forms_divide_differently() -> None:
    """One name, three of background: by the weights 1 + 3 * 0.5, or by the count 4."""
    logits, labels = torch.zeros(4, 2), torch.tensor([0, 1, 1, 1])
    entropy = torch.log(torch.tensor(2.0))
    assert torch.allclose(classification_loss(logits, labels, background_weight=0.5), entropy)
    focal = classification_loss(logits, labels, focal_gamma=0.0, background_weight=0.5)
    assert torch.allclose(focal, entropy * 2.5 / 4)


@pytest.mark.parametrize(("gamma", "background"), FORMS)
def test_gradients_stay_finite_where_a_region_is_certain(gamma: float | None, background: float | None) -> None:
    logits = torch.tensor([[90.0, 0.0, 0.0], [0.0, 1.0, 2.0], [-90.0, 0.0, 0.0]], requires_grad=True)
    classification_loss(logits, torch.tensor([0, 1, 0]), focal_gamma=gamma, background_weight=background).backward()
    assert torch.isfinite(logits.grad).all() and logits.grad[2].any()
    assert not logits.grad[0].abs().max() > 1e-6


def test_no_regions() -> None:
    logits = torch.zeros(0, 4, requires_grad=True)
    classification_loss(logits, torch.zeros(0, dtype=torch.long), focal_gamma=0.5).backward()
    deltas = torch.zeros(0, 4, requires_grad=True)
    box_loss(deltas, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), background=3).backward()
    assert logits.grad.shape == (0, 4) and deltas.grad.shape == (0, 4)


def test_boxes_count_foreground_and_divide_by_all() -> None:
    deltas = torch.tensor([[1.0, 0, 0, 0], [0.0, 3, 0, 0], [9.0, 9, 9, 9]], requires_grad=True)
    labels, targets = torch.tensor([0, 1, 2]), torch.zeros(3, 4)
    loss = box_loss(deltas, targets, labels, background=2)
    assert loss.item() == pytest.approx(4 / 3)
    loss.backward()
    assert not deltas.grad[2].any()
    # smooth: 0.5 d^2 / beta below beta, d - 0.5 beta above
    assert box_loss(deltas, targets, labels, background=2, beta=2.0).item() == pytest.approx((0.25 + 2) / 3)


def test_only_background() -> None:
    deltas = torch.ones(2, 4, requires_grad=True)
    box_loss(deltas, torch.zeros(2, 4), torch.tensor([5, 5]), background=5).backward()
    assert not deltas.grad.any(), "still part of the graph, for DDP"
