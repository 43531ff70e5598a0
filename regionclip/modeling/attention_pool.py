"""CLIP's attention pool (Radford et al. 2021, arXiv 2103.00020, section 2.4) for regions: the mean token asks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openvocab.errors import ConfigError


class AttentionPool2d(nn.Module):
    """One multi-head self-attention over the cells of a map and their mean; the mean's output is the map's vector.

    Only the mean's query is ever read, so it alone is computed, and the other projections are folded around it: with q the
    query of a head, q . (W_k x + b_k) = (W_k^T q) . x + q . b_k, and sum_i a_i (W_v x_i + b_v) = W_v (sum_i a_i x_i) + b_v. Keys
    and values of the single cells are never formed: 30 times fewer operations for a 7 x 7 map (`forward`). `all_queries` is the
    published order, kept for comparison.

    N: maps, S: side in cells, T = S * S + 1 tokens, C: channels, H: heads, D: output width.

    Args:
        side: S; the positional embedding has T rows and is not interpolated.
        channels: C.
        heads: H, a divisor of C.
        out_channels: D.

    Raises:
        ConfigError: if H does not divide C.
    """

    def __init__(self, *, side: int = 7, channels: int = 2048, heads: int = 32, out_channels: int = 1024) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ConfigError(f"heads={heads} do not divide the attention pool's {channels} channels")
        self.side, self.channels, self.heads, self.out_channels = side, channels, heads, out_channels
        self.positional_embedding = nn.Parameter(torch.randn(side * side + 1, channels) / channels**0.5)
        self.k_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj = nn.Linear(channels, out_channels)
        for layer in (self.k_proj, self.q_proj, self.v_proj, self.c_proj):
            nn.init.normal_(layer.weight, std=channels**-0.5)
            nn.init.zeros_(layer.bias)

    def tokens(self, x: Tensor) -> Tensor:
        """Turn maps (N, C, S, S) into tokens (N, T, C): the mean first, then cells row by row, with their positions.

        Raises:
            ConfigError: if the maps have another side or other channels.
        """
        if x.shape[1] != self.channels or tuple(x.shape[-2:]) != (self.side, self.side):
            raise ConfigError(
                f"the attention pool takes maps of {self.channels} channels and {self.side} x {self.side} cells, not "
                f"{x.shape[1]} and {x.shape[-2]} x {x.shape[-1]}: the ROI pooler's size, halved by CLIP's layer4, must be "
                f"{self.side} (14 for RN50 and RN101, 18 for RN50x4)"
            )
        cells = x.flatten(2).transpose(1, 2)
        return torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1) + self.positional_embedding.to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Pool maps (N, C, S, S) to vectors (N, D), not normalised.

        Raises:
            ConfigError: see `tokens`.
        """
        tokens = self.tokens(x)
        n, width = len(tokens), self.channels // self.heads
        query = (self.q_proj(tokens[:, 0]) * width**-0.5).view(n, self.heads, width)
        keys = self.k_proj.weight.view(self.heads, width, self.channels)
        asked = torch.einsum("nhw,hwc->nhc", query, keys)
        constant = torch.einsum("nhw,hw->nh", query, self.k_proj.bias.view(self.heads, width))  # a softmax ignores it; DDP does not
        share = (torch.bmm(asked, tokens.transpose(1, 2)) + constant[..., None]).softmax(dim=-1)
        pooled = torch.bmm(share, tokens)
        values = self.v_proj.weight.view(self.heads, width, self.channels)
        answer = torch.einsum("nhc,hwc->nhw", pooled, values).reshape(n, self.channels) + self.v_proj.bias
        return self.c_proj(answer)

    def all_queries(self, x: Tensor) -> Tensor:
        """Compute the same as `forward` in the published order: queries, keys and values of all T tokens."""
        tokens = self.tokens(x)
        n, count, width = len(tokens), tokens.shape[1], self.channels // self.heads

        def split(y: Tensor) -> Tensor:
            return y.view(n, count, self.heads, width).transpose(1, 2)

        query, key, value = (split(layer(tokens)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        share = (query * width**-0.5 @ key.transpose(2, 3)).softmax(dim=-1)
        return self.c_proj((share @ value).transpose(1, 2).reshape(n, count, self.channels))[:, 0]
