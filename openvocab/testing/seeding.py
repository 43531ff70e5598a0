"""Random numbers that are a function of a seed and a key alone: no process, no order of calls, no global state."""

from __future__ import annotations

import operator
import zlib

import numpy as np

from openvocab.errors import DataError


def _whole(value: int, what: str) -> int:
    try:
        number = operator.index(value)
    except TypeError as error:
        raise DataError(f"{what} must be an integer, got {value!r}") from error
    if number < 0:
        raise DataError(f"{what} must not be negative, got {number}")
    return number


def generator(seed: int, *key: int | str) -> np.random.Generator:
    """Return a numpy generator for `seed` and `key` (numpy's SeedSequence: the key is its spawn key).

    Raises:
        DataError: for a seed or a number of the key that is negative or no integer.
    """
    words = tuple(zlib.crc32(k.encode()) if isinstance(k, str) else _whole(k, "an index") for k in key)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(_whole(seed, "the seed"), spawn_key=words)))
