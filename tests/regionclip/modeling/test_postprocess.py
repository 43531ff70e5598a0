"""Score fusion, threshold, NMS, the cut, and what is reported, against the plainest way to write it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from openvocab.errors import ConfigError
from regionclip.modeling import RegionPostProcessor, SoftNMS

from .tiny import some_boxes

SIZE = (64, 96)


def inputs(seed: int, count: int, names: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, some of which leave the picture; probabilities; logits, a third of which are negative."""
    generator = torch.Generator().manual_seed(seed)
    boxes = some_boxes(count, seed).tensor + 30 * (torch.rand(count, 1, generator=generator) - 0.5)
    probs = (4 * torch.randn(count, names + 1, generator=generator)).softmax(dim=1)
    return boxes, probs, 3 * torch.rand(count, generator=generator) - 1


def plain(boxes: Tensor, probs: Tensor, logits: Tensor, fusion: str, threshold: float, nms: float, most: int, report: str) -> list:
    """(score, class, row) best first, one pair after the other."""
    found = []
    for row, (p, r) in enumerate(zip(probs.tolist(), logits.tolist(), strict=True)):
        r = r if fusion == "sqrt_logit" else 1 / (1 + math.exp(-r))
        for name, value in enumerate(p[:-1]):
            if fusion != "none" and value * r < 0:
                continue
            score = value if fusion == "none" else math.sqrt(value * r)
            if score > threshold:
                found.append((score, name, row, value))
    clipped = boxes.clone()
    clipped[:, 0::2].clamp_(0, SIZE[1])
    clipped[:, 1::2].clamp_(0, SIZE[0])
    ious, kept = box_iou(clipped, clipped).nan_to_num(0), []
    for score, name, row, value in sorted(found, reverse=True):
        if all(k[1] != name or ious[k[2], row] <= nms for k in kept):
            kept.append((score, name, row, value))
    return [(k[3] if report == "class" else k[0], k[1], k[2]) for k in kept[:most]]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 12),
    fusion=st.sampled_from(["none", "sqrt_logit", "sqrt_sigmoid"]),
    report=st.sampled_from(["fused", "class"]),
    threshold=st.sampled_from([0.0, 0.02, 0.3]),
    most=st.integers(1, 20),
)
def test_against_the_plain_way(seed: int, count: int, fusion: str, report: str, threshold: float, most: int) -> None:
    boxes, probs, logits = inputs(seed, count)
    processor = RegionPostProcessor(
        score_fusion=fusion, score_threshold=threshold, nms_threshold=0.4, max_detections=most, report=report
    )
    found, rows = processor(boxes, probs, logits, SIZE)
    expected = plain(boxes, probs, logits, fusion, threshold, 0.4, most, report)
    assert list(zip(found.pred_classes.tolist(), rows.tolist(), strict=True)) == [(c, r) for _, c, r in expected]
    assert found.scores.tolist() == pytest.approx([s for s, _, _ in expected], rel=1e-5, abs=1e-6)
    limits = torch.tensor([SIZE[1], SIZE[0]]).repeat(2)
    assert torch.equal(found.pred_boxes.tensor, torch.minimum(boxes[rows].clamp(min=0), limits))
    assert found.image_size == SIZE


def test_scores_of_the_published_form_can_pass_one_and_negative_logits_drop_out() -> None:
    boxes, probs = some_boxes(2).tensor, torch.tensor([[0.9, 0.1], [0.9, 0.1]])
    logits = torch.tensor([4.0, -1.0])
    found, rows = RegionPostProcessor(score_fusion="sqrt_logit")(boxes, probs, logits, SIZE)
    assert rows.tolist() == [0] and found.scores.tolist() == pytest.approx([math.sqrt(0.9 * 4)])
    found, rows = RegionPostProcessor(score_fusion="sqrt_sigmoid", nms_threshold=1.0)(boxes, probs, logits, SIZE)
    assert rows.tolist() == [0, 1] and float(found.scores.max()) < 1


def test_the_threshold_is_on_the_fused_score() -> None:
    boxes, probs = some_boxes(1).tensor, torch.tensor([[0.2, 0.8]])
    processor = RegionPostProcessor(score_fusion="sqrt_logit", score_threshold=0.5)
    assert len(processor(boxes, probs, torch.tensor([4.0]), SIZE)[0]) == 1, "sqrt(0.2 * 4) = 0.89"
    assert len(processor(boxes, probs, torch.tensor([1.0]), SIZE)[0]) == 0, "sqrt(0.2 * 1) = 0.45"


def test_report_of_class_probabilities_keeps_the_fused_order() -> None:
    boxes, probs = torch.tensor([[0.0, 0, 9, 9], [20, 20, 40, 40]]), torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    found, rows = RegionPostProcessor(score_fusion="sqrt_logit", report="class")(boxes, probs, torch.tensor([1.0, 8.0]), SIZE)
    assert rows.tolist() == [1, 0] and found.scores.tolist() == pytest.approx([0.5, 0.9])
    soft = RegionPostProcessor(score_fusion="sqrt_logit", report="class", soft_nms=SoftNMS())
    assert soft(boxes, probs, torch.tensor([1.0, 8.0]), SIZE)[0].scores.tolist() == pytest.approx([2.0, math.sqrt(0.9)])


def test_soft_nms_keeps_what_nms_drops() -> None:
    boxes = torch.tensor([[0.0, 0, 20, 20], [0, 0, 20, 18], [50, 50, 60, 60]])
    probs, logits = torch.tensor([[0.8, 0.1, 0.1], [0.7, 0.1, 0.2], [0.6, 0.0, 0.4]]), torch.ones(3)
    hard, _ = RegionPostProcessor(score_threshold=0.5)(boxes, probs, logits, SIZE)
    soft, rows = RegionPostProcessor(score_threshold=0.5, soft_nms=SoftNMS())(boxes, probs, logits, SIZE)
    assert hard.scores.tolist() == pytest.approx([0.8, 0.6])
    assert rows.tolist() == [0, 2, 1] and soft.scores[2] == pytest.approx(0.7 * math.exp(-(0.9**2) / 0.5))
    assert len(RegionPostProcessor(score_threshold=0.5, soft_nms=SoftNMS(), max_detections=2)(boxes, probs, logits, SIZE)[0]) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_boxes_and_scores_that_are_not_finite_drop_out(bad: float) -> None:
    boxes, probs, _ = inputs(0, 3)
    boxes[1, 2] = bad
    _, rows = RegionPostProcessor(score_threshold=0.0, nms_threshold=1.0)(boxes, probs, None, SIZE)
    assert set(rows.tolist()) == {0, 2}


def test_boxes_without_an_rpn_score() -> None:
    boxes, probs, _ = inputs(0, 3)
    assert len(RegionPostProcessor()(boxes, probs, None, SIZE)[0])
    with pytest.raises(ConfigError, match="'sqrt_logit' .*these boxes have none .*'objectness_logits'.*score_fusion='none'"):
        RegionPostProcessor(score_fusion="sqrt_logit")(boxes, probs, None, SIZE)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"score_fusion": "product"}, "'product' .*sqrt_logit, sqrt_sigmoid"), ({"report": "vis"}, "'vis' .*fused, class")],
)
def test_unknown_options(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RegionPostProcessor(**options)
