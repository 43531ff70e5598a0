"""Deep fusion of GLIP (arXiv 2112.03857, equations 4-6): bidirectional attention between picture cells and words."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openvocab.errors import ConfigError

from .attention import CLAMP, merge_heads, split_heads

BLOCKED = -9e15


class BiAttention(nn.Module):
    """Multi-head attention in both directions from one score matrix.

    Letters: B pictures, N cells of all levels, T tokens, V visual width, L language width, E attention width.

    Args:
        visual_dim: V.
        lang_dim: L.
        embed_dim: E, split over the heads.
        num_heads: heads.
        dropout: on the attention weights, in training.

    Raises:
        ConfigError: if E is not a multiple of the heads.
    """

    def __init__(
        self, *, visual_dim: int = 256, lang_dim: int = 768, embed_dim: int = 2048, num_heads: int = 8, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ConfigError(f"embed_dim={embed_dim} is not a multiple of num_heads={num_heads}")
        self.num_heads = num_heads
        self.scale = (embed_dim // num_heads) ** -0.5
        self.v_proj = nn.Linear(visual_dim, embed_dim)
        self.l_proj = nn.Linear(lang_dim, embed_dim)
        self.values_v_proj = nn.Linear(visual_dim, embed_dim)
        self.values_l_proj = nn.Linear(lang_dim, embed_dim)
        self.out_v_proj = nn.Linear(embed_dim, visual_dim)
        self.out_l_proj = nn.Linear(embed_dim, lang_dim)
        self.dropout = nn.Dropout(dropout)
        for layer in (m for m in self.modules() if isinstance(m, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _heads(self, x: Tensor) -> Tensor:
        return split_heads(x, self.num_heads)

    def forward(self, v: Tensor, l: Tensor, text_mask: Tensor, visual_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:  # noqa: E741
        """Attend both ways; return the changes of `v` (B, N, V) and of `l` (B, T, L).

        `text_mask` (B, T) bool: words that cells may look at. `visual_mask` (B, N) bool: cells that words may look at; None lets
        padded cells take part, as published.
        """
        scores = self._heads(self.v_proj(v) * self.scale) @ self._heads(self.l_proj(l)).transpose(-1, -2)  # (B, heads, N, T)
        scores = scores.float().clamp(-CLAMP, CLAMP)
        to_text = (scores - scores.amax(dim=2, keepdim=True)).clamp(min=-CLAMP)
        if visual_mask is not None:
            to_text = to_text.masked_fill(~visual_mask[:, None, :, None], BLOCKED)
        to_image = scores.masked_fill(~text_mask[:, None, None, :], BLOCKED)
        weights_l = self.dropout(to_text.softmax(dim=2)).to(v.dtype)
        weights_v = self.dropout(to_image.softmax(dim=3)).to(v.dtype)
        delta_v = weights_v @ self._heads(self.values_l_proj(l))
        delta_l = weights_l.transpose(-1, -2) @ self._heads(self.values_v_proj(v))
        return self.out_v_proj(merge_heads(delta_v)), self.out_l_proj(merge_heads(delta_l))


class VisionLanguageFusion(nn.Module):
    """`BiAttention` with the pre-norms and layer scales around it.

    As in the released code the residual is added to the *normalised* inputs (facts, not in the paper's equations).

    Args:
        attention: a `BiAttention`.
        visual_dim: V.
        lang_dim: L.
        init_scale: initial value of both layer scales; 1 / number of blocks in GLIP.
    """

    def __init__(self, *, attention: nn.Module, visual_dim: int = 256, lang_dim: int = 768, init_scale: float = 1 / 6) -> None:
        super().__init__()
        self.layer_norm_v = nn.LayerNorm(visual_dim)
        self.layer_norm_l = nn.LayerNorm(lang_dim)
        self.attn = attention
        self.gamma_v = nn.Parameter(torch.full((visual_dim,), init_scale))
        self.gamma_l = nn.Parameter(torch.full((lang_dim,), init_scale))

    def forward(
        self, features: list[Tensor], hidden: Tensor, text_mask: Tensor, valid: list[Tensor] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Fuse levels [(B, V, H, W)] with words (B, T, L); return both, of the same shapes.

        `valid` [(B, 1, H, W)] marks cells inside the pictures.
        """
        sizes = [f.shape[-2:] for f in features]
        v = torch.cat([f.flatten(2).transpose(1, 2) for f in features], dim=1)
        mask = None if valid is None else torch.cat([m.flatten(1) for m in valid], dim=1).bool()
        v, hidden = self.layer_norm_v(v), self.layer_norm_l(hidden)
        delta_v, delta_l = self.attn(v, hidden, text_mask, mask)
        v, hidden = v + self.gamma_v * delta_v, hidden + self.gamma_l * delta_l
        levels = v.transpose(1, 2).split([h * w for h, w in sizes], dim=2)
        return [x.unflatten(2, size) for x, size in zip(levels, sizes, strict=True)], hidden
