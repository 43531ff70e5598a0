"""ATSS against a slow, literal reading of the paper's algorithm 1."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from openvocab.errors import ConfigError
from openvocab.modeling import ATSSMatcher, centerness_targets


def grid(stride: int, size: int, side: float) -> torch.Tensor:
    """Square anchors of `side` pixels around the cell centres of a `size` x `size` picture."""
    c = torch.arange(stride / 2, size, stride)
    y, x = torch.meshgrid(c, c, indexing="ij")
    return torch.stack([x - side / 2, y - side / 2, x + side / 2, y + side / 2], -1).view(-1, 4)


ANCHORS = [grid(8, 64, 32.0), grid(16, 64, 64.0), grid(32, 64, 128.0)]


def literal(anchors: list[torch.Tensor], boxes: torch.Tensor, topk: int) -> list[int]:
    """Algorithm 1, a box and an anchor at a time."""
    flat, starts = torch.cat(anchors), [0]
    for level in anchors:
        starts.append(starts[-1] + len(level))
    best = [(-1.0, -1)] * len(flat)
    for g, box in enumerate(boxes):
        centre, candidates = (box[:2] + box[2:]) / 2, []
        for level, start in zip(anchors, starts, strict=False):
            distance = ((level[:, :2] + level[:, 2:]) / 2 - centre).norm(dim=1)
            candidates += [start + int(i) for i in distance.argsort(stable=True)[: min(topk, len(level))]]
        ious = box_iou(flat[candidates], box[None])[:, 0]
        threshold = ious.mean() + ious.std()
        for index, iou in zip(candidates, ious, strict=True):
            ax, ay = (flat[index, :2] + flat[index, 2:]) / 2
            inside = min(ax - box[0], ay - box[1], box[2] - ax, box[3] - ay) > 0.01
            if iou >= threshold and inside and iou > best[index][0]:
                best[index] = (float(iou), g)
    return [g for _, g in best]


box = st.tuples(st.floats(0, 40), st.floats(0, 40), st.floats(5.3, 24), st.floats(5.3, 24))


@settings(max_examples=30, deadline=None)
@given(st.lists(box, min_size=1, max_size=4))
def test_equals_the_algorithm(raw: list[tuple]) -> None:
    # odd fractions keep anchors' distances apart, so that "the nearest k" is well defined
    boxes = torch.tensor([[x + 0.137, y + 0.291, x + w + 0.411, y + h + 0.523] for x, y, w, h in raw])
    assert ATSSMatcher(topk=9)(ANCHORS, boxes).tolist() == literal(ANCHORS, boxes, 9)


def test_no_boxes_match_nothing() -> None:
    assert (ATSSMatcher()(ANCHORS, torch.zeros(0, 4)) == -1).all()


def test_each_positive_lies_inside_its_box() -> None:
    boxes = torch.tensor([[3.0, 5.0, 40.0, 60.0], [20.0, 2.0, 62.0, 30.0]])
    matched = ATSSMatcher()(ANCHORS, boxes)
    flat = torch.cat(ANCHORS)
    assert (matched >= 0).sum() > 2
    centres = (flat[:, :2] + flat[:, 2:]) / 2
    for i in torch.nonzero(matched >= 0).flatten():
        b = boxes[matched[i]]
        assert (centres[i] > b[:2]).all() and (centres[i] < b[2:]).all()


def test_centerness_is_one_in_the_middle_and_falls_to_the_edge() -> None:
    anchor = torch.tensor([[10.0, 10.0, 20.0, 20.0]] * 2)
    target = torch.tensor([[5.0, 5.0, 25.0, 25.0], [14.0, 5.0, 34.0, 25.0]])
    values = centerness_targets(anchor, target)
    assert values[0] == 1.0
    assert values[1] == pytest.approx((1 / 19) ** 0.5)


def test_zero_candidates_are_refused() -> None:
    with pytest.raises(ConfigError, match="topk=0"):
        ATSSMatcher(topk=0)
