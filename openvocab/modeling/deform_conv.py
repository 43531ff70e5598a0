"""Modulated deformable convolution (DCNv2) through torchvision, on every device, with a norm behind it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

OFFSETS = 18  # a (dy, dx) pair for each tap of a 3 x 3 kernel
TAPS = 9


class ModulatedDeformConv(nn.Module):
    """3 x 3 modulated deformable convolution followed by group normalisation.

    C: channels, (h, w): size of the output map.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        stride: 1 or 2.
        num_groups: groups of the normalisation (16 in DyHead and GLIP).
        deformable: with False offsets and masks are ignored and a plain convolution runs; ours, for small CPU models. It has the
            same parameters.
    """

    def __init__(
        self, *, in_channels: int, out_channels: int, stride: int = 1, num_groups: int = 16, deformable: bool = True
    ) -> None:
        super().__init__()
        self.stride = stride
        self.deformable = deformable
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm = nn.GroupNorm(num_groups, out_channels)
        bound = 1.0 / math.sqrt(in_channels * TAPS)
        nn.init.uniform_(self.conv.weight, -bound, bound)
        nn.init.zeros_(self.conv.bias)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (h, w) of the output for an input of `height` x `width`."""
        return (height - 1) // self.stride + 1, (width - 1) // self.stride + 1

    def forward(self, x: Tensor, offset: Tensor | None, mask: Tensor | None) -> Tensor:
        """Convolve `x` (B, C, H, W) with `offset` (B, 18, h, w) and `mask` (B, 9, h, w); return (B, C', h, w).

        Offsets are (dy, dx) pairs in input pixels; masks are weights in 0..1. The deformable form runs in float32 even under
        autocast, because bilinear weights lose too much in 16 bits.
        """
        if not self.deformable:
            return self.norm(self.conv(x))
        with torch.autocast(x.device.type, enabled=False):
            y = deform_conv2d(
                x.float(), offset.float(), self.conv.weight, self.conv.bias, self.stride, padding=1, mask=mask.float()
            )
        return self.norm(y)


def reuse_flat(buffer: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Read the first `channels * h * w` numbers of each picture's `buffer` (B, C, H, W) as (B, channels, h, w).

    The official DyHead hands offsets of one level to a convolution on a smaller map; its kernel indexes them as flat memory laid
    out with the output's size. Weights trained that way need the same reading (facts: microsoft/GLIP, not in the paper).
    """
    need = channels * size[0] * size[1]
    return buffer.flatten(1)[:, :need].reshape(buffer.shape[0], channels, *size)


def resize_field(buffer: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample an offset or mask field (B, C, H, W) to `size`, each value staying where it is in the picture (ours)."""
    return F.interpolate(buffer, size=size, mode="bilinear", align_corners=False)
