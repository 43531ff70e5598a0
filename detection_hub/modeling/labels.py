"""Which columns of a picture's logits are true, false, or unknown: label policies (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from detection_hub.context import DatasetContext
from openvocab.errors import DataError
from openvocab.vocabulary import Vocabulary

FEDERATED_NAMES = 50  # names that count in a federated picture, and the power of their weights: Detic's constants
FEDERATED_POWER = 0.5


@dataclass(frozen=True)
class LabelSpace:
    """What the labels of one picture mean.

    Attributes:
        name: of its data set, "" for none.
        vocabulary: the names its labels count.
        scored: the names that are compared with the picture, C columns; `vocabulary` itself but in the arm "naive".
        columns: the column of each name of `vocabulary`; None: the same order.
        context: of its data set; None for an unknown one.
        flags: the box conventions of the picture.
    """

    name: str
    vocabulary: Vocabulary
    scored: Vocabulary
    columns: tuple[int, ...] | None = None
    context: DatasetContext | None = None
    flags: tuple[tuple[str, float], ...] = ()

    @property
    def policy(self) -> str:
        """The label policy. With a union of all names as columns every foreign name is a negative: that arm is naive."""
        return "exhaustive" if self.columns is not None or self.context is None else self.context.label_policy

    @property
    def weight(self) -> float:
        return 1.0 if self.context is None else self.context.loss_weight

    def columns_of(self, labels: Tensor) -> Tensor:
        """Turn labels (G,) into columns (G,)."""
        return labels if self.columns is None else torch.tensor(self.columns, device=labels.device)[labels]


@lru_cache(maxsize=16)
def _ancestors(vocabulary: Vocabulary, hierarchy: tuple[tuple[str, tuple[str, ...]], ...]) -> Tensor | None:
    """(C, C) bool: entry (i, j) says that j is i, or above it. None without a hierarchy."""
    if not hierarchy:
        return None
    above = {child: set(parents) for child, parents in hierarchy}
    places = {name: i for i, name in enumerate(vocabulary.names)}
    table = torch.eye(len(vocabulary), dtype=torch.bool)
    for name, row in places.items():
        queue, seen = [name], {name}
        while queue:
            for parent in above.get(queue.pop(), ()):
                if parent not in seen:
                    seen.add(parent)
                    queue.append(parent)
        table[row, [places[n] for n in seen if n in places]] = True
    return table


def _hierarchy(space: LabelSpace) -> Tensor | None:
    if space.policy != "verified":
        return None
    return _ancestors(space.vocabulary, space.context.hierarchy)


def positive_rows(space: LabelSpace, labels: Tensor) -> Tensor | None:
    """Return (G, C) bool, the names true of each box: its own and those above it. None: its own alone."""
    table = _hierarchy(space)
    return None if table is None else table.to(labels.device)[labels]


def taking_part(space: LabelSpace, labels: Tensor, x: dict) -> Tensor | None:
    """Return (C,) bool: the columns in which a wrong score of this picture is an error. None: all.

    Sampled negatives are drawn from torch's own random state.

    Raises:
        DataError: for places outside the names, or a "label_mask" of another length.
    """
    count = len(space.vocabulary)
    given = x.get("label_mask")
    if given is not None and space.columns is None:
        mask = torch.as_tensor(given, dtype=torch.bool, device=labels.device).clone()
        if tuple(mask.shape) != (count,):
            raise DataError(f"'{space.name}': label_mask has the shape {tuple(mask.shape)}, its data set has {count} names")
        mask[labels] = True
        return mask
    if space.policy == "exhaustive":
        return None
    mask = torch.zeros(count, dtype=torch.bool)
    positives = torch.cat([labels.cpu(), _places(x.get("positive_classes"), count, space.name)])
    mask[positives] = True
    mask[_places(x.get("negative_classes"), count, space.name)] = True
    table = _hierarchy(space)
    if table is not None:  # what is above a positive is true as well; what is below stays unknown unless it was checked
        mask |= table[positives].any(dim=0)
    if space.policy == "federated":
        _sample_negatives(mask, space)
    return mask.to(labels.device)


def _sample_negatives(mask: Tensor, space: LabelSpace) -> None:
    """Let further names take part until there are `FEDERATED_NAMES`."""
    lacking = min(FEDERATED_NAMES, len(mask)) - int(mask.sum())
    if lacking <= 0:
        return
    known = dict(zip(space.context.vocabulary.names, space.context.weights, strict=True)) if space.context.weights else {}
    weights = torch.tensor([known.get(n, 1.0) for n in space.vocabulary.names]) ** FEDERATED_POWER
    weights[mask] = 0
    lacking = min(lacking, int((weights > 0).sum()))
    if lacking:
        mask[torch.multinomial(weights, lacking, replacement=False)] = True


def _places(values: Sequence[int] | Tensor | None, count: int, owner: str) -> Tensor:
    places = torch.as_tensor([] if values is None else values, dtype=torch.int64).flatten().cpu()
    if len(places) and not 0 <= int(places.min()) <= int(places.max()) < count:
        raise DataError(f"'{owner}': checked classes {places.tolist()[:5]} go beyond its {count} names")
    return places
