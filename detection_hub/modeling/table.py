"""A text encoder that looks names up: vectors of a file, where the encoder that made them is not at hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvocab.errors import TextEncoderError, VocabularyError, nearest
from openvocab.text import TEXT_ENCODER_REGISTRY, LanguageFeatures, TextEmbeddings, TextEncoder, TokenBatch, load_text_embeddings
from openvocab.text.base import Pieces
from openvocab.vocabulary import Vocabulary


@TEXT_ENCODER_REGISTRY.register()
class TableTextEncoder(TextEncoder):
    """Knows the names of some files and no others; capitals do not count. Use it with `CategoryEmbeddings(templates=None)`.

    A name that two files have keeps the first one's vector; all must come from one text encoder, which cannot be checked.

    Args:
        tables: embeddings with names, or (file, vocabulary) pairs: the vocabulary is a `Vocabulary`, or a built-in list's name.
        max_tokens: of a text; a name is one token.

    Raises:
        TextEncoderError: for no table, one without names, or tables of different widths.
        WeightsError, VocabularyError: as `openvocab.text.load_text_embeddings`.
    """

    def __init__(
        self, *, tables: Sequence[TextEmbeddings | tuple[str, Vocabulary | str]], frozen: bool = True, max_tokens: int = 4096
    ) -> None:
        super().__init__()
        loaded = [t if isinstance(t, TextEmbeddings) else _load(*t) for t in tables]
        if not loaded or any(t.vocabulary is None for t in loaded) or len({t.vectors.shape[1] for t in loaded}) > 1:
            raise TextEncoderError("a table of text needs files that know their names, all of one width")
        if not frozen:
            raise TextEncoderError("a table of text is not trained: frozen=True")
        self.places: dict[str, int] = {}
        rows: list[Tensor] = []
        for table in loaded:
            for i, row in enumerate(table.vectors):
                for word in (table.vocabulary.names[i], table.vocabulary.prompts[i]):
                    self.places.setdefault(word.casefold(), len(rows))
                rows.append(F.normalize(row.float(), dim=0))
        self.vectors = nn.Parameter(torch.stack(rows), requires_grad=False)
        self.dim, self.max_tokens, self.frozen = int(self.vectors.shape[1]), max_tokens, frozen
        self.sign("table:{}")

    def split(self, texts: list[str]) -> list[Pieces]:
        """Each text is one token.

        Raises:
            VocabularyError: for a name that no table has.
        """
        for text in texts:
            if text.casefold() not in self.places:
                hint = nearest(text.casefold(), self.places)
                raise VocabularyError(f"no table has a vector of '{text}'.{hint} Use a text encoder for names of your own.")
        return [Pieces([self.places[t.casefold()]], [(0, len(t))], special=0) for t in texts]

    def forward(self, tokens: TokenBatch) -> LanguageFeatures:
        return LanguageFeatures(hidden=self.vectors[tokens.input_ids], mask=tokens.attention_mask)


def _load(path: str, vocabulary: Vocabulary | str) -> TextEmbeddings:
    words = Vocabulary.builtin(vocabulary) if isinstance(vocabulary, str) else vocabulary
    return load_text_embeddings(path, vocabulary=words)
