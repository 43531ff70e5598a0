"""The three pretraining losses of RegionCLIP (arXiv 2112.09106, equations 1 to 4).

Letters: N regions, C concepts, B image-text pairs, D embedding width, T temperature. Similarities are cosines; embeddings come
un-normalised.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from openvocab.errors import ConfigError


def cosine_logits(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Return cosine / temperature of the rows of x (N, D) and y (C, D): (N, C) float32."""
    if x.shape[-1] != y.shape[-1]:
        raise ConfigError(f"regions are {x.shape[-1]} wide and texts {y.shape[-1]}: they are of different models")
    return F.normalize(x.float(), dim=-1) @ F.normalize(y.float(), dim=-1).t() / temperature


def multi_positive_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Cross-entropy with several right answers a row: mean over rows of -log of the sum of their probabilities.

    Args:
        logits: (N, M).
        positive: (N, M) bool, at least one a row.

    Returns:
        a scalar; 0, with a graph, for no rows.
    """
    if len(logits) == 0:
        return logits.sum() * 0.0
    right = logits.masked_fill(~positive, float("-inf")).logsumexp(dim=1)
    return (logits.logsumexp(dim=1) - right).mean()


def concept_contrastive_loss(
    regions: Tensor,
    labels: Tensor,
    concepts: Tensor,
    temperature: float = 0.01,
    *,
    others: Tensor | None = None,
) -> Tensor:
    """Region-concept contrast (equation 1, in the summed multi-positive form of the official code).

    Region i is compared with the concept of every region j; all j of its own label are right. Negatives are the labels of the
    other regions, nothing else: a label that many regions have weighs as much.

    Args:
        regions: (N, D).
        labels: (N,) int64, positions in `concepts`.
        concepts: (C, D).
        temperature: T.
        others: (M,) labels of the regions to compare with; by default `labels` (those of all ranks, if gathered).

    Returns:
        a scalar.
    """
    others = labels if others is None else others
    # similarities to the concepts that occur, then one column a region
    occurring, column = others.unique(return_inverse=True)
    logits = cosine_logits(regions, concepts[occurring], temperature)[:, column]
    return multi_positive_loss(logits, labels[:, None] == others[None])


def distillation_loss(student_logits: Tensor, teacher_probs: Tensor) -> Tensor:
    """KL(teacher || student), mean over regions (equation 3).

    The official code takes the logarithm of a softmax, which underflows; `log_softmax` is the same and does not.

    Args:
        student_logits: (N, C).
        teacher_probs: (N, C), rows sum to 1.

    Returns:
        a scalar; 0, with a graph, for no regions.
    """
    if len(student_logits) == 0:
        return student_logits.sum() * 0.0
    return F.kl_div(student_logits.float().log_softmax(dim=1), teacher_probs.float(), reduction="batchmean")


def image_text_loss(images: Tensor, texts: Tensor, temperature: float = 0.01) -> Tensor:
    """Symmetric contrast of whole pictures and their captions (CLIP's; mean of both directions).

    Args:
        images: (B, D).
        texts: (B, D), row i belongs to picture i.

    Returns:
        a scalar; 0, with a graph, for no pairs.

    Raises:
        ConfigError: if their numbers differ.
    """
    if len(images) != len(texts):
        raise ConfigError(f"{len(images)} pictures and {len(texts)} captions: one caption a picture is needed")
    if len(images) == 0:
        return images.sum() * 0.0
    logits = cosine_logits(images, texts, temperature)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2
