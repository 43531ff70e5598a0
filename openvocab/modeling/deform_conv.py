"""Modulated deformable convolution (DCNv2) with a norm behind it: torchvision's operator, or gathered rows on a CPU."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torchvision.ops import deform_conv2d

from openvocab.errors import ConfigError

OFFSETS = 18  # a (dy, dx) pair for each tap of a 3 x 3 kernel
TAPS = 9
OPERATORS = ("auto", "gather", "torchvision")
BLOCK_CELLS = 1024
"""Cells sampled at a time: what is read stays in a processor's cache until the product has used it."""
TRAIN_BLOCK_CELLS = 4096


def bilinear_taps(offset: Tensor, mask: Tensor, size: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
    """Say where a 3 x 3 deformable convolution with padding 1 reads: four pixels for each tap, and their weights.

    Args:
        offset: (B, 18, h, w), (dy, dx) pairs in input pixels.
        mask: (B, 9, h, w), weights of the taps.
        size: (H, W) of the input.
        stride: 1 or 2.

    Returns:
        int64 numbers (B, h * w, 9, 4) of pixels in the pictures' B * H * W, and weights of the same shape: bilinear ones times
        the mask, 0 for what lies outside.
    """
    height, width = size
    batch, _, h, w = offset.shape
    tap = torch.arange(TAPS, device=offset.device).view(-1, 1, 1)
    rows, columns = torch.arange(h, device=offset.device) * stride, torch.arange(w, device=offset.device) * stride
    y, y_weights = _two_nearest(offset[:, 0::2] + (tap // 3 - 1 + rows[:, None]), height)
    x, x_weights = _two_nearest(offset[:, 1::2] + (tap % 3 - 1 + columns), width)
    y_weights = y_weights * mask[..., None]
    first = torch.arange(batch, device=offset.device).view(-1, 1, 1, 1, 1) * (height * width)
    places = (first + y * width)[..., :, None] + x[..., None, :]  # (B, 9, h, w, 2, 2)
    weights = y_weights[..., :, None] * x_weights[..., None, :]
    return tuple(t.flatten(4).flatten(2, 3).transpose(1, 2).contiguous() for t in (places, weights))


def _two_nearest(position: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The pixels before and behind each position along one axis, clamped to it, and their weights, both (..., 2)."""
    low = position.floor()
    far = position - low
    low = low.clamp(-2, length + 1)  # all that far out weighs nothing, and fits an integer
    pixels = torch.stack([low, low + 1], dim=-1).long()
    inside = (pixels >= 0) & (pixels < length)
    return pixels.clamp(0, length - 1), torch.stack([1 - far, far], dim=-1) * inside


def _sample(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of four `rows` (P, C) for each tap of n cells, (n, 9, 4), as (n, 9 * C)."""
    bags = F.embedding_bag(places.flatten(0, 1), rows, mode="sum", per_sample_weights=weights.flatten(0, 1))
    return bags.view(len(places), -1)


class _GatheredProduct(torch.autograd.Function):
    """Sample rows and multiply them by a matrix, block by block; backward samples again instead of keeping what was sampled."""

    @staticmethod
    def forward(ctx: object, rows: Tensor, places: Tensor, weights: Tensor, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(rows, places, weights, matrix)
        return gathered_product(rows, places, weights, matrix)

    @staticmethod
    @once_differentiable
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, places, weights, matrix = ctx.saved_tensors
        rows, weights = rows.detach().requires_grad_(), weights.detach().requires_grad_()
        d_rows, d_matrix, d_weights = torch.zeros_like(rows), torch.zeros_like(matrix), torch.empty_like(weights)
        for start in range(0, len(places), TRAIN_BLOCK_CELLS):
            part = slice(start, start + TRAIN_BLOCK_CELLS)
            block = weights[part].detach().requires_grad_()
            with torch.enable_grad():
                sampled = _sample(rows, places[part], block)
            d_matrix += grad[part].t() @ sampled.detach()
            d_block = torch.autograd.grad(sampled, (rows, block), grad[part] @ matrix)
            d_rows += d_block[0]
            d_weights[part] = d_block[1]
        return d_rows, None, d_weights, d_matrix


def gathered_product(rows: Tensor, places: Tensor, weights: Tensor, matrix: Tensor) -> Tensor:
    """Sample `rows` (P, C) at `places` (n, 9, 4) with `weights` (n, 9, 4), and multiply by `matrix` (C', 9 * C): (n, C')."""
    out = rows.new_empty(len(places), len(matrix))
    for start in range(0, len(places), BLOCK_CELLS):
        part = slice(start, start + BLOCK_CELLS)
        torch.mm(_sample(rows, places[part], weights[part]), matrix.t(), out=out[part])
    return out


def gathered_deform_conv(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: int = 1,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """3 x 3 modulated deformable convolution, padding 1, as weighted row gathers and one product.

    The same function as torchvision's operator. Bilinear sampling is a sum of four rows of the channels-last map, weighted by
    the bilinear weight times the mask; `embedding_bag` is that sum.

    Args:
        x: (B, C, H, W); channels-last memory is read as it is.
        offset: (B, 18, h, w), (dy, dx) pairs in input pixels.
        mask: (B, 9, h, w).
        weight: (C', C, 3, 3).
        bias: (C',).
        stride: 1 or 2.
        dtype: of the samples and the product; positions and bilinear weights are computed in the type of the offsets.

    Returns:
        (B, C', h, w) in channels-last memory.
    """
    batch, channels, height, width = x.shape
    places, weights = bilinear_taps(offset, mask, (height, width), stride)
    rows = x.permute(0, 2, 3, 1).reshape(-1, channels)
    matrix = weight.permute(0, 2, 3, 1).flatten(1)
    rows, weights, matrix = (t if dtype is None else t.to(dtype) for t in (rows, weights, matrix))
    product = _GatheredProduct.apply if torch.is_grad_enabled() else gathered_product
    y = product(rows, places.flatten(0, 1), weights.flatten(0, 1), matrix) + bias
    return y.view(batch, *offset.shape[-2:], -1).permute(0, 3, 1, 2)


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
        operator: `"torchvision"`, `"gather"` (see `gathered_deform_conv`; the same function, several times faster on a CPU), or
            `"auto"`, which gathers on a CPU and takes torchvision's operator elsewhere.

    Raises:
        ConfigError: for an unknown operator.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        num_groups: int = 16,
        deformable: bool = True,
        operator: str = "auto",
    ) -> None:
        super().__init__()
        if operator not in OPERATORS:
            raise ConfigError(f"operator='{operator}' is not one of {', '.join(OPERATORS)}")
        self.stride, self.deformable, self.operator = stride, deformable, operator
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm = nn.GroupNorm(num_groups, out_channels)
        bound = 1.0 / math.sqrt(in_channels * TAPS)
        nn.init.uniform_(self.conv.weight, -bound, bound)
        nn.init.zeros_(self.conv.bias)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (h, w) of the output for an input of `height` x `width`."""
        return (height - 1) // self.stride + 1, (width - 1) // self.stride + 1

    def gathers(self, device: torch.device) -> bool:
        """Say whether maps on this device are gathered."""
        return self.operator == "gather" or (self.operator == "auto" and device.type == "cpu")

    def forward(self, x: Tensor, offset: Tensor | None, mask: Tensor | None) -> Tensor:
        """Convolve `x` (B, C, H, W) with `offset` (B, 18, h, w) and `mask` (B, 9, h, w); return (B, C', h, w).

        Offsets are (dy, dx) pairs in input pixels; masks are weights in 0..1. The deformable form runs in float32 even under
        autocast, because bilinear weights lose too much in 16 bits for training. Without gradients, what was gathered is
        multiplied in autocast's type.
        """
        if not self.deformable:
            return self.norm(self.conv(x))
        kind = x.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) and not torch.is_grad_enabled() else None
        with torch.autocast(kind, enabled=False):
            x, offset, mask = x.float(), offset.float(), mask.float()
            weight, bias = self.conv.weight, self.conv.bias
            if self.gathers(x.device):
                y = gathered_deform_conv(x, offset, mask, weight, bias, self.stride, low)
            else:
                y = deform_conv2d(x, offset, weight, bias, self.stride, padding=1, mask=mask)
        return self.norm(y)


def reuse_flat(buffer: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Read the first `channels * h * w` numbers of each picture's `buffer` (B, C, H, W) as (B, channels, h, w).

    The official DyHead hands offsets of one level to a convolution on a smaller map; its kernel indexes them as flat memory laid
    out with the output's size. Weights trained that way need the same reading (microsoft/GLIP; not in the paper).
    """
    need = channels * size[0] * size[1]
    return buffer.flatten(1)[:, :need].reshape(buffer.shape[0], channels, *size)


def resize_field(buffer: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample an offset or mask field (B, C, H, W) to `size`, each value staying where it is in the picture (ours)."""
    return F.interpolate(buffer, size=size, mode="bilinear", align_corners=False)
