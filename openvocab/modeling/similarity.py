"""Similarity classifiers: scores of region features against text embeddings, with a vocabulary of any length at any time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvocab.errors import ConfigError, VocabularyError

BACKGROUNDS = ("zero", "learned", "none")


class SimilarityClassifier(nn.Module):
    """Cosine similarity to class embeddings over a temperature; a drop-in for the `nn.Linear` of a detection head.

    In detectron2's `FastRCNNOutputLayers` it takes the place of `cls_score` (K + 1 logits, background last); with
    `background="none"` it gives K logits for sigmoid heads. N: regions, C: feature channels, D: text width, K: names.

    Args:
        in_features: C.
        embeddings: (K, D) text embeddings, of any length (they are normalised at every use); None until `set_embeddings`.
        text_dim: D.
        temperature: logits are cosine / temperature (0.01 in RegionCLIP, arXiv 2112.09106).
        learn_temperature: make the temperature a parameter (its logarithm is learned).
        background: `"zero"`, a constant logit 0 (RegionCLIP); `"learned"`, an embedding of its own (ViLD); `"none"`.
        project: a linear layer C -> D before the comparison; needed where C differs from D.
        bias: value of a learned bias on the K name logits, None for no bias. Sigmoid heads want log(0.01 / 0.99).

    Raises:
        ConfigError: for an unknown background, a temperature not above 0, or C != D without a projection.
    """

    def __init__(
        self,
        *,
        in_features: int,
        embeddings: Tensor | None = None,
        text_dim: int | None = None,
        temperature: float = 0.01,
        learn_temperature: bool = False,
        background: str = "zero",
        project: bool = False,
        bias: float | None = None,
    ) -> None:
        super().__init__()
        if background not in BACKGROUNDS:
            raise ConfigError(f"background='{background}' is not one of {', '.join(BACKGROUNDS)}")
        if temperature <= 0:
            raise ConfigError(f"temperature={temperature} must be above 0")
        text_dim = text_dim or (in_features if embeddings is None else embeddings.shape[-1])
        if not project and text_dim != in_features:
            raise ConfigError(f"regions are {in_features} wide and texts {text_dim}: pass project=True")
        self.in_features, self.text_dim, self.background = in_features, text_dim, background
        self.projection = nn.Linear(in_features, text_dim) if project else nn.Identity()
        log_temperature = torch.tensor(float(temperature)).log()
        self.log_temperature = nn.Parameter(log_temperature, requires_grad=learn_temperature)
        self.bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))
        self.background_embedding = nn.Parameter(torch.randn(1, text_dim) * 0.02) if background == "learned" else None
        self.register_buffer("embeddings", torch.zeros(0, text_dim), persistent=False)
        if embeddings is not None:
            self.set_embeddings(embeddings)

    @property
    def num_classes(self) -> int:
        return len(self.embeddings)

    def set_embeddings(self, embeddings: Tensor) -> None:
        """Use `embeddings` (K, D) from now on; K may differ from before.

        Raises:
            VocabularyError: if the shape is not (K >= 1, D), or a row is not finite or all zero.
        """
        if embeddings.ndim != 2 or embeddings.shape[0] == 0 or embeddings.shape[1] != self.text_dim:
            raise VocabularyError(f"embeddings of shape {tuple(embeddings.shape)} do not fit; expected (names, {self.text_dim})")
        norms = embeddings.float().norm(dim=1)
        bad = torch.nonzero(~torch.isfinite(norms) | (norms == 0)).flatten().tolist()
        if bad:
            raise VocabularyError(f"embedding rows {bad[:5]} are zero or not finite")
        self.embeddings = embeddings.detach().to(self.embeddings.device, torch.float32)

    def forward(self, x: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Score `x` (N, C) against the names: (N, K + 1) with a background (last column), else (N, K).

        `embeddings` (K, D) replaces the stored ones for this call, with gradients.
        """
        text = self.embeddings if embeddings is None else embeddings
        if len(text) == 0:
            raise VocabularyError("no vocabulary is set: call set_embeddings first")
        if x.ndim > 2:
            x = x.flatten(1)
        x = F.normalize(self.projection(x).float(), dim=-1)
        scale = torch.exp(-self.log_temperature)
        logits = x @ F.normalize(text.float(), dim=-1).t() * scale
        if self.bias is not None:
            logits = logits + self.bias
        if self.background == "none":
            return logits
        if self.background_embedding is None:
            return torch.cat([logits, logits.new_zeros(len(logits), 1)], dim=1)
        return torch.cat([logits, x @ F.normalize(self.background_embedding, dim=-1).t() * scale], dim=1)


class SimilarityConv(nn.Module):
    """The same comparison on a map: the `cls_score` of a `RetinaNetHead` with A anchors a cell.

    A 1 x 1 convolution gives one D-vector an anchor; K sigmoid logits an anchor come out, in RetinaNet's channel order
    (anchor major, name minor), so that K may change at any time.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_anchors: int,
        text_dim: int,
        embeddings: Tensor | None = None,
        temperature: float = 0.07,
        prior_prob: float = 0.01,
    ) -> None:
        super().__init__()
        self.num_anchors = num_anchors
        self.conv = nn.Conv2d(in_channels, num_anchors * text_dim, 3, padding=1)
        nn.init.normal_(self.conv.weight, std=0.01)
        nn.init.zeros_(self.conv.bias)
        prior = torch.tensor(prior_prob)
        self.classifier = SimilarityClassifier(
            in_features=text_dim,
            embeddings=embeddings,
            temperature=temperature,
            learn_temperature=True,
            background="none",
            bias=float((prior / (1 - prior)).log()),
        )

    def set_embeddings(self, embeddings: Tensor) -> None:
        """See `SimilarityClassifier.set_embeddings`."""
        self.classifier.set_embeddings(embeddings)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to logits (B, A * K, H, W)."""
        b, _, h, w = x.shape
        vectors = self.conv(x).view(b, self.num_anchors, -1, h, w).permute(0, 3, 4, 1, 2)
        logits = self.classifier(vectors.reshape(-1, vectors.shape[-1]))
        return logits.view(b, h, w, -1).permute(0, 3, 1, 2)
