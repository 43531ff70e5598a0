"""Dynamic Head block (arXiv 2106.08322) in the form GLIP uses: scale-, spatial- and task-aware attention on a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvocab.errors import ConfigError
from openvocab.modeling.deform_conv import OFFSETS, TAPS, ModulatedDeformConv, resize_field, reuse_flat

OFFSET_READINGS = ("resized", "official")


def hard_sigmoid(x: Tensor) -> Tensor:
    """relu6(x + 3) / 6."""
    return F.relu6(x + 3.0) / 6.0


def masked_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Mean of `x` (B, C, H, W) over the cells where `valid` (B, 1, H, W) is 1, as (B, C, 1, 1); over all cells if None."""
    if valid is None:
        return x.mean(dim=(2, 3), keepdim=True)
    weight = valid.to(x.dtype)
    return (x * weight).sum(dim=(2, 3), keepdim=True) / weight.sum(dim=(2, 3), keepdim=True).clamp(min=1.0)


def weighted_sum(maps: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Sum of maps [(B, C, H, W)] times weights [(B, 1, 1, 1)], without holding the products at once."""
    total = maps[0] * weights[0]
    for x, weight in zip(maps[1:], weights[1:], strict=True):
        total = torch.addcmul(total, x, weight)
    return total


class DyReLU(nn.Module):
    """Task-aware attention: a piecewise linear unit whose four coefficients a channel depend on the map (DyHead, equation 5)."""

    def __init__(self, *, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.channels = channels
        hidden = channels // reduction
        self.fc = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels * 4))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        z = hard_sigmoid(self.fc(masked_mean(x, valid).flatten(1)))[:, :, None, None] - 0.5
        a1, b1, a2, b2 = z.split(self.channels, dim=1)
        return torch.maximum(torch.addcmul(b1, x, 2.0 * a1 + 1.0), torch.addcmul(b2, x, 2.0 * a2))


class ScaleAttention(nn.Module):
    """Scale-aware attention (DyHead, equation 3): one weight in 0.5..1 for a whole map."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)
        nn.init.normal_(self.conv.weight, std=0.01)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the weight (B, 1, 1, 1) of the map `x` (B, C, H, W)."""
        return hard_sigmoid(F.relu(self.conv(masked_mean(x, valid))))


class DyHeadBlock(nn.Module):
    """One block over a pyramid: each level looks at itself and at its neighbours through deformable convolutions.

    Args:
        channels: C of every level, in and out.
        num_groups: groups of the group normalisation.
        offset_reading: what the convolution of the coarser neighbour gets as offsets, which are computed on the finer level:
            `"resized"` resamples them to its size (the sound form, ours); `"official"` reads their memory as the released code
            does, and is needed by its checkpoints.
        deformable: see `ModulatedDeformConv`.
        operator: see `ModulatedDeformConv`.

    Raises:
        ConfigError: for an unknown `offset_reading` or `operator`.
    """

    def __init__(
        self,
        *,
        channels: int = 256,
        num_groups: int = 16,
        offset_reading: str = "resized",
        deformable: bool = True,
        operator: str = "auto",
    ) -> None:
        super().__init__()
        if offset_reading not in OFFSET_READINGS:
            raise ConfigError(f"offset_reading='{offset_reading}' is not one of {', '.join(OFFSET_READINGS)}")
        self.offset_reading = offset_reading
        self.deformable = deformable

        def make_conv(stride: int) -> ModulatedDeformConv:
            return ModulatedDeformConv(
                in_channels=channels,
                out_channels=channels,
                stride=stride,
                num_groups=num_groups,
                deformable=deformable,
                operator=operator,
            )

        self.from_coarser = make_conv(1)
        self.from_same = make_conv(1)
        self.from_finer = make_conv(2)
        self.offset = nn.Conv2d(channels, OFFSETS + TAPS, 3, padding=1) if deformable else None
        self.scale_attention = ScaleAttention(channels=channels)
        self.relu = DyReLU(channels=channels)

    def _field(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.offset is None:
            return None, None
        with torch.autocast(x.device.type, enabled=False):
            both = self.offset(x.float())
        return both[:, :OFFSETS], both[:, OFFSETS:].sigmoid()

    def _read(self, field: tuple[Tensor | None, Tensor | None], size: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
        offset, mask = field
        if offset is None or offset.shape[-2:] == size:
            return offset, mask
        if self.offset_reading == "official":
            return reuse_flat(offset, OFFSETS, size), reuse_flat(mask, TAPS, size)
        return resize_field(offset, size), resize_field(mask, size)

    def forward(self, features: Sequence[Tensor], valid: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Map levels [(B, C, H_l, W_l)], finest first, to levels of the same shapes.

        `valid` [(B, 1, H_l, W_l)] marks cells inside the pictures: means then leave padding out. The official form has none.
        """
        outputs = []
        for level, x in enumerate(features):
            mask = None if valid is None else valid[level]
            field, size = self._field(x), x.shape[-2:]
            candidates = [self.from_same(x, *field)]
            if level > 0:
                finer = features[level - 1]
                candidates.append(self.from_finer(finer, *self._read(field, self.from_finer.output_size(*finer.shape[-2:]))))
            if level < len(features) - 1:
                coarser = features[level + 1]
                y = self.from_coarser(coarser, *self._read(field, coarser.shape[-2:]))
                candidates.append(F.interpolate(y, size=size, mode="bilinear", align_corners=True))
            weights = [self.scale_attention(c, mask) / len(candidates) for c in candidates]
            outputs.append(self.relu(weighted_sum(candidates, weights), mask))
        return outputs
