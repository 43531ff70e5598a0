"""The losses by their definitions, at their edges, and in half precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openvocab.errors import ConfigError
from regionclip.pretraining.losses import (
    concept_contrastive_loss,
    cosine_logits,
    distillation_loss,
    image_text_loss,
    multi_positive_loss,
)


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_contrast_is_the_double_sum_of_the_paper() -> None:
    x, concepts, labels, t = rows(5, 8), rows(7, 8, 1), torch.tensor([3, 1, 3, 6, 1]), 0.1
    expected = 0.0
    for i in range(5):
        sims = [float(torch.cosine_similarity(x[i], concepts[labels[j]], dim=0)) / t for j in range(5)]
        weights = torch.tensor(sims).double().exp()
        right = sum(weights[j] for j in range(5) if labels[j] == labels[i])
        expected -= float((right / weights.sum()).log()) / 5
    assert concept_contrastive_loss(x, labels, concepts, t).item() == pytest.approx(expected, abs=1e-5)


def test_contrast_against_the_labels_of_other_ranks() -> None:
    x, concepts, labels = rows(4, 8), rows(6, 8, 1), torch.tensor([0, 2, 5, 2])
    whole = concept_contrastive_loss(x, labels, concepts, 0.1)
    parts = [concept_contrastive_loss(x[i:j], labels[i:j], concepts, 0.1, others=labels) for i, j in ((0, 1), (1, 4))]
    assert (parts[0] + 3 * parts[1]).item() / 4 == pytest.approx(whole.item(), abs=1e-6)


def test_one_label_for_all_has_nothing_to_tell_apart() -> None:
    assert concept_contrastive_loss(rows(3, 4), torch.tensor([1, 1, 1]), rows(2, 4, 1)).item() == pytest.approx(0, abs=1e-6)


def test_distillation_is_zero_for_the_same_and_finite_where_a_softmax_underflows() -> None:
    logits = rows(3, 5) * 4
    assert distillation_loss(logits, logits.softmax(1)).item() == pytest.approx(0, abs=1e-6)
    student = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    loss = distillation_loss(student, torch.tensor([[0.0, 0.0, 1.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(400.0) and torch.isfinite(student.grad).all()


def test_image_text_is_symmetric_and_lowest_for_pairs() -> None:
    x, y = rows(6, 16), rows(6, 16, 1)
    assert image_text_loss(x, y, 0.1).item() == pytest.approx(image_text_loss(y, x, 0.1).item(), abs=1e-6)
    assert image_text_loss(x, x, 0.1) < image_text_loss(x, x.flip(0), 0.1)


def test_no_rows_give_zero_with_a_graph() -> None:
    x = torch.zeros(0, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    for loss in (
        concept_contrastive_loss(x, none, rows(3, 4)),
        distillation_loss(cosine_logits(x, rows(3, 4), 0.1), torch.zeros(0, 3)),
        image_text_loss(x, torch.zeros(0, 4)),
        multi_positive_loss(x, torch.zeros(0, 4, dtype=torch.bool)),
    ):
        assert loss.item() == 0 and loss.requires_grad
        loss.backward()


def test_half_precision_features_are_compared_in_full() -> None:
    x, y = rows(4, 16).bfloat16(), rows(4, 16, 1)
    assert cosine_logits(x, y, 0.01).dtype == torch.float32


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ConfigError, match="8 wide and texts 9"):
        cosine_logits(rows(2, 8), rows(2, 9), 0.1)
    with pytest.raises(ConfigError, match="3 pictures and 2 captions"):
        image_text_loss(rows(3, 4), rows(2, 4))
