"""Names as vectors: any text encoder's, with the direction that all names share taken out (arXiv 2206.03484; that is ours)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvocab.errors import ConfigError
from openvocab.text import TextEncoder, encode_vocabulary
from openvocab.vocabulary import Vocabulary

TEMPLATES = ("{}", "a {}", "a photo of a {}")
KEPT = 16  # vocabularies whose vectors stay on the device, beside those of the data sets


class CategoryEmbeddings(nn.Module):
    """Vectors of names: encoded, averaged over templates, less the mean vector mu, of length 1.

    Text encoders put all names into one narrow cone (CLIP: cosine 0.80 between two names of COCO); without it they differ. mu is
    computed once, from the reference and the data sets that are there then, and kept in the state dict: names of a data set
    that comes later are centred by the same mu.

    Args:
        text_encoder: frozen.
        reference: names that always count for mu, as a built-in list's name or a list; so that a hub of two names has a mean too.
        templates: used for vocabularies that bring none of their own; None: the bare name.
        centered: False leaves vectors as they are.

    Raises:
        ConfigError: for a text encoder that is trained.
    """

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        reference: str | Sequence[str] | None = "coco",
        templates: Sequence[str] | None = TEMPLATES,
        centered: bool = True,
    ) -> None:
        super().__init__()
        if not text_encoder.frozen:
            raise ConfigError("the hub keeps its names' vectors: build the text encoder with frozen=True")
        self.text_encoder, self.centered = text_encoder, centered
        self.templates = None if templates is None else tuple(templates)
        self.reference = Vocabulary.builtin(reference) if isinstance(reference, str) else reference and Vocabulary.coerce(reference)
        self.register_buffer("mu", torch.zeros(text_encoder.dim))
        self.kept, self._fitted = KEPT, False
        self._kept: OrderedDict[tuple, Tensor] = OrderedDict()

    @property
    def dim(self) -> int:
        """t, the width of a vector."""
        return self.text_encoder.dim

    @torch.no_grad()
    def fit(self, vocabularies: Iterable[Vocabulary]) -> None:
        """Compute mu from the reference and these names, each prompt once, unless it is there already (or was loaded)."""
        if self._fitted or not self.centered:
            return
        self._fitted = True
        if bool(self.mu.any()):
            return
        vocabularies = [*vocabularies, *([self.reference] if self.reference else [])]
        prompts = sorted({p for v in vocabularies for p in v.prompts})
        if len(prompts) > 1:
            self.mu.copy_(self._encode(Vocabulary.from_names(prompts)).mean(dim=0))

    def _load_from_state_dict(self, *args: object) -> None:
        super()._load_from_state_dict(*args)
        self._fitted = False

    def _encode(self, vocabulary: Vocabulary) -> Tensor:
        if self.templates and vocabulary.templates == ("{}",):
            vocabulary = replace(vocabulary, templates=self.templates)
        with torch.autocast(self.mu.device.type, enabled=False):  # mu is kept for good, names for long
            return encode_vocabulary(self.text_encoder, vocabulary).to(self.mu.device)

    @torch.no_grad()
    def forward(self, vocabulary: Vocabulary) -> Tensor:
        """Return the vectors (C, t) of a vocabulary's names, of length 1."""
        key = (vocabulary, self.text_encoder.identity, self.mu.data_ptr(), self.mu._version)
        if key not in self._kept:
            self._kept[key] = F.normalize(self._encode(vocabulary) - self.mu, dim=-1)
            while len(self._kept) > self.kept:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
