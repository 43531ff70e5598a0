"""ROIAlign as an embedding bag: torchvision's numbers and gradients, whatever the boxes; where it stands back."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import roi_align

from openvocab.modeling import BagROIPooler
from openvocab.modeling.roi_align import BagROIAlign, bin_weights, pool_regions

corner, side = st.floats(-40, 130, width=32), st.floats(0, 170, width=32)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.tuples(corner, corner, side, side), min_size=1, max_size=4),
    bins=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    ratio=st.integers(0, 3),
    cells=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_pooling_by_rows_and_columns_is_roi_align(rows: list, bins: tuple, ratio: int, cells: tuple) -> None:
    boxes, scale = torch.tensor(rows, dtype=torch.float64), 1 / 16
    boxes[:, 2:] += boxes[:, :2]
    x = torch.randn(1, 3, *cells, dtype=torch.float64, requires_grad=True)
    wanted = roi_align(x, [boxes], bins, scale, ratio, True)
    x0, y0, x1, y1 = (boxes * scale - 0.5).unbind(1)
    down = bin_weights(y0, y1, bins=bins[0], cells=cells[0], samples=ratio)
    across = bin_weights(x0, x1, bins=bins[1], cells=cells[1], samples=ratio)
    found = pool_regions(x.permute(0, 2, 3, 1).contiguous(), torch.zeros(len(boxes), dtype=torch.long), down, across)
    assert torch.allclose(found.permute(0, 3, 1, 2), wanted, atol=1e-10)
    asked = torch.randn_like(wanted)
    expected = torch.autograd.grad(wanted, x, asked)[0]
    assert torch.allclose(torch.autograd.grad(found.permute(0, 3, 1, 2), x, asked)[0], expected, atol=1e-10)


def pyramid(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(2, 6, 2**k, 3 * 2**k, dtype=dtype, requires_grad=True) for k in (5, 4, 3)]


def boxes() -> list[Boxes]:
    """Of all sizes in one picture, so that each level has some; in the other those that are odd."""
    sizes = 2.0 ** torch.arange(3, 10)
    odd = [[-30, -30, -20, -20], [500, 100, 900, 700], [8, 8, 8, 40], [40, 30, 20, 10], [0, 0, 768, 256]]
    return [Boxes(torch.stack([sizes / 9, sizes / 7, sizes, sizes], dim=1)), Boxes(torch.tensor(odd).float())]


@pytest.mark.parametrize("ratio", [0, 2])
def test_a_pyramid_is_pooled_as_detectron2_does(ratio: int, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, scales = pyramid(), (1 / 8, 1 / 16, 1 / 32)
    expected = ROIPooler(7, scales, ratio, "ROIAlignV2")(maps, boxes())
    asked = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, maps, asked)
    monkeypatch.setattr("detectron2.layers.ROIAlign.forward", None)  # it is not asked
    found = BagROIPooler(7, scales, ratio)(maps, boxes())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(torch.autograd.grad(found, maps, asked), gradients, strict=True):
        assert float(theirs.abs().max()) > 0
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_no_regions_and_no_numbers() -> None:
    pooler = BagROIPooler(7, (1 / 8, 1 / 16, 1 / 32), 2)
    assert pooler(pyramid(), [Boxes(torch.zeros(0, 4))] * 2).shape == (0, 6, 7, 7)
    rois = torch.tensor([[0, 0, 0, 99, 99], [0, 0, 0, float("nan"), 9], [1, 0, 0, float("inf"), 9], [1, 9, 9, 99, 99]])
    maps, align = pyramid()[0], BagROIAlign(7, 1 / 8, 2)
    found, good = align(maps, rois), align(maps, rois[[0, 3]])
    torch.testing.assert_close(found[[0, 3]], good)
    assert not found[1:3].any() and float(good.abs().min()) > 0


def test_where_it_stands_back() -> None:
    align, rois, maps = BagROIAlign(7, 1 / 8, 2), torch.tensor([[0, 0, 0, 9.0, 9]]), pyramid()[0]
    assert not align.pays(maps.bfloat16(), rois) and not align.pays(maps.to("meta"), rois)
    assert not BagROIAlign(7, 1 / 8, 2, aligned=False).pays(maps, rois)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not align.pays(maps, rois)
