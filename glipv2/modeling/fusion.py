"""Deep fusion of GLIP (arXiv 2112.03857, equations 4-6): bidirectional attention between picture cells and words."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openvocab.errors import ConfigError

from .attention import CLAMP, merge_heads, split_heads

BLOCKED = -9e15
FORMS = ("auto", "folded", "published")
BLOCK_SCORES = 2**18
"""Scores that the folded form holds at a time outside training: they stay in a processor's cache."""
MIN_CELLS = 256


class BiAttention(nn.Module):
    """Multi-head attention in both directions from one score matrix.

    Letters: B pictures, N cells of all levels, T tokens, V visual width, L language width, E attention width, H heads, C = E / H.

    The published form projects all N cells to width E three times. The folded form (ours) is the same function: each product is
    associated the other way round, so that the projections are applied to the T words instead.

    - scores: (v W_q) k^T = v (W_q k^T)
    - to cells: (a_v value_l) W_out = a_v (value_l W_out)
    - to words: a_l (v W_v) = (a_l v) W_v; a bias passes through times the sum of its row of a_l, which is 1 without dropout

    That is 3 N H T V multiplications instead of 3 N E (V + T): for GLIP's sizes always fewer, for narrow heads only while captions
    are short. Outside training it also walks over the cells in blocks, so that the score matrix is never held as a whole.

    Args:
        visual_dim: V.
        lang_dim: L.
        embed_dim: E, split over the heads.
        num_heads: H.
        dropout: on the attention weights, in training.
        form: `"auto"` takes the form with fewer multiplications for each T; `"folded"` and `"published"` are always that one.

    Raises:
        ConfigError: if E is not a multiple of the heads, or for an unknown form.
    """

    def __init__(
        self,
        *,
        visual_dim: int = 256,
        lang_dim: int = 768,
        embed_dim: int = 2048,
        num_heads: int = 8,
        dropout: float = 0.1,
        form: str = "auto",
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ConfigError(f"embed_dim={embed_dim} is not a multiple of num_heads={num_heads}")
        if form not in FORMS:
            raise ConfigError(f"form='{form}' is not one of {', '.join(FORMS)}")
        self.num_heads, self.form = num_heads, form
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

    def folds(self, tokens: int) -> bool:
        """Say whether captions of this many tokens take the folded form."""
        if self.form != "auto":
            return self.form == "folded"
        embed_dim, visual_dim = self.v_proj.weight.shape
        return self.num_heads * tokens * visual_dim < embed_dim * (visual_dim + tokens)

    def forward(self, v: Tensor, l: Tensor, text_mask: Tensor, visual_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:  # noqa: E741
        """Attend both ways; return the changes of `v` (B, N, V) and of `l` (B, T, L).

        `text_mask` (B, T) bool: words that cells may look at. `visual_mask` (B, N) bool: cells that words may look at; None lets
        padded cells take part, as published.
        """
        attend = self._folded if self.folds(l.shape[1]) else self._published
        return attend(v, l, text_mask, visual_mask)

    def _published(self, v: Tensor, l: Tensor, text_mask: Tensor, visual_mask: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: E741
        scores = self._heads(self.v_proj(v) * self.scale) @ self._heads(self.l_proj(l)).transpose(-1, -2)  # (B, H, N, T)
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

    def _folded(self, v: Tensor, l: Tensor, text_mask: Tensor, visual_mask: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: E741
        keys, bias = self._folded_keys(l)
        values = self._folded_values(l)
        pool = WordPool(self.dropout)
        delta_v = []
        for part in self._blocks(v.shape[1], keys.shape[0] * keys.shape[2]):
            cells = v[:, part]
            scores = torch.baddbmm(bias, cells, keys).float().clamp_(-CLAMP, CLAMP)  # (B, n, H T)
            pool.add(scores, cells, None if visual_mask is None else visual_mask[:, part])
            to_image = scores.unflatten(2, (self.num_heads, -1)).masked_fill_(~text_mask[:, None, None, :], BLOCKED)
            weights = self.dropout(to_image.softmax(dim=3)).flatten(2).to(v.dtype)
            delta_v.append(torch.baddbmm(self.out_v_proj.bias, weights, values))
        return torch.cat(delta_v, dim=1), self._project_words(*pool.result(), v.dtype)

    def _blocks(self, cells: int, columns: int) -> list[slice]:
        """Cut the cells so that a block has about `BLOCK_SCORES` scores; in training, which keeps them all, into one block."""
        step = cells if torch.is_grad_enabled() else max(BLOCK_SCORES // columns, MIN_CELLS)
        return [slice(start, start + step) for start in range(0, cells, step)]

    def _folded_keys(self, l: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741
        """Keys (B, V, H T) that raw cells are multiplied by, and what the bias of the queries adds, (B, 1, H T)."""
        keys = self._heads(self.l_proj(l) * self.scale)  # (B, H, T, C)
        query = self.v_proj.weight.unflatten(0, (self.num_heads, -1))  # (H, C, V)
        bias = (keys * self.v_proj.bias.view(self.num_heads, 1, -1)).sum(dim=-1)
        return (keys @ query).flatten(1, 2).transpose(1, 2), bias.flatten(1)[:, None]

    def _folded_values(self, l: Tensor) -> Tensor:  # noqa: E741
        """Values (B, H T, V) of the words behind the output projection of the cells."""
        out = self.out_v_proj.weight.unflatten(1, (self.num_heads, -1)).permute(1, 2, 0)  # (H, C, V)
        return (self._heads(self.values_l_proj(l)) @ out).flatten(1, 2)

    def _project_words(self, pooled: Tensor, total: Tensor, dtype: torch.dtype) -> Tensor:
        """Project cells pooled by words: `pooled` (B, H T, V), sums of the weights `total` (B, H T, 1) to (B, T, L)."""
        pooled, total = (x.unflatten(1, (self.num_heads, -1)) for x in (pooled, total))
        value = self.values_v_proj.weight.unflatten(0, (self.num_heads, -1)).transpose(1, 2)  # (H, V, C)
        bias = self.values_v_proj.bias.view(self.num_heads, 1, -1)
        context = pooled.to(dtype) @ value + total.to(dtype) * bias
        return self.out_l_proj(merge_heads(context))


class WordPool:
    """Softmax over all cells and the mean of them weighted by it, taken block by block (K columns of scores, V channels).

    The maximum so far is subtracted before the exponential; when a later block raises it, what was summed is scaled down.

    Args:
        dropout: on the weights. It may change their sum, so that is returned too.
    """

    def __init__(self, dropout: nn.Module) -> None:
        self.dropout = dropout
        self.top: Tensor | None = None  # (B, 1, K)
        self.sums: list[Tensor] = []  # of the weights and of those that dropout left, (B, K, 1); of weighted cells, (B, K, V)

    def add(self, scores: Tensor, cells: Tensor, valid: Tensor | None) -> None:
        """Take a block: `scores` (B, n, K) float32, `cells` (B, n, V), `valid` (B, n) bool."""
        if valid is not None:
            scores = scores.masked_fill(~valid[..., None], BLOCKED)
        top = scores.detach().amax(dim=1, keepdim=True)
        if self.top is not None:
            top = torch.maximum(top, self.top)
        weights = (scores - top).exp_()
        left = self.dropout(weights)
        norm = weights.sum(dim=1)[..., None]
        kept = norm if left is weights else left.sum(dim=1)[..., None]
        sums = [norm, kept, (left.transpose(1, 2).to(cells.dtype) @ cells).float()]
        if self.top is not None:
            fade = (self.top - top).exp_().transpose(1, 2)
            sums = [new + old * fade for new, old in zip(sums, self.sums, strict=True)]
        self.top, self.sums = top, sums

    def result(self) -> tuple[Tensor, Tensor]:
        """Return the weighted means of the cells (B, K, V), and the sums of the weights (B, K, 1)."""
        norm, kept, pooled = self.sums
        return pooled / norm, kept / norm


class VisionLanguageFusion(nn.Module):
    """`BiAttention` with the pre-norms and layer scales around it.

    As in the released code the residual is added to the *normalised* inputs (not in the paper's equations).

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
