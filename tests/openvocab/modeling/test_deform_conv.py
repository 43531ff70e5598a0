"""Deformable convolution by gathered rows against torchvision's operator: values, gradients, borders, blocks, official offsets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import deform_conv2d

from openvocab.errors import ConfigError
from openvocab.modeling import DyHeadBlock, deform_conv
from openvocab.modeling.deform_conv import ModulatedDeformConv, bilinear_taps, gathered_deform_conv


def problem(batch: int, height: int, width: int, stride: int, spread: float, seed: int = 0) -> list[Tensor]:
    """Input, offsets of a standard deviation of `spread` pixels, mask, weight and bias, all of which take gradients."""
    generator = torch.Generator().manual_seed(seed)
    h, w = (height - 1) // stride + 1, (width - 1) // stride + 1
    shapes = [(batch, 6, height, width), (batch, 18, h, w), (batch, 9, h, w), (5, 6, 3, 3), (5,)]
    values = [torch.randn(s, generator=generator) for s in shapes]
    return [values[0], values[1] * spread, values[2].sigmoid(), values[3] / 7, values[4]]


def with_gradients(run, tensors: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of all inputs."""
    tensors = [t.clone().requires_grad_() for t in tensors]
    y = run(*tensors)
    torch.manual_seed(1)
    y.backward(torch.randn(y.shape))
    return [y.detach(), *(t.grad for t in tensors)]


def both(tensors: list[Tensor], stride: int) -> list[tuple[Tensor, Tensor]]:
    """Ours and torchvision's, output and gradients."""

    def reference(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return deform_conv2d(x, offset, weight, bias, stride, padding=1, mask=mask)

    ours = with_gradients(lambda *a: gathered_deform_conv(*a, stride), tensors)
    return list(zip(ours, with_gradients(reference, tensors), strict=True))


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    stride=st.sampled_from([1, 2]),
    spread=st.sampled_from([0.0, 0.3, 3.0, 40.0]),  # the last reads mostly outside
    seed=st.integers(0, 1000),
)
def test_values_and_gradients_are_torchvisions(batch: int, height: int, width: int, stride: int, spread: float, seed: int) -> None:
    tensors = problem(batch, height, width, stride, spread, seed)
    if spread == 0.0:
        tensors[1] += 0.25  # at whole pixels the slope of a bilinear weight has two values
    for ours, theirs in both(tensors, stride):
        assert torch.allclose(ours, theirs, atol=2e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = problem(2, 9, 11, 1, 2.0)
    whole = both(tensors, 1)
    monkeypatch.setattr(deform_conv, "BLOCK_CELLS", 7)
    monkeypatch.setattr(deform_conv, "TRAIN_BLOCK_CELLS", 13)
    for (ours, _), (before, theirs) in zip(both(tensors, 1), whole, strict=True):
        assert torch.allclose(ours, before, atol=1e-5) and torch.allclose(ours, theirs, atol=2e-5)


def test_gradients_are_the_slopes() -> None:
    x, offset, mask, weight, bias = (t.double() for t in problem(1, 4, 5, 2, 0.2))
    offset = offset.clamp(-0.4, 0.4) + 0.45  # away from whole pixels
    tensors = [t.requires_grad_() for t in (x, offset, mask, weight, bias)]
    assert torch.autograd.gradcheck(lambda *a: gathered_deform_conv(*a, 2), tensors, fast_mode=True)


def test_pixels_outside_weigh_nothing() -> None:
    offset = torch.zeros(1, 18, 2, 2)
    offset[0, 0], offset[0, 1], offset[0, 2] = -1e9, float("inf"), 1e9
    places, weights = bilinear_taps(offset, torch.ones(1, 9, 2, 2), (2, 2), 1)
    assert places.min() >= 0 and places.max() < 4
    assert torch.equal(weights[0, :, :2].nan_to_num(), torch.zeros(4, 2, 4))
    assert weights[0, :, 4].sum(-1).tolist() == [1.0] * 4


def test_a_batch_reads_its_own_pictures() -> None:
    x, offset, mask, weight, bias = problem(3, 6, 7, 1, 1.0)
    together = gathered_deform_conv(x, offset, mask, weight, bias)
    for i in range(3):
        alone = gathered_deform_conv(x[i : i + 1], offset[i : i + 1], mask[i : i + 1], weight, bias)
        assert torch.allclose(together[i], alone[0], atol=1e-6)


@pytest.mark.parametrize("reading", ["resized", "official"])
def test_both_operators_make_the_same_block(reading: str) -> None:
    torch.manual_seed(0)
    block = DyHeadBlock(channels=16, num_groups=4, offset_reading=reading, operator="gather")
    plain = DyHeadBlock(channels=16, num_groups=4, offset_reading=reading, operator="torchvision")
    plain.load_state_dict(block.state_dict())
    features = [torch.randn(2, 16, h, w) for h, w in [(12, 20), (6, 10), (3, 5)]]
    for a, b in zip(block(features), plain(features), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    for model in (block, plain):
        sum((x * x).sum() for x in model(features)).backward()
    for (name, a), b in zip(block.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-3 * float(b.grad.abs().max())), name


def test_memory_order_of_the_input_does_not_matter() -> None:
    x, *rest = problem(2, 5, 8, 1, 1.0)
    y = gathered_deform_conv(x, *rest)
    assert torch.equal(y, gathered_deform_conv(x.contiguous(memory_format=torch.channels_last), *rest))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_16_bits_only_without_gradients() -> None:
    torch.manual_seed(0)
    conv, plain = (ModulatedDeformConv(in_channels=16, out_channels=8, num_groups=2, operator=o) for o in ("gather", "torchvision"))
    plain.load_state_dict(conv.state_dict())
    x, offset, mask = torch.randn(1, 16, 6, 7), torch.randn(1, 18, 6, 7), torch.rand(1, 9, 6, 7)
    expected = plain(x, offset, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        training = conv(x, offset, mask)
        with torch.no_grad():
            rounded = conv(x, offset, mask)
    assert torch.allclose(training, expected, atol=1e-5)
    assert 1e-4 < float((rounded - expected).abs().max()) < 0.05


def test_an_unknown_operator_is_refused() -> None:
    with pytest.raises(ConfigError, match="cuda"):
        ModulatedDeformConv(in_channels=4, out_channels=4, num_groups=2, operator="cuda")
    conv = ModulatedDeformConv(in_channels=4, out_channels=4, num_groups=2)
    assert conv.gathers(torch.device("cpu")) and not conv.gathers(torch.device("cuda"))
