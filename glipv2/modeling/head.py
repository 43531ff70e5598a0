"""The grounding head of GLIP and GLIPv2 (arXiv 2206.05836): a fused tower, then boxes, centre-ness and region-word alignment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvocab.text import LanguageFeatures

from .attention import CLAMP


@dataclass
class HeadOutput:
    """What the head says of a batch. B: pictures, T: tokens, (H, W): a level's cells, N = H * W.

    Attributes:
        box_deltas: per level (B, N, 4), to be applied to the anchors.
        centerness: per level (B, N) logits.
        alignment: per level (B, N, T) logits of each cell against each token.
        features: per level (B, C, H, W) fused features (for mask heads).
        hidden: (B, T, L) fused words (for language heads).
        pyramid: per level (B, C, H, W) features that went into the tower.
    """

    box_deltas: list[Tensor]
    centerness: list[Tensor]
    alignment: list[Tensor]
    features: list[Tensor]
    hidden: Tensor
    pyramid: list[Tensor]


class GLIPv2Block(nn.Module):
    """One step of the tower: fuse picture and words, then each side by itself.

    Args:
        dynamic: maps levels and their masks to levels, such as `DyHeadBlock`.
        fusion: a `VisionLanguageFusion`, or None (GLIP-A has none).
        language: a `LanguageLayer`, or None.
    """

    def __init__(self, *, dynamic: nn.Module, fusion: nn.Module | None = None, language: nn.Module | None = None) -> None:
        super().__init__()
        self.fusion, self.language, self.dynamic = fusion, language, dynamic

    def forward(
        self, features: list[Tensor], hidden: Tensor, text_mask: Tensor, valid: list[Tensor] | None
    ) -> tuple[list[Tensor], Tensor]:
        """Map levels [(B, C, H, W)] and words (B, T, L) to the same shapes."""
        if self.fusion is not None:
            features, hidden = self.fusion(features, hidden, text_mask, valid)
        if self.language is not None:
            hidden = self.language(hidden, text_mask)
        return self.dynamic(features, valid), hidden


class Scale(nn.Module):
    """A learned factor of a level's box deltas."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class RegionWordAlignment(nn.Module):
    """Logits of cells against words (GLIP, equation 3), with the released code's halved embedding and biases.

    Args:
        channels: C of the cells.
        lang_dim: L of the words.
        log_scale: initial logarithm of the divisor.
        prior_prob: initial probability of a match (focal loss); None: no such bias at all (mask heads).
    """

    def __init__(
        self, *, channels: int = 256, lang_dim: int = 768, log_scale: float = 0.0, prior_prob: float | None = 0.01
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(lang_dim, channels)
        self.log_scale = nn.Parameter(torch.tensor([log_scale]))
        self.bias_lang = nn.Parameter(torch.zeros(lang_dim))
        prior = None if prior_prob is None else nn.Parameter(torch.tensor([-math.log((1 - prior_prob) / prior_prob)]))
        self.bias0 = prior

    def words(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Prepare words (B, T, L): their vectors (B, T, C) and biases (B, T)."""
        hidden = F.normalize(hidden.float(), dim=-1)
        bias = hidden @ self.bias_lang
        return self.projection(hidden / 2.0), bias if self.bias0 is None else bias + self.bias0

    def forward(self, cells: Tensor, words: tuple[Tensor, Tensor]) -> Tensor:
        """Compare cells (B, N, C) with prepared words: (B, N, T)."""
        vectors, bias = words
        logits = (cells.float() @ vectors.transpose(1, 2)) / self.log_scale.exp() + bias[:, None]
        return logits.clamp(-CLAMP, CLAMP)


class GLIPv2Head(nn.Module):
    """Tower and prediction layers, shared by all levels of the pyramid.

    It can stand behind any detectron2 backbone that returns maps of `channels` channels; see glipv2/README.md.

    Args:
        blocks: `GLIPv2Block`s, in order.
        alignment: a `RegionWordAlignment`.
        channels: C of every level.
        num_levels: levels of the pyramid (a learned scale each).
        fused_words: compare cells with the words that come out of the tower (GLIP-T B, C, GLIP-L, GLIPv2); with False, with
            those that went in (GLIP-A).
    """

    def __init__(
        self,
        *,
        blocks: Sequence[nn.Module],
        alignment: nn.Module,
        channels: int = 256,
        num_levels: int = 5,
        fused_words: bool = True,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.alignment = alignment
        self.fused_words = fused_words
        self.bbox_pred = nn.Conv2d(channels, 4, 1)
        self.centerness = nn.Conv2d(channels, 1, 1)
        self.scales = nn.ModuleList(Scale() for _ in range(num_levels))
        for layer in (self.bbox_pred, self.centerness):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(
        self, features: Sequence[Tensor], language: LanguageFeatures, valid: list[Tensor] | None = None
    ) -> HeadOutput:
        """Ground words in levels [(B, C, H, W)], finest first.

        `valid` [(B, 1, H, W)] marks the cells inside the pictures; None is the published form, in which padding takes part.
        """
        pyramid, mask = list(features), language.mask
        features = pyramid
        hidden = language.hidden
        for block in self.blocks:
            features, hidden = block(features, hidden, mask, valid)
        source = hidden if self.fused_words else language.hidden * mask[..., None]
        words = self.alignment.words(source)
        deltas, centerness, logits = [], [], []
        for x, scale in zip(features, self.scales, strict=True):
            deltas.append(scale(self.bbox_pred(x)).flatten(2).transpose(1, 2).float())
            centerness.append(self.centerness(x).flatten(1).float())
            logits.append(self.alignment(x.flatten(2).transpose(1, 2), words))
        return HeadOutput(deltas, centerness, logits, features, hidden, pyramid)
