"""Masked language modelling with a picture to read: L_mlm of GLIPv2 (arXiv 2206.05836, section 3.2).

Letters: B captions, T tokens, L language width, V words of the tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvocab.errors import ConfigError, TextEncoderError
from openvocab.text import TextEncoder, TokenBatch

from .losses import reduce_mean

NOT_ASKED = -100


class WordMasker:
    """Hide words of captions, as BERT: a share `rate` of them, of which most become [MASK] and some another word.

    Special tokens and padding are never touched, and no special token is put in. Draws come from torch's CPU generator, so that a
    seed gives the same words on every device.

    Args:
        rate: share of the words that are asked for.
        mask_share: of these, the share that becomes [MASK].
        random_share: of these, the share that becomes a word drawn evenly; the rest stays as it is.

    Raises:
        ConfigError: for shares outside 0..1, or above 1 together.
    """

    def __init__(self, *, rate: float = 0.15, mask_share: float = 0.8, random_share: float = 0.1) -> None:
        shares = {"rate": rate, "mask_share": mask_share, "random_share": random_share}
        for name, value in {**shares, "mask_share + random_share": mask_share + random_share}.items():
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"{name}={value} is no share between 0 and 1")
        self.rate, self.mask_share, self.random_share = float(rate), float(mask_share), float(random_share)

    def __call__(self, tokens: TokenBatch, allowed: Tensor, encoder: TextEncoder) -> tuple[TokenBatch, Tensor]:
        """Hide words.

        Args:
            tokens: of B captions.
            allowed: (B, T) bool, where words may be hidden.
            encoder: whose tokens they are.

        Returns:
            tokens with words hidden, the rest of it shared with what was given; and (B, T) int64, the true id of each word that
            is asked for, `NOT_ASKED` elsewhere.

        Raises:
            TextEncoderError: if the encoder's tokenizer has no [MASK].
        """
        words = ordinary_ids(encoder)
        ids, shape = tokens.input_ids.cpu(), tokens.input_ids.shape
        asked = (torch.rand(shape) < self.rate) & allowed.cpu() & (tokens.offsets[..., 1] > tokens.offsets[..., 0])
        kind, other = torch.rand(shape), words[torch.randint(len(words), shape)]
        hidden = torch.where(asked & (kind < self.mask_share), torch.full_like(ids, encoder.mask_id), ids)
        swapped = asked & (kind >= self.mask_share) & (kind < self.mask_share + self.random_share)
        hidden = torch.where(swapped, other, hidden)
        labels = torch.where(asked, ids, torch.full_like(ids, NOT_ASKED))
        device = tokens.input_ids.device
        return TokenBatch(hidden.to(device), tokens.attention_mask, tokens.offsets), labels.to(device)


def ordinary_ids(encoder: TextEncoder) -> Tensor:
    """Return the ids of all words that are no special tokens, (W,) int64.

    Raises:
        TextEncoderError: if the tokenizer has no [MASK], or no fixed list of words.
    """
    if encoder.mask_id is None or encoder.vocab_size is None:
        raise TextEncoderError(
            f"hidden words need a tokenizer with [MASK]; that of '{encoder.identity}' has none: use a BERT, or mlm=None"
        )
    ordinary = torch.ones(encoder.vocab_size, dtype=torch.bool)
    ordinary[list(encoder.special_ids)] = False
    return ordinary.nonzero().flatten()


class MaskedLanguageHead(nn.Module):
    """BERT's head for hidden words: a layer, GELU, a norm, and one logit a word of the tokenizer.

    Args:
        dim: L.
        vocab_size: V.
        tied: the last product is with the text encoder's own embeddings (BERT's form); else with weights of its own, as in the
            released code, whose checkpoints this then takes.
        eps: of the norm.
    """

    def __init__(self, *, dim: int = 768, vocab_size: int = 30522, tied: bool = True, eps: float = 1e-12) -> None:
        super().__init__()
        self.dim, self.vocab_size = dim, vocab_size
        self.dense = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.decoder = None if tied else nn.Linear(dim, vocab_size, bias=False)
        for layer in (m for m in self.modules() if isinstance(m, nn.Linear)):
            nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def check(self, encoder: TextEncoder) -> None:
        """Raise TextEncoderError unless the head's words are those of this encoder."""
        table = encoder.word_embeddings
        rows = encoder.vocab_size if table is None else len(table)
        if self.decoder is None and table is None:
            raise TextEncoderError(f"'{encoder.identity}' has no word embeddings to tie a decoder to; use tied=False")
        if rows != self.vocab_size or encoder.dim != self.dim:
            raise TextEncoderError(
                f"a head of {self.vocab_size} words and width {self.dim} does not belong to '{encoder.identity}', which has"
                f" {rows} words and width {encoder.dim}"
            )

    def forward(self, hidden: Tensor, encoder: TextEncoder) -> Tensor:
        """Map word features (..., L), fused ones in GLIPv2, to logits (..., V) in float32."""
        hidden = self.norm(F.gelu(self.dense(hidden)))
        table = encoder.word_embeddings if self.decoder is None else self.decoder.weight
        return F.linear(hidden, table.to(hidden.dtype), self.bias.to(hidden.dtype)).float()


class MaskedLanguageModelling(nn.Module):
    """Hide words of sentences, and ask for them behind the fused tower, where the picture can be read.

    The same hidden words are grounded in that step, as in the released code. There the texts of detection data take part unless
    switched off (NO_MASK_FOR_OD), with the names of true boxes; here they do with `names=True`. It asks for them in the batch of
    all processes together (ours: the released code takes each process's own mean).

    Args:
        head: a `MaskedLanguageHead`.
        masker: a `WordMasker`.
        names: also hide the names of true boxes in vocabularies.
        weight: factor of the loss.
    """

    def __init__(self, *, head: nn.Module, masker: WordMasker, names: bool = False, weight: float = 1.0) -> None:
        super().__init__()
        self.head, self.masker, self.names, self.weight = head, masker, names, float(weight)

    def hide(
        self, tokens: TokenBatch, maps: Sequence[Tensor], inputs: Sequence[dict], encoder: TextEncoder
    ) -> tuple[TokenBatch, Tensor]:
        """Hide words of a training batch.

        Args:
            tokens: of B captions.
            maps: (P, T) bool a picture.
            inputs: the B pictures; those with a "caption" have sentences, the others vocabularies.
            encoder: whose tokens they are.

        Returns:
            as `WordMasker`.
        """
        allowed = torch.zeros(tokens.input_ids.shape, dtype=torch.bool)
        for i, (x, words) in enumerate(zip(inputs, maps, strict=True)):
            if x.get("caption") is not None:
                allowed[i] = tokens.attention_mask[i].cpu()
            elif self.names:
                allowed[i] = words.cpu()[x["instances"].gt_classes.cpu()].any(dim=0)
        return self.masker(tokens, allowed, encoder)

    def forward(self, hidden: Tensor, labels: Tensor, encoder: TextEncoder) -> dict[str, Tensor]:
        """Return `loss_mlm`, the mean cross-entropy over all words asked for; 0 if there are none.

        Args:
            hidden: (B, T, L) fused words.
            labels: (B, T) int64, see `hide`.
            encoder: whose tokens they are.
        """
        asked = labels != NOT_ASKED
        logits = self.head(hidden[asked], encoder)
        total = reduce_mean(asked.sum().float()).clamp(min=1.0)
        return {"loss_mlm": self.weight * F.cross_entropy(logits, labels[asked], reduction="sum") / total}
