"""Pictures before words come in: what the backbone makes of a batch, kept apart so that many prompts can share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Size = tuple[int, int]


@dataclass
class Trunk:
    """A batch of B pictures behind the backbone.

    Attributes:
        features: per level (B, C, H, W).
        valid: per level (B, 1, H, W) bool, cells inside the pictures, or None where padding takes part.
        anchors: per level (N, 4), the same for all pictures.
        sizes: (height, width) of each picture without padding.
    """

    features: list[Tensor]
    valid: list[Tensor] | None
    anchors: list[Tensor]
    sizes: list[Size]

    def of(self, pictures: list[int]) -> Trunk:
        """The same for these pictures, any of them several times."""
        if pictures == list(range(len(self.sizes))):
            return self
        valid = None if self.valid is None else [m[pictures] for m in self.valid]
        return Trunk([f[pictures] for f in self.features], valid, self.anchors, [self.sizes[j] for j in pictures])


def valid_cells(features: Sequence[Tensor], sizes: Sequence[Size], padded: Size) -> list[Tensor]:
    """Per level (B, 1, H, W) bool: cells whose top left corner lies inside the picture.

    Args:
        features: per level (B, C, H, W).
        sizes: (height, width) of each picture.
        padded: (height, width) of the batch.
    """
    masks = []
    for x in features:
        h, w = x.shape[-2:]
        mask = torch.zeros(len(sizes), 1, h, w, dtype=torch.bool, device=x.device)
        for i, (height, width) in enumerate(sizes):
            mask[i, :, : -(-height * h // padded[0]), : -(-width * w // padded[1])] = True
        masks.append(mask)
    return masks
