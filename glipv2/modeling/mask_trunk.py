"""What the mask head does to pooled features before it compares them with words: convolutions or hourglasses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from openvocab.errors import ConfigError


def _initialised(layer: nn.Module) -> nn.Module:
    """Fill a (de)convolution's weight as Mask R-CNN's released code does, its bias with zeros."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class MaskConvs(nn.Module):
    """Mask R-CNN's trunk: 3x3 convolutions, each with ReLU (and group normalisation, if wished).

    Args:
        channels: C, in and out.
        num_convs: of them.
        num_groups: of the normalisation; 0 for none, as published.
    """

    def __init__(self, *, channels: int = 256, num_convs: int = 4, num_groups: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ConvNorm(in_channels=channels, out_channels=channels, num_groups=num_groups) for _ in range(num_convs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, C, S, S) to the same shape."""
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


class ConvNorm(nn.Module):
    """A 3x3 convolution that keeps the size, then group normalisation (and then no bias) or none.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        num_groups: of the normalisation; 0 for none.
        dilation: of the kernel.

    Raises:
        ConfigError: if the groups do not divide the channels.
    """

    def __init__(self, *, in_channels: int, out_channels: int, num_groups: int = 0, dilation: int = 1) -> None:
        super().__init__()
        if num_groups and out_channels % num_groups:
            raise ConfigError(f"num_groups={num_groups} does not divide {out_channels} channels of the mask trunk")
        conv = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=not num_groups)
        self.conv = _initialised(conv)
        self.norm = nn.GroupNorm(num_groups, out_channels) if num_groups else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, C, S, S) to (R, C', S, S)."""
        return self.norm(self.conv(x))


class HourglassResidual(nn.Module):
    """Three convolutions through half the channels, each after a ReLU, added to the input.

    As in the released code all are 3x3, the middle one with dilation 3: the kernel sizes 1, 3, 1 of the hourglass network
    (arXiv 1603.06937) arrive there as dilations.
    """

    def __init__(self, *, channels: int, num_groups: int = 0) -> None:
        super().__init__()
        widths = (channels, channels // 2, channels // 2, channels)
        self.layers = nn.ModuleList(
            ConvNorm(in_channels=widths[i], out_channels=widths[i + 1], num_groups=num_groups, dilation=dilation)
            for i, dilation in enumerate((1, 3, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, C, S, S) to the same shape."""
        out = x
        for layer in self.layers:
            out = layer(F.relu(out))
        return out + x


class Hourglass(nn.Module):
    """One hourglass: a path at full size, and one at half size that may hold another hourglass.

    Args:
        channels: C.
        depth: how often the size is halved.
        num_groups: of the normalisation in the inner part and on the way up; the other two residuals have none.
    """

    def __init__(self, *, channels: int, depth: int = 1, num_groups: int = 16) -> None:
        super().__init__()
        self.skip = HourglassResidual(channels=channels)
        self.down = HourglassResidual(channels=channels)
        if depth > 1:
            self.inner: nn.Module = Hourglass(channels=channels, depth=depth - 1, num_groups=num_groups)
        else:
            self.inner = HourglassResidual(channels=channels, num_groups=num_groups)
        self.up = HourglassResidual(channels=channels, num_groups=num_groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, C, S, S) to the same shape; S is a multiple of 2^depth."""
        low = self.up(self.inner(self.down(F.max_pool2d(x, 2))))
        return self.skip(x) + F.interpolate(low, scale_factor=2.0, mode="nearest")


class MaskHourglasses(nn.Module):
    """The released code's other trunk: hourglasses in a row, each with ReLU.

    Args:
        channels: C, in and out.
        num_blocks: hourglasses.
        depth: of each; a pooled size of 14 allows 1.
        num_groups: see `Hourglass`.

    Raises:
        ConfigError: for a depth below 1, or groups that do not divide half the channels.
    """

    def __init__(self, *, channels: int = 256, num_blocks: int = 4, depth: int = 1, num_groups: int = 16) -> None:
        super().__init__()
        if depth < 1:
            raise ConfigError(f"depth={depth} of an hourglass must be at least 1")
        self.blocks = nn.ModuleList(Hourglass(channels=channels, depth=depth, num_groups=num_groups) for _ in range(num_blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, C, S, S) to the same shape."""
        for block in self.blocks:
            x = F.relu(block(x))
        return x
