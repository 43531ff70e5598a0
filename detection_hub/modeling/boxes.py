"""Learned boxes: their forms, and where they start."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from openvocab.errors import ConfigError

INITIAL = ("image", "grid")
EDGE = 1e-3  # a side of exactly 0 or 1 has an infinite logit


def initial_boxes(num: int, kind: str = "image") -> Tensor:
    """Return (num, 4) boxes CXCYWH in shares of the picture.

    Args:
        kind: "image": the whole picture each (Sparse R-CNN); "grid": places of a regular grid, each twice its cell (ours).

    Raises:
        ConfigError: for another kind, or no boxes.
    """
    if kind not in INITIAL or num < 1:
        raise ConfigError(f"initial boxes '{kind}' are none of {', '.join(INITIAL)}, or their number {num} is below 1")
    if kind == "image":
        return torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(num, 1)
    columns = math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    place = torch.arange(num)
    x = (place % columns + 0.5) / columns
    y = (place // columns + 0.5) / rows
    sides = torch.tensor([min(2 / columns, 1.0), min(2 / rows, 1.0)]).expand(num, 2)
    return torch.cat([torch.stack([x, y], dim=1), sides], dim=1)


def to_pixels(boxes: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Turn (B, N, 4) CXCYWH shares into XYXY pixels of pictures of B sizes (H, W)."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    scale = boxes.new_tensor([[w, h, w, h] for h, w in sizes])
    return torch.cat([center - half, center + half], dim=-1) * scale[:, None]


def moved(boxes: Tensor, step: Tensor) -> Tensor:
    """Move boxes in shares of the picture by `step` in logits; a step of 0 leaves them exactly as they are."""
    place = torch.logit(boxes.clamp(EDGE, 1 - EDGE))
    return boxes + ((place + step).sigmoid() - place.sigmoid())
