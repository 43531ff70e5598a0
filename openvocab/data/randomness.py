"""Random numbers that depend on a seed and a sample's number alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def draw(*key: int | str) -> int:
    """Return a number below 2**63 that is a pure function of `key`, on every machine and version."""
    digest = hashlib.blake2b("/".join(str(k) for k in key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: int | str) -> np.random.Generator:
    """Return a numpy generator seeded by `key`."""
    return np.random.Generator(np.random.PCG64(draw(*key)))


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Seed Python's, numpy's and torch's global CPU generators by `key` inside, and put their old states back
    afterwards.

    detectron2's augmentations draw from numpy's global generator; this makes a sample's augmentation independent of the
    process it is made in and of all that was drawn before.
    """
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    number = draw(*key)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.random.default_generator.manual_seed(number)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])
