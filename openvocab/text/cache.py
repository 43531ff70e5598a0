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
NAMES_AT_A_TIME = 256


class EmbeddingCache:
    """Keeps embeddings by the fingerprint of (names, prompts, templates, encoder, mode).

    Args:
        folder: also keep them in files there; a damaged file is made anew. None keeps them in memory only.
        kept: most vocabularies in memory; the longest unused ones go first.
    """

    def __init__(self, folder: str | Path | None = None, *, kept: int = KEPT) -> None:
        self.folder = None if folder is None else Path(folder).expanduser()
        self.kept = kept
        self._memory: OrderedDict[str, Tensor] = OrderedDict()

    @staticmethod
    def on_disk() -> EmbeddingCache:
        """The cache below the usual folder for such files (`openvocab.io.cache_dir`)."""
        from openvocab.io import cache_dir

        return EmbeddingCache(cache_dir() / "openvocab" / "embeddings")

    def get(self, key: str, shape: tuple[int, int] | None = None) -> Tensor | None:
        """Return a copy of the embeddings (K, D) of a fingerprint, or None.

        `shape` is what they must have; a file with another one counts as damaged.
        """
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key].clone()
        path = None if self.folder is None else self.folder / f"{key}.safetensors"
        if path is None or not path.is_file():
            return None
        from openvocab.io import load_weights

        try:
            value = load_weights(path).tensors["embeddings"]
            if shape is not None and tuple(value.shape) != shape:
                raise WeightsError(f"shape {tuple(value.shape)}, not {shape}")
            if not torch.isfinite(value).all():
                raise WeightsError("NaN or infinity")
        except (WeightsError, KeyError) as error:
            logger.warning("the cached embeddings %s are damaged and are made anew (%s)", path, error)
            return None
        return self._remember(key, value).clone()

    def put(self, key: str, value: Tensor) -> None:
        """Keep a copy of embeddings; a folder that cannot be written is warned of."""
        value = self._remember(key, value.detach().cpu().clone())
        if self.folder is None:
            return
        from openvocab.io import save_weights

        try:
            save_weights(self.folder / f"{key}.safetensors", {"embeddings": value})
        except OSError as error:
            logger.warning("embeddings are not kept in %s: %s", self.folder, error)

    def _remember(self, key: str, value: Tensor) -> Tensor:
        self._memory[key] = value
        while len(self._memory) > self.kept:
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

    An encoder that is being trained (`frozen=False`) is never cached.

    Args:
        encoder: of sentences.
        vocabulary: K names with T templates.
        mode: "normalized_mean": embeddings of length 1 are averaged and normalised again (CLIP); "mean_unnormalized":
            the raw sentence vectors are averaged and left as they are (RegionCLIP's official files).
        cache: where results are kept (by default in memory); None computes anew.

    Returns:
        (K, D) float32, on the encoder's device.

    Raises:
        TextEncoderError: for an unknown mode.
        PromptError: for a name that is too long for the encoder.
    """
    if mode not in MODES:
        raise TextEncoderError(f"mode='{mode}' is not one of {', '.join(MODES)}")
    if cache is None or not encoder.frozen:
        return _embed(encoder, vocabulary, mode)
    key = vocabulary.fingerprint(f"{encoder.identity}:{mode}")
    found = cache.get(key, (len(vocabulary), encoder.dim))
    if found is not None:
        return found.to(encoder.device)
    result = _embed(encoder, vocabulary, mode)
    cache.put(key, result)
    return result


def _embed(encoder: TextEncoder, vocabulary: Vocabulary, mode: str) -> Tensor:
    """A part of the names at a time: a concept pool of thousands has hundreds of thousands of sentences."""
    frames, parts = vocabulary.templates, []
    for start in range(0, len(vocabulary), NAMES_AT_A_TIME):
        texts = [t.replace("{}", p) for p in vocabulary.prompts[start : start + NAMES_AT_A_TIME] for t in frames]
        rows = encoder.encode(texts, normalize=mode == "normalized_mean")
        parts.append(rows.view(-1, len(frames), rows.shape[1]).mean(dim=1))
    result = torch.cat(parts)
    return F.normalize(result, dim=-1) if mode == "normalized_mean" else result
