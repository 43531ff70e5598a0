"""Which detections count: the best of a picture (LVIS), or the best of a category over all pictures (fixed AP)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .table import Table, join

SPARE = 1_000_000


def _ranks(groups: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Rank (N,) of each row within its group, rows taken in `order`, which keeps groups together."""
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, dtype=np.int64)
    sizes = np.diff(np.r_[starts, len(ordered)])
    ranks = np.empty(len(ordered), dtype=np.int64)
    ranks[order] = np.arange(len(ordered)) - np.repeat(starts, sizes)
    return ranks


def best_of_picture(table: Table, limit: int) -> Table:
    """Keep the `limit` best of each picture, whatever their categories; of equal scores, the model's first."""
    order = np.lexsort((table.order, -table.scores, table.pictures))
    return table.pick(_ranks(table.pictures, order) < limit)


def best_of_category(table: Table, limit: int) -> Table:
    """Keep the `limit` best of each category; of equal scores, those of the first picture, and there the model's first.

    That order does not depend on which process saw which picture.
    """
    order = np.lexsort((table.order, table.pictures, -table.scores, table.categories))
    return table.pick(_ranks(table.categories, order) < limit)


class Collector:
    """Takes tables one by one, and keeps all rows, or the best of each category.

    With a limit at most 2 * K * limit + `spare` rows are held (K: categories), whatever the number of pictures, and the result
    is that of the whole: a row among the best of all is among the best of every part.

    Args:
        per_category: rows to keep of each category; None: all.
        spare: rows to wait for before the weaker ones are dropped.
    """

    def __init__(self, per_category: int | None = None, *, spare: int = SPARE) -> None:
        self.per_category, self.spare = per_category, spare
        self._parts: list[Table] = []
        self._held = self._kept = 0

    def add(self, table: Table) -> None:
        """Take some rows."""
        if not len(table) and (self._parts or not table.has_masks):
            return
        self._parts.append(table)
        self._held += len(table)
        if self.per_category is not None and self._held > 2 * self._kept + self.spare:
            self.table()

    def __len__(self) -> int:
        """Rows held now."""
        return self._held

    def table(self) -> Table:
        """Return what is kept."""
        whole = join(self._parts)
        if self.per_category is not None:
            whole = best_of_category(whole, self.per_category)
        self._parts, self._held, self._kept = [whole], len(whole), len(whole)
        return whole


def merge(parts: Iterable[tuple[np.ndarray, Table]], per_category: int | None = None) -> tuple[np.ndarray, Table]:
    """Join what several processes saw; a picture that several saw counts once, as the first of them saw it.

    Args:
        parts: for each process the pictures (P,) it saw and the rows it kept.
        per_category: as for `Collector`.

    Returns:
        all pictures, sorted, and the rows by picture.
    """
    seen: np.ndarray = np.zeros(0, dtype=np.int64)
    whole = Collector(per_category)
    for pictures, table in parts:
        new = np.setdiff1d(pictures, seen)
        whole.add(table.pick(np.isin(table.pictures, new)))
        seen = np.union1d(seen, new)
    return seen, whole.table().sorted()
