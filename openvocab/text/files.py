"""Text embeddings in files: ours, which know their names, and the bare arrays of others."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openvocab.errors import VocabularyError, WeightsError
from openvocab.vocabulary import Vocabulary

logger = logging.getLogger(__name__)
SUFFIXES = (".safetensors", ".npz", ".pth")
KEY, RECIPE = "embeddings", "recipe"
INSIDE = ".class_embeddings"  # a detector's own, in its weights


@dataclass(frozen=True)
class TextEmbeddings:
    """Vectors of K names.

    Attributes:
        vectors: (K, D) float32, of any length.
        vocabulary: their names, in order; None if neither the file nor the caller knows them.
        encoder: the identity of the text encoder and how its vectors were averaged; "" if unknown.
        recipe: of `RECIPES`, or "".
        fingerprint: of all this; "" if unknown.
    """

    vectors: Tensor
    vocabulary: Vocabulary | None = None
    encoder: str = ""
    recipe: str = ""
    fingerprint: str = ""

    def select(self, vocabulary: Vocabulary) -> Tensor:
        """Return the vectors of some of the names, (K', D), in that order; prompts and aliases count as names.

        Raises:
            VocabularyError: if a name is not among them, or the names are not known.
        """
        if self.vocabulary is None:
            raise VocabularyError("the file of text embeddings does not know its names: load it with vocabulary=...")
        try:
            return self.vectors[[self.vocabulary.index(name) for name in vocabulary.names]]
        except VocabularyError as error:
            raise VocabularyError(
                f"there are text embeddings of {len(self.vocabulary)} names only, and no text encoder for others: {error}"
            ) from error


def save_text_embeddings(
    path: str | Path, vectors: Tensor, *, vocabulary: Vocabulary, encoder: str = "", recipe: str = "", plain: bool = False
) -> TextEmbeddings:
    """Write embeddings with their names; whole or not at all.

    Args:
        path: .safetensors, .npz or .pth.
        vectors: (K, D).
        vocabulary: K names, as they were embedded.
        encoder: identity and mode, see `TextEmbeddings`.
        recipe: what it is called.
        plain: a .pth that holds the bare (K, D) tensor, as microsoft/RegionCLIP reads it; names are lost.

    Returns:
        what a reader gets back.

    Raises:
        VocabularyError: if the vectors are not (K, D), or not finite.
        WeightsError: for another suffix, or `plain` without .pth.
        OSError: if the file cannot be written; an older one stays.
    """
    from openvocab.io import atomic_write, fingerprint_metadata, save_weights

    path, vectors = Path(path), vectors.detach().cpu().float().contiguous()
    if path.suffix not in SUFFIXES or (plain and path.suffix != ".pth"):
        raise WeightsError(f"text embeddings are saved as {'.pth' if plain else ', '.join(SUFFIXES)}, not as '{path.name}'")
    _check(vectors, vocabulary, None, str(path))
    metadata = {**fingerprint_metadata(vocabulary, encoder), RECIPE: recipe}
    if path.suffix == ".safetensors":
        save_weights(path, {KEY: vectors}, metadata)
    else:
        with atomic_write(path) as file:
            if path.suffix == ".npz":
                np.savez(file, **{KEY: vectors.numpy()}, **{k: np.array(v) for k, v in metadata.items()})
            else:
                torch.save(vectors.clone() if plain else {KEY: vectors.clone(), **metadata}, file)
    return _described(vectors, metadata, vocabulary)


def load_text_embeddings(path: str | Path, *, vocabulary: Vocabulary | None = None, dim: int | None = None) -> TextEmbeddings:
    """Read embeddings: ours, RegionCLIP's "*_emb.pth" and "concept_embeds.pth", .npy of other projects.

    A single vector (D,), which the official tool writes for one name, becomes (1, D). The weights of a detector that keeps its
    class embeddings in them (RegionCLIP's) are such a file too.

    Args:
        path: .safetensors, .npz, .npy or .pth.
        vocabulary: the names they must be of, in this order; needed where a file has none and names are wanted.
        dim: the D that they must have.

    Raises:
        WeightsError: if the file is missing, damaged, or holds no embeddings.
        VocabularyError: if they are of other names, another count of names, or another width.
    """
    from openvocab.io import load_arrays

    content = load_arrays(path)
    vectors = next((v for k, v in content.tensors.items() if k == KEY or k.endswith(INSIDE)), None)
    if vectors is None:
        if len(content.tensors) != 1:
            raise WeightsError(f"{path} holds {len(content.tensors)} tensors and none called '{KEY}'; which one is meant?")
        vectors = next(iter(content.tensors.values()))
    if vectors.ndim == 1:
        logger.warning("%s holds one vector of %d numbers; it is taken as that of one name", path, len(vectors))
        vectors = vectors[None]
    own = _names(content.metadata, path)
    if own is not None and vocabulary is not None and own.names != vocabulary.names:
        pairs = zip(own.names, vocabulary.names, strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(own), len(vocabulary)))
        raise VocabularyError(f"{path} is of other names: {len(own)}, not {len(vocabulary)}; they differ from place {place} on")
    vocabulary = own if own is not None else vocabulary
    _check(vectors, vocabulary, dim, str(path))
    return _described(vectors.float(), content.metadata, vocabulary)


def _described(vectors: Tensor, metadata: dict[str, str], vocabulary: Vocabulary | None) -> TextEmbeddings:
    from openvocab.io.fingerprint import ENCODER_KEY, FINGERPRINT_KEY

    known = {"encoder": ENCODER_KEY, "recipe": RECIPE, "fingerprint": FINGERPRINT_KEY}
    return TextEmbeddings(vectors, vocabulary, **{k: metadata.get(v, "") for k, v in known.items()})


def _names(metadata: dict[str, str], path: str | Path) -> Vocabulary | None:
    from openvocab.io.fingerprint import VOCABULARY_KEY

    if not metadata.get(VOCABULARY_KEY):
        return None
    try:
        value = json.loads(metadata[VOCABULARY_KEY])
        return Vocabulary.from_dict(value) if isinstance(value, dict) else Vocabulary.from_names(value)
    except ValueError as error:
        raise WeightsError(f"{path} names its classes in a way that cannot be read: {error}") from error


def _check(vectors: Tensor, vocabulary: Vocabulary | None, dim: int | None, path: str) -> None:
    shape = tuple(vectors.shape)
    if vectors.ndim != 2 or not vectors.is_floating_point():
        raise VocabularyError(f"{path}: text embeddings are (names, width) floating point, not {shape} {vectors.dtype}")
    if vocabulary is not None and len(vocabulary) != shape[0]:
        raise VocabularyError(f"{path}: there are {shape[0]} embeddings and {len(vocabulary)} names")
    if dim is not None and shape[1] != dim:
        raise VocabularyError(
            f"{path}: embeddings are {shape[1]} wide and the model's regions {dim}: they are of another text encoder (CLIP RN50: "
            "1024, RN101 and ViT-B/32: 512, RN50x4: 640)"
        )
    bad = torch.nonzero(~torch.isfinite(vectors.float()).all(dim=1)).flatten().tolist()
    if bad:
        raise VocabularyError(f"{path}: rows {bad[:5]} hold NaN or infinity")
