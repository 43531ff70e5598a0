"""How many bad pictures or annotations a data set may hold before work stops."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

from openvocab.errors import DataError

_SHOWN = 20
STRICT_ENV = "OPENVOCAB_STRICT"
"""Set to 1, budgets allow nothing; `tools/train_net.py --strict` sets it for all processes of a run."""
logger = logging.getLogger(__name__)


class BadSampleBudget:
    """The rule: skip what is bad, say so once a file, and stop when there is too much of it.

    Args:
        fraction: of a data set's entries that may be bad; 0.1 % by default.
        at_least: bad entries that are always allowed, so that one broken file does not stop a small set.
        strict: stop at the first; also where the variable OPENVOCAB_STRICT is 1.

    Raises:
        DataError: for a fraction outside 0..1 or a negative count.
    """

    def __init__(self, *, fraction: float = 0.001, at_least: int = 1, strict: bool = False) -> None:
        if not 0 <= fraction <= 1 or at_least < 0:
            raise DataError(f"a budget needs a fraction in 0..1 and at_least >= 0, got {fraction} and {at_least}")
        self.fraction, self.at_least, self.strict = fraction, at_least, strict

    def allowed(self, total: int) -> int:
        """Bad entries allowed among `total`: max(at_least, floor(fraction * total)), or 0 when strict."""
        strict = self.strict or os.environ.get(STRICT_ENV) == "1"
        return 0 if strict else max(self.at_least, int(self.fraction * total))

    def counter(self, what: str, total: int) -> BadCounter:
        """Return a fresh count for `what` (words for the messages) of `total` entries."""
        return BadCounter(what, total, self.allowed(total))


class BadCounter:
    """Counts distinct bad entries of one data set, warns once for each, and raises when there are more than allowed."""

    def __init__(self, what: str, total: int, allowed: int) -> None:
        self.what, self.total, self.allowed = what, total, allowed
        self.reasons: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, key: str, reason: str) -> None:
        """Count the entry `key` (a file, or an annotation's name) once.

        Raises:
            DataError: if the budget is used up; lists what was bad.
        """
        if key in self.reasons:
            return
        self.reasons[key] = reason
        if len(self.reasons) <= self.allowed:
            logger.warning("skipped in %s (%d of %d allowed): %s", self.what, len(self), self.allowed, reason)
            return
        lines = list(self.reasons.values())
        shown = "; ".join(lines[:_SHOWN]) + (f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")
        raise DataError(f"{len(lines)} of {self.total} in {self.what} are bad, {self.allowed} allowed: {shown}")

    def restore(self, reasons: Iterable[tuple[str, str]]) -> None:
        """Take over a saved count without warning again."""
        self.reasons = dict(reasons)
