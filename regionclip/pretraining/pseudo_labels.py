"""What the teacher says of regions, and which of it is believed (paper, section 3.2)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

from openvocab.errors import ConfigError

logger = logging.getLogger(__name__)
_SAY_EVERY = 100


@dataclass
class PseudoLabels:
    """The teacher's word on N regions, of which M are kept.

    Attributes:
        keep: (N,) bool.
        probs: (M, C) probabilities of the concepts for the kept regions.
        labels: (M,) int64, the best concept of each.
        confident: how many of the N passed the threshold.
    """

    keep: Tensor
    probs: Tensor
    labels: Tensor
    confident: int


class PseudoLabeller:
    """Turn a teacher's logits into pseudo labels.

    Args:
        threshold: regions whose best probability is not above it are left out; 0.1 in the paper. If none passes, all are kept
            (as the official code), which is logged.

    Raises:
        ConfigError: for a negative threshold.
    """

    def __init__(self, threshold: float = 0.1) -> None:
        if threshold < 0:
            raise ConfigError(f"threshold={threshold} must be 0 or more")
        self.threshold, self.nothing_passed = float(threshold), 0

    @torch.no_grad()
    def __call__(self, logits: Tensor, *, everywhere: bool = False) -> PseudoLabels:
        """Label N regions.

        Args:
            logits: (N, C) of the teacher, already divided by its temperature.
            everywhere: "none passes" means none of any rank's (a collective call), as if the ranks' regions were one batch.
        """
        probs = logits.float().softmax(dim=1)
        best, labels = probs.max(dim=1)
        keep = best > self.threshold
        confident = int(keep.sum())
        some = _any_rank(confident, keep.device) if everywhere else confident > 0  # collective: ranks without regions too
        if len(logits) and not some:
            self._say(len(logits), float(best.max()))
            keep = torch.ones_like(keep)
        return PseudoLabels(keep, probs[keep], labels[keep], confident)

    def _say(self, regions: int, best: float) -> None:
        self.nothing_passed += 1
        if self.nothing_passed == 1 or self.nothing_passed % _SAY_EVERY == 0:
            logger.warning(
                "no region's best concept is above %g (best of %d: %.3f), so all are kept; %d time(s) so far",
                self.threshold, regions, best, self.nothing_passed,
            )  # fmt: skip


def _any_rank(count: int, device: torch.device) -> bool:
    if comm.get_world_size() == 1:
        return count > 0
    total = torch.tensor([count], device=device)
    dist.all_reduce(total)
    return bool(total)
