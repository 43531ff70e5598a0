"""The language layer of a fused block: one post-norm BERT layer over the words (GLIP, arXiv 2112.03857, equation 6)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import CLAMP, merge_heads, split_heads

BLOCKED = -1e9


class LanguageLayer(nn.Module):
    """Self-attention and feed-forward network, each with a residual and a layer norm behind it.

    Letters: B captions, T tokens, L width.

    Args:
        dim: L.
        num_heads: attention heads.
        ffn_dim: hidden width of the feed-forward network.
        dropout: in training, on attention weights and on both branches.
        eps: of the layer norms (BERT's 1e-12).
    """

    def __init__(
        self, *, dim: int = 768, num_heads: int = 12, ffn_dim: int = 3072, dropout: float = 0.1, eps: float = 1e-12
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.attention_output = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim, eps=eps)
        self.intermediate = nn.Linear(dim, ffn_dim)
        self.output = nn.Linear(ffn_dim, dim)
        self.output_norm = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)
        for layer in (m for m in self.modules() if isinstance(m, nn.Linear)):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def _heads(self, x: Tensor) -> Tensor:
        return split_heads(x, self.num_heads)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Map `hidden` (B, T, L) to the same shape; words with `mask` False are not looked at.

        `mask` is (B, T), or (B, T, T): which word (second) sees which (third).
        """
        seen = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
        q, k, v = self._heads(self.query(hidden)), self._heads(self.key(hidden)), self._heads(self.value(hidden))
        scores = (q @ k.transpose(-1, -2)).float() * (q.shape[-1] ** -0.5)
        scores = scores.clamp(-CLAMP, CLAMP).masked_fill(~seen, BLOCKED)
        weights = self.dropout(scores.softmax(dim=-1)).to(v.dtype)
        context = merge_heads(weights @ v)
        hidden = self.attention_norm(self.dropout(self.attention_output(context)) + hidden)
        inner = F.gelu(self.intermediate(hidden).clamp(-CLAMP, CLAMP)).clamp(-CLAMP, CLAMP)
        mixed = (self.dropout(self.output(inner)) + hidden).clamp(-CLAMP, CLAMP)
        return self.output_norm(mixed).clamp(-CLAMP, CLAMP)
