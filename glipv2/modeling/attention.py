"""What both kinds of attention in the tower share."""

from __future__ import annotations

from torch import Tensor

CLAMP = 50000.0
"""The released code keeps scores, logits and activations within this on both sides, against overflow in 16 bits."""


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Turn (B, T, H * C) into (B, H, T, C)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Turn (B, H, T, C) into (B, T, H * C)."""
    return x.transpose(1, 2).flatten(2)
