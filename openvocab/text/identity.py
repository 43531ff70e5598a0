"""Which weights an encoder has, in a few letters, so that embeddings are never mistaken for those of other weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from openvocab.errors import WeightsError

if TYPE_CHECKING:
    from .base import TextEncoder

_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
DIGITS = 12


def weights_checksum(module: nn.Module) -> str:
    """Return 12 hex digits of a module's parameters: their names, shapes and bits.

    Bits are added up as whole numbers, so that the result depends on no device and no order of summation (ours).
    """
    parts = [[name, list(p.shape), _sum_of_bits(p)] for name, p in sorted(module.named_parameters())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:DIGITS]


def _sum_of_bits(value: Tensor) -> int:
    if value.is_meta:
        return 0
    return int(value.detach().contiguous().view(_WORDS[value.element_size()]).sum(dtype=torch.int64))


def follow_loads(encoder: TextEncoder, checksum: str) -> None:
    """Let `encoder.identity` follow the weights that are loaded into it from now on.

    Args:
        encoder: with its identity set.
        checksum: of the weights that this identity means.
    """
    encoder._signed = (encoder.identity, checksum)
    encoder.register_load_state_dict_post_hook(_after_load)


def _after_load(encoder: TextEncoder, incompatible: object) -> None:
    """Hook of `load_state_dict`; a function of the module, so that copies of an encoder keep their own identity."""
    identity, checksum = encoder._signed
    now = weights_checksum(encoder)
    encoder.identity = identity if now == checksum else f"{identity}+{now}"


def encoder_of(model: nn.Module) -> TextEncoder | None:
    """Return the `text_encoder` of a model, or of its `detector`; None for any other."""
    return getattr(getattr(model, "detector", model), "text_encoder", None)


def words_digest(words: Mapping[str, int]) -> str:
    """Return 12 hex digits of a tokenizer's entries and their ids, whatever file they come from."""
    listed = sorted(words.items(), key=lambda item: (item[1], item[0]))
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:DIGITS]


def check_encoder(model: nn.Module, metadata: Mapping[str, str], source: str, tensors: Collection[str] = ()) -> None:
    """Make sure that weights which name the text encoder they were trained with, or its tokenizer, get into a model with that one.

    Args:
        model: with its `text_encoder`, or with a `detector` that has it; any other is not looked at.
        metadata: of the weights; "text_encoder" is its identity, "tokenizer" its tokenizer's.
        source: the weights, for the message.
        tensors: names of the weights. Where they bring the text encoder's own, only the tokenizer must be the same.

    Raises:
        WeightsError: if it is another one.
    """
    encoder, brings = encoder_of(model), any(".text_encoder." in f".{name}" for name in tensors)
    for key, attribute, what in (("tokenizer", "tokenizer_id", "tokenizer"), ("text_encoder", "identity", "text encoder")):
        trained, own = metadata.get(key), getattr(encoder, attribute, None)
        if trained and own and trained != own and not (brings and key == "text_encoder"):
            raise WeightsError(f"{source} was trained with the {what} '{trained}', this model has '{own}': use that one")


def file_digest(path: Path) -> str:
    """Return the first 12 hex digits of a file's sha256, read once as long as the file stays as it is."""
    state = path.stat()
    return _digest(str(path.resolve()), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: str, size: int, modified: int) -> str:
    from openvocab.io import sha256_file

    return sha256_file(path)[:DIGITS]
