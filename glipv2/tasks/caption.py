"""Captions: the fused tower, read from left to right, and the head for hidden words say the next word (arXiv 2206.05836)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glipv2.modeling.detector import GLIPv2
from openvocab.errors import ConfigError
from openvocab.text import TokenBatch

from .causal import PictureReading, as_tokens, check_fused, read_pictures, read_words
from .heads import TASK_HEAD_REGISTRY, TaskHead, shared_mean, text_of
from .search import SearchSettings, beam_search

IGNORED = -100


@TASK_HEAD_REGISTRY.register()
class CaptionHead(TaskHead):
    """Write a sentence about a picture, word by word.

    The paper's: the weights that detect, a uni-directional mask over the text, next-token prediction through the head
    for hidden words. Ours: what the picture sees of the text (see `causal`), smoothed labels, and the search.

    Letters: B samples, T tokens, L language width, K words of the text encoder.

    Args:
        words: a `glipv2.modeling.MaskedLanguageHead`; None: that of the detector's own `mlm`.
        search: a `SearchSettings`.
        label_smoothing: of the cross-entropy.
        loss_weight: factor of `loss_caption`.
    """

    task, loss_name = "caption", "loss_caption"

    def __init__(
        self,
        *,
        words: nn.Module | None = None,
        search: SearchSettings | None = None,
        label_smoothing: float = 0.1,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.words, self.search = words, search or SearchSettings()
        self.label_smoothing, self.loss_weight = float(label_smoothing), float(loss_weight)

    def check(self, detector: GLIPv2) -> None:
        """Refuse a detector on which no caption can be written.

        Raises:
            ConfigError: if its tower fuses nothing, its text encoder takes fewer tokens than a caption may have, or there is no
                head for words.
            TextEncoderError: if the head's words are not the text encoder's.
        """
        check_fused(detector)
        if self.words is None and detector.mlm is None:
            raise ConfigError("CaptionHead(words=None) shares the detector's head for hidden words, but the detector has no mlm")
        self._head(detector).check(detector.text_encoder)
        most = detector.text_encoder.max_tokens - 2
        if self.search.max_length > most:
            raise ConfigError(f"max_length={self.search.max_length} is over the {most} tokens that the text encoder takes")

    def _head(self, detector: GLIPv2) -> nn.Module:
        return detector.mlm.head if self.words is None else self.words

    def logits(self, detector: GLIPv2, pictures: PictureReading, tokens: TokenBatch) -> Tensor:
        """Return the logits (B, T, K) of the token behind each token of B texts, one a picture of the reading."""
        return self._head(detector)(read_words(detector, pictures, tokens), detector.text_encoder)

    def loss(self, detector: GLIPv2, samples: Sequence[dict]) -> Tensor:
        """Mean cross-entropy of all tokens behind the first; samples need "sentence"."""
        tokens = detector.text_encoder.tokenize([text_of(x, "sentence") for x in samples]).to(detector.device)
        given = TokenBatch(tokens.input_ids[:, :-1], tokens.attention_mask[:, :-1], tokens.offsets[:, :-1])
        truth = tokens.input_ids[:, 1:].masked_fill(~tokens.attention_mask[:, 1:], IGNORED)
        pictures = read_pictures(detector, [x["image"] for x in samples])
        logits = self.logits(detector, pictures, given).flatten(0, 1)
        options = {"ignore_index": IGNORED, "label_smoothing": self.label_smoothing, "reduction": "sum"}
        total = F.cross_entropy(logits, truth.flatten(), **options)
        return self.loss_weight * shared_mean(total, (truth != IGNORED).sum())

    def predict(self, detector: GLIPv2, samples: Sequence[dict]) -> list[dict]:
        """Return {"caption", "score": mean probability of its tokens, 0..1} for each sample."""
        pictures = read_pictures(detector, [x["image"] for x in samples])
        return [self._write(detector, pictures.of([i])) for i in range(len(samples))]

    def _write(self, detector: GLIPv2, picture: PictureReading) -> dict:
        encoder = detector.text_encoder
        begin, end = encoder.ends()

        def step(ids: Tensor) -> Tensor:
            tokens = as_tokens(ids.to(detector.device))
            fused = read_words(detector, picture.of([0] * len(ids)), tokens)
            return self._head(detector)(fused[:, -1], encoder)

        ids, score = beam_search(step, self.search, begin=begin, end=end, forbidden=encoder.special_ids)
        score = score * (len(ids) + 1) ** (self.search.length_penalty - 1)  # the mean, whatever the penalty
        return {"caption": encoder.join(ids), "score": float(torch.tensor(score).exp())}
