"""The dynamic head block: shapes, its parts by value, masks, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openvocab.errors import ConfigError
from openvocab.modeling import DyHeadBlock
from openvocab.modeling.deform_conv import ModulatedDeformConv, reuse_flat
from openvocab.modeling.dyhead import DyReLU, ScaleAttention, masked_mean

SIZES = [(12, 20), (6, 10), (3, 5)]


def pyramid(channels: int = 16) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, channels, h, w) for h, w in SIZES]


@pytest.mark.parametrize("reading", ["resized", "official"])
@pytest.mark.parametrize("deformable", [True, False])
def test_shapes_stay(reading: str, deformable: bool) -> None:
    block = DyHeadBlock(channels=16, num_groups=4, offset_reading=reading, deformable=deformable)
    assert [tuple(x.shape[-2:]) for x in block(pyramid())] == SIZES


def test_without_offsets_it_is_a_plain_convolution() -> None:
    torch.manual_seed(0)
    conv = ModulatedDeformConv(in_channels=8, out_channels=8, num_groups=4)
    x = torch.randn(1, 8, 7, 9)
    ours = conv(x, torch.zeros(1, 18, 7, 9), torch.ones(1, 9, 7, 9))
    assert torch.allclose(ours, conv.norm(conv.conv(x)), atol=1e-5)


def test_a_whole_offset_shifts_the_picture() -> None:
    conv = ModulatedDeformConv(in_channels=4, out_channels=4, num_groups=2)
    conv.norm = torch.nn.Identity()  # it would mix the border in
    x = torch.randn(1, 4, 10, 10)
    offset = torch.zeros(1, 18, 10, 10)
    offset[:, 1::2] = 1.0  # (dy, dx) pairs: one pixel to the right
    shifted = F.pad(x, (0, 1))[..., 1:]
    mask = torch.ones(1, 9, 10, 10)
    plain = conv(shifted, torch.zeros_like(offset), mask)
    assert torch.allclose(conv(x, offset, mask)[..., 1:-2], plain[..., 1:-2], atol=1e-5)


def test_flat_reading_is_memory_order() -> None:
    buffer = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    assert torch.equal(reuse_flat(buffer, 3, (2, 2))[1], buffer[1].flatten()[:12].view(3, 2, 2))


def test_scale_weight_is_between_a_half_and_one() -> None:
    attention = ScaleAttention(channels=8)
    attention.conv.weight.data.normal_()
    weight = attention(torch.randn(50, 8, 3, 3) * 30)
    assert weight.min() >= 0.5 and weight.max() <= 1.0


def test_dyrelu_starts_near_its_definition() -> None:
    relu = DyReLU(channels=4)
    x = torch.randn(2, 4, 3, 3)
    z = F.relu6(relu.fc(x.mean((2, 3))) + 3) / 6 - 0.5
    a1, b1, a2, b2 = z[:, :, None, None].split(4, 1)
    assert torch.allclose(relu(x), torch.maximum(x * (2 * a1 + 1) + b1, x * 2 * a2 + b2))


def test_padding_does_not_change_the_means() -> None:
    x = torch.randn(1, 3, 4, 4)
    padded, valid = F.pad(x, (0, 3, 0, 2), value=7.0), F.pad(torch.ones(1, 1, 4, 4), (0, 3, 0, 2))
    assert torch.allclose(masked_mean(padded, valid), masked_mean(x, None), atol=1e-6)


def test_every_parameter_gets_a_gradient() -> None:
    block = DyHeadBlock(channels=16, num_groups=4)
    sum(x.square().sum() for x in block(pyramid())).backward()
    assert [n for n, p in block.named_parameters() if p.grad is None] == []


def test_gradient_is_right() -> None:
    torch.manual_seed(0)
    conv = ModulatedDeformConv(in_channels=2, out_channels=2, num_groups=1)
    offset, mask = torch.rand(1, 18, 4, 4) * 0.6 + 0.2, torch.rand(1, 9, 4, 4)
    x = torch.randn(1, 2, 4, 4)
    offset.requires_grad_()
    conv(x, offset, mask)[0, 0, 1, 2].backward()
    step, place = 1e-3, (0, 7, 1, 2)
    up, down = offset.detach().clone(), offset.detach().clone()
    up[place] += step
    down[place] -= step
    numeric = (conv(x, up, mask) - conv(x, down, mask))[0, 0, 1, 2] / (2 * step)
    assert float(offset.grad[place]) == pytest.approx(float(numeric), abs=2e-2)


def test_an_unknown_reading_is_refused() -> None:
    with pytest.raises(ConfigError, match="flat"):
        DyHeadBlock(channels=16, offset_reading="flat")
