"""Vectors of names, looked up in a file or made by a text encoder, and kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from openvocab.errors import ConfigError, VocabularyError
from openvocab.text import CLIPTextEncoder, TextEmbeddings, TextEncoder, embed_names, load_text_embeddings, require_quick_gelu
from openvocab.vocabulary import Vocabulary

KEPT = 32
RANDOM = ":random"  # in the identity of text encoders without weights


def check_activation(text_encoder: TextEncoder, recipe: str) -> None:
    """Refuse CLIP's text tower with plain GELU, unless names are embedded in a way of the user's own (`recipe="own"`).

    Raises:
        TextEncoderError: see `openvocab.text.require_quick_gelu`.
    """
    if recipe != "own" and isinstance(text_encoder, CLIPTextEncoder):
        require_quick_gelu(text_encoder)


class EmbeddingFile:
    """Text embeddings in a file that is read when they are first needed, so that a config can be built without it.

    Args:
        path: what `load_text_embeddings` reads, such as the official "coco_65_cls_emb.pth", or a converted detector.
        vocabulary: the names, in order, of a file that does not know them (the official "*_cls_emb.pth" are in the order of the
            category ids): names, or a built-in list such as "coco_ovd_65".
    """

    def __init__(self, path: str | Path, vocabulary: Vocabulary | Sequence[str] | str | None = None) -> None:
        self.path, self._read = Path(path), None
        names = Vocabulary.builtin(vocabulary) if isinstance(vocabulary, str) else vocabulary
        self._names = None if names is None else Vocabulary.coerce(names)

    def read(self) -> TextEmbeddings:
        """Read the file, the first time.

        Raises:
            WeightsError: if it is missing or damaged.
            VocabularyError: if it is of other names.
        """
        if self._read is None:
            self._read = load_text_embeddings(self.path, vocabulary=self._names)
        return self._read

    def select(self, vocabulary: Vocabulary) -> Tensor:
        """Return the vectors of some of the names, as `TextEmbeddings.select`."""
        return self.read().select(vocabulary)


class NameVectors:
    """Where the vectors of any vocabulary come from: a table first, then a text encoder.

    Args:
        text_encoder: D wide, the one that belongs to the image tower.
        recipe: of `openvocab.text.RECIPES`.
        table: text embeddings that know their names, or a file of them: read now, or, as an `EmbeddingFile`, when needed.
    """

    def __init__(
        self,
        *,
        text_encoder: TextEncoder | None = None,
        recipe: str = "regionclip",
        table: TextEmbeddings | EmbeddingFile | str | Path | None = None,
    ) -> None:
        self.text_encoder, self.recipe = text_encoder, recipe
        self.table = load_text_embeddings(table) if isinstance(table, (str, Path)) else table
        self._kept: OrderedDict[Vocabulary, Tensor] = OrderedDict()

    def forget(self) -> None:
        """Drop what is kept: the encoder has other weights, or another device, now."""
        self._kept.clear()

    @torch.no_grad()
    def __call__(self, vocabulary: Vocabulary) -> Tensor:
        """Return the vectors (K, D) of a vocabulary's names.

        Raises:
            VocabularyError: if there is no way to them.
            ConfigError: if the encoder has no weights.
            TextEncoderError: if it is CLIP's text tower with plain GELU.
        """
        if vocabulary not in self._kept:
            self._kept[vocabulary] = self._find(vocabulary)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(vocabulary)
        return self._kept[vocabulary]

    def _find(self, vocabulary: Vocabulary) -> Tensor:
        if self.table is not None:
            try:
                return self.table.select(vocabulary)
            except VocabularyError:
                if self.text_encoder is None:
                    raise
        if self.text_encoder is None:
            raise VocabularyError(
                f"there is no way to the vectors of {len(vocabulary)} names ({', '.join(vocabulary.names[:3])}, ...): build the "
                "model with a text_encoder or text_embeddings, or call set_class_embeddings(tensor)"
            )
        if RANDOM in getattr(self.text_encoder, "identity", ""):
            raise ConfigError(
                f"the text encoder '{self.text_encoder.identity}' has random weights, so that its vectors mean nothing: set "
                "model.text_encoder.pretrained to a file of CLIP's text tower, or give text_embeddings"
            )
        check_activation(self.text_encoder, self.recipe)
        return embed_names(self.text_encoder, vocabulary, self.recipe)[0]
