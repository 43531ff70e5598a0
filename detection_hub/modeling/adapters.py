"""Parts that adapt a query detector to a data set (Detection Hub, arXiv 2206.03484; the forms are ours).

All start at zero: a fresh adapter changes nothing, to the last bit. U: contexts, N: queries, D: width, T: tokens, t: text width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection_hub.context import FLAGS

from .boxes import moved
from .decoder import PRIOR_BIAS, KernelContext

VECTOR_STD = 0.5  # beside names of unit variance: at 0.02, two data sets with the same names are told apart only late (measured)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class DatasetVectors(nn.Module):
    """A vector and a score bias for each data set, by name, and vectors of the box conventions that all data sets share.

    Every parameter takes part in every lookup, so that processes with different data sets have gradients for the same ones.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.vectors, self.biases = nn.ParameterDict(), nn.ParameterDict()
        self.conventions = nn.Linear(len(FLAGS), dim, bias=False)
        nn.init.normal_(self.conventions.weight, std=VECTOR_STD)

    @staticmethod
    def key(name: str) -> str:
        """The name as a parameter may be called."""
        return quote(name, safe=" ").replace(".", "%2E")

    def __contains__(self, name: str) -> bool:
        return self.key(name) in self.vectors

    def add(self, name: str, *, zero: bool = False) -> None:
        """Give a data set a vector and a bias, unless it has them.

        The vector is random, since a hub whose vectors are all zero could not learn from them; `zero`: for a data set that
        comes to a trained hub, and is to mean nothing yet.
        """
        if name not in self:
            like = self.conventions.weight
            vector = torch.zeros(self.dim) if zero else torch.randn(self.dim) * VECTOR_STD
            self.vectors[self.key(name)] = nn.Parameter(vector.to(like.device, like.dtype))
            self.biases[self.key(name)] = nn.Parameter(like.new_zeros(()))

    def remove(self, name: str) -> None:
        """Take a data set's vector and bias away again."""
        del self.vectors[self.key(name)], self.biases[self.key(name)]

    def forward(
        self, names: Sequence[str | None], flags: Sequence[Sequence[tuple[str, float]]]
    ) -> tuple[Tensor, Tensor]:
        """Return vectors (U, D) and biases (U,); names that are None or unknown have zeros, plus what their flags say."""
        like = self.conventions.weight
        strengths = like.new_zeros(len(names), len(FLAGS))
        chosen = like.new_zeros(len(names), len(self.vectors))
        rows = {key: i for i, key in enumerate(self.vectors)}
        for i, (name, pairs) in enumerate(zip(names, flags, strict=True)):
            if name is not None and self.key(name) in rows:
                chosen[i, rows[self.key(name)]] = 1
            for flag, strength in pairs:
                strengths[i, FLAGS.index(flag)] = strength
        vectors, biases = self.conventions(strengths), like.new_zeros(len(names))
        if rows:
            vectors = vectors + chosen @ torch.stack(list(self.vectors.values()))
            biases = biases + chosen @ torch.stack(list(self.biases.values()))
        return vectors, biases


