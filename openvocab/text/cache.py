"""Embeddings of vocabularies, computed once."""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from openvocab.errors import TextEncoderError, WeightsError
from openvocab.vocabulary import Vocabulary

from .base import TextEncoder

logger = logging.getLogger(__name__)
MODES = ("normalized_mean", "mean_unnormalized")
KEPT = 64


class EmbeddingCache:
    """Keeps embeddings by the fingerprint of (names, prompts, templates, encoder, mode).

    Args:
        folder: also keep them in files there; a damaged file is made anew.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._memory: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, key: str) -> Tensor | None:
        """Return the embeddings (K, D) of a fingerprint, or None."""
        if key in self._memory:
            return self._memory[key]
        path = None if self.folder is None else self.folder / f"{key}.safetensors"
        if path is None or not path.is_file():
            return None
        from openvocab.io import load_weights

        try:
            return self._remember(key, load_weights(path).tensors["embeddings"])
        except (WeightsError, KeyError) as error:
            logger.warning("the cached embeddings %s are damaged and are made anew (%s)", path, error)
            return None

    def put(self, key: str, value: Tensor) -> None:
        """Keep embeddings."""
        self._remember(key, value)
        if self.folder is not None:
            from openvocab.io import save_weights

            save_weights(self.folder / f"{key}.safetensors", {"embeddings": value})

    def _remember(self, key: str, value: Tensor) -> Tensor:
        self._memory[key] = value
        while len(self._memory) > KEPT:
            self._memory.popitem(last=False)
        return value


_DEFAULT = EmbeddingCache()


def encode_vocabulary(
    encoder: TextEncoder,
    vocabulary: Vocabulary,
    *,
    mode: str = "normalized_mean",
    cache: EmbeddingCache | None = _DEFAULT,
) -> Tensor:
    """Embed every name, averaged over the vocabulary's templates.

    Args:
        encoder: of sentences.
        vocabulary: K names with T templates.
        mode: "normalized_mean": embeddings of length 1 are averaged and normalised again (CLIP); "mean_unnormalized": the raw
            sentence vectors are averaged and left as they are (RegionCLIP's official files).
        cache: where results are kept; None computes anew.

    Returns:
        (K, D) float32.

    Raises:
        TextEncoderError: for an unknown mode.
    """
    if mode not in MODES:
        raise TextEncoderError(f"mode='{mode}' is not one of {', '.join(MODES)}")
    key = vocabulary.fingerprint(f"{encoder.identity}:{mode}")
    found = None if cache is None or encoder.identity.endswith("random") else cache.get(key)
    if found is not None:
        return found
    texts = [t.replace("{}", p) for p in vocabulary.prompts for t in vocabulary.templates]
    rows = encoder.encode(texts, normalize=mode == "normalized_mean").view(len(vocabulary), len(vocabulary.templates), -1)
    result = rows.mean(dim=1)
    if mode == "normalized_mean":
        result = F.normalize(result, dim=-1)
    result = result.to(torch.float32)
    if cache is not None:
        cache.put(key, result)
    return result
