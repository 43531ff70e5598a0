"""The decoder as a part, and the crashes and overwritten tensors of the released code that ours must not have."""

from __future__ import annotations

import pytest
import torch

from detection_hub.modeling import (
    HUB_DECODER_REGISTRY,
    DynamicHead,
    HungarianMatcher,
    SetCriterion,
    Targets,
    initial_boxes,
    to_pixels,
)
from detection_hub.modeling.boxes import moved
from detection_hub.modeling.decoder import PRIOR_BIAS
from openvocab.errors import ConfigError

from ..conftest import DIM, QUERIES, STAGES, tiny_head

SIZES = [(64, 96), (48, 96)]


def inputs(seed: int = 0) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(2, DIM, 64 // s, 96 // s, generator=generator) for s in (4, 8, 16)]
    boxes = to_pixels(initial_boxes(QUERIES, "grid").expand(2, -1, -1), SIZES)
    return features, boxes, torch.randn(2, QUERIES, DIM, generator=generator)


def test_it_is_a_part_of_its_own() -> None:
    features, boxes, queries = inputs()
    outputs = tiny_head()(features, boxes, queries, None)
    assert len(outputs) == STAGES and HUB_DECODER_REGISTRY.get("DynamicHead") is DynamicHead
    for output in outputs:
        assert output.features.shape == (2, QUERIES, DIM) and output.boxes.shape == (2, QUERIES, 4) and output.logits is None


def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    features, boxes, queries = inputs()
    head = tiny_head(num_classes=3).eval()
    together = head(features, boxes, queries)[-1]
    alone = head([f[1:] for f in features], boxes[1:], queries[1:])[-1]
    assert torch.allclose(together.logits[1:], alone.logits, atol=1e-5)
    assert torch.allclose(together.boxes[1:], alone.boxes, atol=2e-3)  # pixels; products of other shapes round otherwise


def test_no_gradient_flows_through_boxes_between_stages() -> None:
    features, boxes, queries = inputs()
    head = tiny_head()
    head(features, boxes, queries)[-1].boxes.sum().backward()
    assert head.head_series[0].bboxes_delta.weight.grad is None
    assert head.head_series[0].linear1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("num_classes", [4, 5, DIM, 32])
def test_a_number_of_classes_that_is_also_a_width(num_classes: int) -> None:
    """The released code fills every tensor whose last side is the number of classes with the classifier's bias."""
    torch.manual_seed(0)
    head = tiny_head(num_classes=num_classes, dynamic_dim=5)
    for name, value in head.named_parameters():
        if name.endswith("class_logits.bias"):
            assert torch.all(value == torch.tensor(PRIOR_BIAS))
        else:
            assert not torch.any(value == torch.tensor(PRIOR_BIAS)), name


def test_stages_start_alike_in_kind_but_not_in_value() -> None:
    first, second = tiny_head(num_stages=2).head_series
    assert not torch.equal(first.linear1.weight, second.linear1.weight)
    still = tiny_head(zero_init_deltas=True)
    features, boxes, queries = inputs()
    assert torch.allclose(still(features, boxes, queries)[-1].boxes, boxes, atol=1e-4)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="num_stages=0"):
        tiny_head(num_stages=0)
    with pytest.raises(ConfigError, match="num_heads=3"):
        tiny_head(num_heads=3)
    with pytest.raises(ConfigError, match="'corner'"):
        initial_boxes(4, "corner")


def test_initial_boxes_and_moves() -> None:
    assert torch.equal(initial_boxes(3), torch.tensor([[0.5, 0.5, 1.0, 1.0]] * 3))
    grid = initial_boxes(7, "grid")
    assert grid.shape == (7, 4) and len({tuple(row.tolist()) for row in grid}) == 7 and float(grid.max()) <= 1
    assert torch.equal(moved(grid, torch.zeros_like(grid)), grid)
    assert float(moved(grid, torch.full_like(grid, 0.5)).min() - grid.min()) > 0


def truth(boxes: list, labels: list, **more: object) -> Targets:
    places = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    return Targets(boxes=places, labels=torch.tensor(labels, dtype=torch.int64), size=(64, 96), **more)


def criticise(logits: torch.Tensor, boxes: torch.Tensor, targets: list[Targets], columns: torch.Tensor | None = None):
    return SetCriterion(matcher=HungarianMatcher())([(logits, boxes)], targets, columns)