class QueryAdapter(nn.Module):
    """Learned queries look at the tokens of a context and take up what they find; their boxes move with them.

    q' = q + Attention(LN(q), tokens); b' = sigmoid(logit(b) + MLP(q' - q)). It knows nothing of the decoder behind it, and stands
    before any detector with learned queries.

    Args:
        dim: D.
        num_heads: of the attention.
        move_boxes: also adapt the boxes; False for decoders that have none to start from.
    """

    def __init__(self, *, dim: int = 256, num_heads: int = 8, move_boxes: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        _zero(self.attention.out_proj)
        self.boxes = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(inplace=True), _zero(nn.Linear(dim, 4))) if move_boxes else None

    def forward(
        self, queries: Tensor, boxes: Tensor | None, tokens: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Adapt.

        Args:
            queries: (N, D).
            boxes: (N, 4) CXCYWH shares of the picture, or None.
            tokens: (U, T, D).
            mask: (U, T) bool, True on real tokens; one at least in each row. None: all are real.

        Returns:
            (U, N, D) and (U, N, 4) or None.
        """
        asked = self.norm(queries)[None].expand(len(tokens), -1, -1)
        step = self.attention(asked, tokens, tokens, key_padding_mask=None if mask is None else ~mask, need_weights=False)[0]
        if boxes is not None:
            boxes = boxes[None].expand(len(tokens), -1, -1)
            boxes = boxes if self.boxes is None else moved(boxes, self.boxes(step))
        return queries + step, boxes


class KernelAdapter(nn.Module):
    """One stage's kernels and interaction, shifted by the mean of a context's tokens."""

    def __init__(self, *, dim: int = 256) -> None:
        super().__init__()
        self.shift = _zero(nn.Linear(dim, dim, bias=False))
        self.film = _zero(nn.Linear(dim, 2 * dim))

    def forward(self, summary: Tensor) -> KernelContext:
        """Map (U, D) to what `DecoderStage` takes."""
        return KernelContext(self.shift(summary), *self.film(summary).chunk(2, dim=-1))


class Shade(NamedTuple):
    """What a data set makes of C names of length 1: T' = (T + weights @ basis) / length, of length 1 again.

    Attributes:
        weights: (U, C, h).
        basis: (h, t).
        length: (U, C).
    """

    weights: Tensor
    basis: Tensor
    length: Tensor

    def of(self, text: Tensor) -> Tensor:
        """Return T' (U, C, t), written out."""
        return (text + self.weights @ self.basis) / self.length[..., None]


class SemanticBias(nn.Module):
    """A data set's own shade of a name: its vector moves by at most `limit`, so that the language stays its centre.

    T' = normalise(T + limit * u / sqrt(t + |u|^2)) with u = MLP([E; s]) (v1 of the paper has the bias; form and bound are ours).
    The MLP is narrow, so u lies in few directions: what is compared with T' needs T, which has no gradient, and these
    directions, and vectors of width t are never made a name and data set.

    Args:
        dim: D.
        text_dim: t.
        limit: longest shift of a vector of length 1.
        hidden: width of the MLP; None: D / 4.
    """

    def __init__(self, *, dim: int = 256, text_dim: int, limit: float = 0.3, hidden: int | None = None) -> None:
        super().__init__()
        self.limit, self.text_dim, hidden = limit, text_dim, hidden or max(dim // 4, 8)
        self.of_name, self.of_dataset = nn.Linear(dim, hidden), nn.Linear(dim, hidden, bias=False)
        self.shift = _zero(nn.Linear(hidden, text_dim))

    def forward(self, text: Tensor, names: Tensor, vectors: Tensor) -> Shade:
        """Shift `text` (U, C, t) of length 1 by what `names` (U, C, D) and the data set's vectors (U, D) say."""
        hidden = (self.of_name(names) + self.of_dataset(vectors)[:, None]).relu()
        with torch.autocast(text.device.type, enabled=False):  # lengths are differences of nearly equal numbers
            return self._shade(text.float(), hidden.float())

    def _shade(self, text: Tensor, hidden: Tensor) -> Shade:
        hidden = F.pad(hidden, (0, 1), value=1.0)
        basis = torch.cat([self.shift.weight, self.shift.bias[:, None]], dim=1).t().float()
        square = ((hidden @ (basis @ basis.t())) * hidden).sum(dim=-1, keepdim=True).clamp(min=0)
        weights = hidden * (self.limit * (self.text_dim + square).rsqrt())
        # |T + shift|^2 with |T| = 1; written so that no shift is no change, to the last bit
        along = ((text @ basis.t()) * weights).sum(dim=-1)
        length = (1 + 2 * along + self.limit**2 * (square / (self.text_dim + square))[..., 0]).sqrt()
        return Shade(weights, basis, length)


class RegionWordAlignment(nn.Module):
    """Scores of regions against names: exp(tau) * cosine(W_k f, T) + beta + beta_d, a sigmoid logit a name (ours).

    Args:
        dim: D.
        text_dim: t.
        num_stages: one projection W_k a stage.
        scale: exp(tau) at the start; at most 100.
    """

    def __init__(self, *, dim: int = 256, text_dim: int, num_stages: int = 6, scale: float = 20.0) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(dim, text_dim, bias=False) for _ in range(num_stages))
        for projection in self.projections:
            nn.init.xavier_uniform_(projection.weight)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(PRIOR_BIAS))

    def forward(
        self, features: Sequence[Tensor], text: Tensor, dataset_bias: Tensor, *, shade: Shade | None = None, first: int = 0
    ) -> list[Tensor]:
        """Score.

        Args:
            features: (B, N, D) of some stages, one after the other.
            text: (B, C, t) of length 1.
            dataset_bias: (B,).
            shade: what the data set makes of the names; None: they are as they are.
            first: the stage of `features[0]`.

        Returns:
            (B, N, C) of each.
        """
        projected = [self.projections[first + k](x) for k, x in enumerate(features)]
        with torch.autocast(text.device.type, enabled=False):  # cosines times up to 100
            logits = self._logits(projected, text, dataset_bias, shade)
        return list(logits.split([x.shape[1] for x in features], dim=1))

    def _logits(self, projected: Sequence[Tensor], text: Tensor, dataset_bias: Tensor, shade: Shade | None) -> Tensor:
        regions = F.normalize(torch.cat(projected, dim=1).float(), dim=-1)  # all stages in one product: names are read once
        scale = self.log_scale.clamp(max=math.log(100.0)).exp()
        bias = (self.bias + dataset_bias)[:, None, None]
        regions, text = regions * scale, text.float().transpose(1, 2)
        if shade is None:
            return torch.baddbmm(bias, regions, text)
        logits = torch.baddbmm(regions @ text, regions @ shade.basis.t(), shade.weights.transpose(1, 2))
        return logits / shade.length[:, None] + bias
