"""Greedy and beam search over the next tokens of a language model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openvocab.errors import ConfigError


@dataclass(frozen=True)
class SearchSettings:
    """How captions are searched. The numbers are ours: the paper's are not known.

    Attributes:
        beams: sequences that are followed; 1: the greedy choice.
        max_length: most tokens of a caption, begin and end not counted.
        min_length: least tokens.
        length_penalty: power of the length that a sequence's log probability is divided by; 0 prefers short ones.

    Raises:
        ConfigError: for numbers that do not fit.
    """

    beams: int = 4
    max_length: int = 40
    min_length: int = 1
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.beams < 1 or not 0 <= self.min_length <= self.max_length or self.max_length < 1 or self.length_penalty < 0:
            raise ConfigError(f"{self} cannot be searched: beams >= 1, 0 <= min_length <= max_length, length_penalty >= 0")


@dataclass
class _Open:
    """Sequences that go on: ids (N, T) with the begin token in front, and the sums of their log probabilities (N,)."""

    rows: Tensor
    sums: Tensor


def beam_search(
    step: Callable[[Tensor], Tensor], settings: SearchSettings, *, begin: int, end: int, forbidden: Sequence[int] = ()
) -> tuple[list[int], float]:
    """Return the best sequence of tokens that is found, without begin and end, and its score.

    A sequence is worth the sum of its tokens' log probabilities, with the end token's, divided by its length, with the end token,
    to the power of the penalty. The search stops when no open sequence can get among the `beams` best closed ones, or, with one
    beam, at the first end.

    Args:
        step: ids (N, T) int64 of N sequences -> logits (N, K) of their next token.
        settings: see there.
        begin: id of the begin token.
        end: id of the end token.
        forbidden: ids that are never chosen; the begin token never is.
    """
    never = sorted({begin, *forbidden} - {end})
    going = _Open(torch.tensor([[begin]]), torch.zeros(1))
    closed: list[tuple[float, list[int]]] = []
    for length in range(settings.max_length + 1):
        scores = step(going.rows).float().cpu().log_softmax(dim=1)
        scores[:, never] = -math.inf
        if length < settings.min_length:
            scores[:, end] = -math.inf
        if length == settings.max_length:
            scores = torch.full_like(scores, -math.inf).index_copy(1, torch.tensor([end]), scores[:, [end]])
        going = _advance(going, scores, closed, settings, end)
        if not len(going.rows) or _settled(going, closed, settings):
            break
    score, ids = max(closed, key=lambda pair: pair[0])
    return ids, score


def _advance(going: _Open, scores: Tensor, closed: list, settings: SearchSettings, end: int) -> _Open:
    """Take the best next tokens: those that end a sequence close it, the others go on."""
    total = (going.sums[:, None] + scores).flatten()
    best, places = total.topk(min(2 * settings.beams, len(total)))
    norm = going.rows.shape[1] ** settings.length_penalty
    rows, sums = [], []
    for rank, (value, place) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
        row, token = divmod(place, scores.shape[1])
        if value == -math.inf:
            break
        if token == end:
            if rank < settings.beams:
                closed.append((value / norm, going.rows[row, 1:].tolist()))
        elif len(rows) < settings.beams:
            rows.append(torch.cat([going.rows[row], torch.tensor([token])]))
            sums.append(value)
    return _Open(torch.stack(rows) if rows else going.rows[:0], torch.tensor(sums))


def _settled(going: _Open, closed: list, settings: SearchSettings) -> bool:
    """Say whether no open sequence can get among the best."""
    if len(closed) < settings.beams:
        return False
    if settings.beams == 1:
        return True
    longest = (settings.max_length + 1) ** settings.length_penalty
    worst = sorted((score for score, _ in closed), reverse=True)[settings.beams - 1]
    return float(going.sums.max()) / longest <= worst