def predictions(n: int = QUERIES, c: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(1, n, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 5 + torch.rand(1, n, 2, generator=generator) * 20], dim=-1)
    return torch.randn(1, n, c, generator=generator).requires_grad_(), boxes.requires_grad_()


def test_more_boxes_than_queries() -> None:
    logits, boxes = predictions()
    many = [[float(i), 2.0, i + 9.0, 12.0] for i in range(3 * QUERIES)]
    judged = criticise(logits, boxes, [truth(many, [i % 3 for i in range(len(many))])])
    sum(judged.losses.values()).backward()
    assert all(torch.isfinite(v) for v in judged.losses.values()) and torch.isfinite(boxes.grad).all()
    pairs = HungarianMatcher()(logits, boxes, [truth(many, [0] * len(many))])
    assert len(pairs[0][0]) == QUERIES == len(set(pairs[0][1].tolist()))


def test_no_boxes_at_all_still_teaches() -> None:
    logits, boxes = predictions()
    losses = criticise(logits, boxes, [truth([], [])]).losses
    sum(losses.values()).backward()
    assert float(losses["loss_ce"].detach()) > 0 and float(losses["loss_giou"].detach()) == float(losses["loss_bbox"].detach()) == 0
    assert boxes.grad is not None and float(boxes.grad.abs().sum()) == 0


def test_predictions_that_are_not_numbers_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """The released matcher ends in an assertion; here the loss is not finite, which the trainer refuses with its own words."""
    logits, boxes = predictions()
    broken = boxes.detach().clone()
    broken[0, 1] = float("nan")
    losses = criticise(logits, broken, [truth([[1, 1, 20, 20]], [1])]).losses
    assert torch.isfinite(losses["loss_ce"]) and "1 of 6 predicted boxes are not finite" in caplog.text
    broken[:] = float("nan")
    assert not all(torch.isfinite(v) for v in criticise(logits, broken, [truth([[1, 1, 20, 20]], [1])]).losses.values())


def test_masked_columns_take_no_part() -> None:
    logits, boxes = predictions()
    mask = torch.tensor([True, True, False])
    with_mask = criticise(logits, boxes, [truth([[1, 1, 20, 20]], [1], mask=mask)])
    sum(with_mask.losses.values()).backward()
    assert float(logits.grad[..., 2].abs().sum()) == 0 and float(logits.grad[..., 0].abs().min()) > 0
    shorter = criticise(logits[..., :2], boxes, [truth([[1, 1, 20, 20]], [1])])
    assert torch.allclose(with_mask.losses["loss_ce"], shorter.losses["loss_ce"])
    padded = criticise(logits, boxes, [truth([[1, 1, 20, 20]], [1])], torch.tensor([[True, True, False]]))
    assert torch.allclose(padded.losses["loss_ce"], shorter.losses["loss_ce"])


def test_several_names_may_be_true_of_a_box() -> None:
    logits, boxes = predictions()
    rows = torch.tensor([[True, True, False]])
    criticise(logits, boxes, [truth([[1, 1, 20, 20]], [1], positives=rows)]).losses["loss_ce"].backward()
    (queries, _) = HungarianMatcher()(logits, boxes, [truth([[1, 1, 20, 20]], [1])])[0]
    grads = logits.grad[0, queries[0]]
    assert grads[0] < 0 and grads[1] < 0 and grads[2] > 0


def test_queries_in_ignored_regions_are_not_judged() -> None:
    logits, boxes = predictions()
    region = torch.tensor([[0.0, 0.0, 96.0, 64.0]])
    criticise(logits, boxes, [truth([[1, 1, 20, 20]], [1], ignore_boxes=region)]).losses["loss_ce"].backward()
    judged = logits.grad[0].abs().sum(dim=1) > 0
    assert int(judged.sum()) == 1  # the one that is matched


def test_weights_and_sums_of_pictures() -> None:
    logits, boxes = predictions()
    plain = criticise(logits, boxes, [truth([[1, 1, 20, 20], [30, 5, 50, 40]], [1, 0])])
    double = criticise(logits, boxes, [truth([[1, 1, 20, 20], [30, 5, 50, 40]], [1, 0], weight=2.0)])
    for name, value in plain.losses.items():
        assert torch.allclose(2 * value, double.losses[name])
    assert torch.allclose(plain.by_picture.sum() / 2, sum(plain.losses.values()))
    assert plain.boxes.tolist() == [2.0]
