"""Winograd's convolution with ReLU and mean: the plain operations' numbers, whatever the sizes, and their accuracy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regionclip.modeling.winograd import BATCH, WinogradConvolution


def plain(x: Tensor, weight: Tensor, bias: Tensor, pooled: bool) -> Tensor:
    y = F.relu(F.conv2d(x, weight, bias, padding=1))
    return F.avg_pool2d(y, 2) if pooled else y


def parts(channels: int, out: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(out, channels, 3, 3, dtype=dtype), torch.randn(out, dtype=dtype)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 2 * BATCH + 1),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    channels=st.integers(1, 3),
    out=st.integers(1, 3),
    pooled=st.booleans(),
)
def test_it_is_the_plain_convolution(count: int, height: int, width: int, channels: int, out: int, pooled: bool) -> None:
    weight, bias = parts(channels, out)
    x = torch.randn(count, channels, height, width, dtype=torch.float64)
    found, wanted = WinogradConvolution(weight, bias, pooled=pooled)(x), plain(x, weight, bias, pooled)
    assert found.shape == wanted.shape and torch.allclose(found, wanted, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last) or not found.numel()


def test_one_maps_memory_is_not_anothers() -> None:
    weight, bias = parts(2, 3)
    convolution, several = WinogradConvolution(weight, bias), [torch.randn(3, 2, 4, 6, dtype=torch.float64) for _ in range(3)]
    found = [convolution(x) for x in several]
    for x, y in zip(several, found, strict=True):
        assert torch.allclose(y, plain(x, weight, bias, False), atol=1e-12), "later maps leave earlier results alone"


@pytest.mark.parametrize("pooled", [True, False])
def test_its_rounding_is_that_of_the_plain_one(pooled: bool) -> None:
    torch.manual_seed(0)
    weight, bias = parts(256, 32, torch.float32)
    x = torch.randn(4, 256, 14, 14).relu()
    exact = plain(x.double(), weight.double(), bias.double(), pooled)
    ways = (WinogradConvolution(weight, bias, pooled=pooled)(x), plain(x, weight, bias, pooled))
    ours, theirs = (float((y - exact).abs().max() / exact.abs().max()) for y in ways)
    assert ours < 3e-6 and ours < 4 * theirs
