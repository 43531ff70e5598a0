"""Soft-NMS against the plainest way to write it, and what it promises."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openvocab.errors import ConfigError
from regionclip.modeling import SoftNMS
from regionclip.modeling.soft_nms import METHODS, overlaps

Row = tuple[tuple[int, int, int, int], float, int]  # x, y, width, height; score; class
rows = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 10), st.integers(0, 10)),
        st.floats(0.002, 1.0),
        st.integers(0, 2),
    ),
    max_size=12,
)


def plain_iou(a: tuple, b: tuple) -> float:
    width = max(0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    height = max(0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    inter = width * height
    return inter / (a[2] * a[3] + b[2] * b[3] - inter) if inter else 0.0


def plain(found: list[Row], method: str, sigma: float, threshold: float, prune: float) -> list[tuple[int, float]]:
    """The definition in words: pick the best, lower the others of its class, drop what fell too low, go on."""
    left, picked = {i: score for i, (_, score, _) in enumerate(found)}, []
    while left:
        best = max(left, key=left.get)
        assume(sum(s > left[best] - 1e-9 for s in left.values()) == 1)  # ties have no one order
        picked.append((best, left.pop(best)))
        for i in list(left):
            iou = plain_iou(found[i][0], found[best][0]) if found[i][2] == found[best][2] else 0.0
            factor = {
                "gaussian": math.exp(-(iou**2) / sigma),
                "linear": 1 - iou if iou > threshold else 1.0,
                "hard": 0.0 if iou > threshold else 1.0,
            }[method]
            left[i] *= factor
            if left[i] <= prune:
                del left[i]
    return picked


def tensors(found: list[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    boxes = torch.tensor([[x, y, x + w, y + h] for (x, y, w, h), _, _ in found], dtype=torch.float64).reshape(-1, 4)
    scores = torch.tensor([score for _, score, _ in found], dtype=torch.float64)
    return boxes, scores, torch.tensor([c for _, _, c in found], dtype=torch.int64)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, deadline=None)
@given(found=rows, sigma=st.sampled_from([0.1, 0.5, 2.0]), threshold=st.sampled_from([0.0, 0.3, 0.5]))
def test_against_the_plain_way(method: str, found: list[Row], sigma: float, threshold: float) -> None:
    expected = plain(found, method, sigma, threshold, 0.001)
    kept, scores = SoftNMS(method=method, sigma=sigma, threshold=threshold)(*tensors(found))
    assert kept.tolist() == [i for i, _ in expected]
    assert scores.tolist() == pytest.approx([s for _, s in expected], abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(found=rows, most=st.integers(1, 6))
def test_stopping_early_gives_the_beginning(found: list[Row], most: int) -> None:
    whole, part = SoftNMS()(*tensors(found)), SoftNMS()(*tensors(found), most=most)
    assert torch.equal(part[0], whole[0][:most]) and torch.equal(part[1], whole[1][:most])
    assert (whole[1][1:] <= whole[1][:-1]).all(), "picks never rise"


def test_hard_is_ordinary_nms() -> None:
    from detectron2.layers import batched_nms

    torch.manual_seed(0)
    corner = torch.rand(60, 2) * 20
    boxes = torch.cat([corner, corner + 2 + torch.rand(60, 2) * 10], dim=1)
    scores, classes = torch.rand(60) + 0.01, torch.randint(0, 3, (60,))
    kept, seen = SoftNMS(method="hard", threshold=0.4)(boxes, scores, classes)
    assert torch.equal(kept, batched_nms(boxes, scores, classes, 0.4))
    assert torch.equal(seen, scores[kept])


def test_classes_do_not_meet_and_inputs_stay() -> None:
    boxes, scores = torch.tensor([[0.0, 0, 10, 10]]).repeat(3, 1), torch.tensor([0.9, 0.8, 0.7])
    kept, seen = SoftNMS()(boxes, scores, torch.tensor([0, 1, 0]))
    assert kept.tolist() == [0, 1, 2]
    assert seen.tolist() == pytest.approx([0.9, 0.8, 0.7 * math.exp(-2.0)])
    assert scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_pruned() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(2, 1)
    kept, _ = SoftNMS(prune=0.2)(boxes, torch.tensor([0.9, 0.7]), torch.tensor([0, 0]))
    assert kept.tolist() == [0]
    assert [len(x) for x in SoftNMS()(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))] == [0, 0]


def test_boxes_without_area_overlap_nothing() -> None:
    boxes = torch.tensor([[5.0, 5, 5, 5], [0, 0, 10, 10], [20, 20, 10, 30]])
    assert overlaps(boxes, torch.tensor([5.0, 5, 5, 5])).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("options", "message"), [({"method": "soft"}, "'soft' .*gaussian"), ({"sigma": 0}, "sigma=0")])
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SoftNMS(**options)
