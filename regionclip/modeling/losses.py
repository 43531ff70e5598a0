"""Losses of RegionCLIP's box predictor (arXiv 2112.09106, section 3.4; microsoft/RegionCLIP)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def classification_loss(
    logits: Tensor, labels: Tensor, *, focal_gamma: float | None = None, background_weight: float | None = None
) -> Tensor:
    """Softmax cross entropy of regions, in one of three published forms; CE_i = -log p_i(label_i).

    - `focal_gamma` given (COCO: 0.5 and 0.2): (1 / N) sum_i w_i (1 - p_i)^gamma CE_i;
    - else `background_weight` given (LVIS: 0.8): sum_i w_i CE_i / sum_i w_i;
    - else the mean of CE_i.

    w_i is `background_weight` for background and 1 for a name. The first divides by the count, the second by the weights.

    Args:
        logits: (N, K + 1), background last.
        labels: (N,) in 0..K, K for background.
        focal_gamma, background_weight: see above.

    Returns:
        a scalar; 0, still part of the graph, without regions.
    """
    if not len(logits):
        return logits.sum() * 0.0
    background = logits.shape[1] - 1
    entropy = F.cross_entropy(logits, labels, reduction="none")
    weights = torch.ones_like(entropy)
    if background_weight is not None:
        weights = torch.where(labels == background, background_weight, weights)
    if focal_gamma is None:
        return (weights * entropy).sum() / weights.sum()
    # at p = 1 the power's slope is infinite beside an entropy of 0: kept off it, the gradient is 0 and not NaN
    away = (-torch.expm1(-entropy)).clamp(min=torch.finfo(entropy.dtype).tiny)
    return (weights * away**focal_gamma * entropy).mean()


def box_loss(deltas: Tensor, targets: Tensor, labels: Tensor, *, background: int, beta: float = 0.0) -> Tensor:
    """Smooth L1 of the foreground's box deltas, summed and divided by the count of all sampled regions.

    Args:
        deltas: (N, 4) predicted.
        targets: (N, 4) of each region's ground truth; rows of background are not read.
        labels: (N,).
        background: the label of background.
        beta: 0 for L1.
    """
    rows = torch.nonzero((labels >= 0) & (labels < background)).flatten()
    error = (deltas[rows] - targets[rows]).abs()
    if beta > 0:
        error = torch.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)
    return error.sum() / max(len(labels), 1)
