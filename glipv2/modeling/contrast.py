"""Inter-image region-word contrast, L_inter of GLIPv2 (arXiv 2206.05836, section 3.2)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor, nn

from openvocab.errors import ConfigError
from openvocab.modeling.gather import gather_sizes, gather_with_gradient

SAME_TEXT = ("ignore", "negative")
PROPAGATE = ("names", "words")
NO_WORD = 0
_WORD = re.compile(r"\w+")
_ARTICLE = re.compile(r"^(?:an?|the)\s+(?=\S)")


def phrase_key(text: str) -> int:
    """Return a number below 2**63 that is the same for the same words: case, spaces and a leading article do not count."""
    words = _ARTICLE.sub("", " ".join(text.casefold().split()))
    return int.from_bytes(hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") >> 1


def token_words(text: str, offsets: Tensor) -> Tensor:
    """Return (T,) int64, the `phrase_key` of the word that each token, characters [start, end) of `offsets` (T, 2), is a piece of.

    Tokens of no word, special ones and punctuation, get `NO_WORD`.
    """
    keys = [NO_WORD] * len(text)
    for match in _WORD.finditer(text):
        keys[match.start() : match.end()] = [phrase_key(match.group())] * len(match.group())
    return torch.tensor([keys[start] if end > start else NO_WORD for start, end in offsets.tolist()], dtype=torch.int64)


@dataclass
class PicturePhrases:
    """The text of one picture, as the contrast sees it. P: phrases, T: tokens, M: boxes.

    Attributes:
        token_map: (P, T) bool, the tokens of each phrase.
        names: P texts; phrases of one text are the same thing, see `phrase_key`.
        box_phrases: (M,) int64, the phrase of each true box.
        is_vocabulary: the text is a list of class names, not a sentence.
        token_words: (T,) int64, see `token_words`; None: unknown. `propagate="words"` needs them.
    """

    token_map: Tensor
    names: Sequence[str]
    box_phrases: Tensor
    is_vocabulary: bool
    token_words: Tensor | None = None


@dataclass
class ContrastBatch:
    """Regions and words of all processes. R: regions, B: pictures, T: tokens, P: phrases, D: width.

    Attributes:
        regions: (R, D) of length 1.
        words: (B, T, D) of length 1.
        mask: (B, T) bool, real tokens.
        region_phrase: (R,) the phrase of each region, counted over all pictures.
        token_map: (P, T) bool.
        phrase_picture: (P,) the picture of each phrase.
        phrase_key: (P,) see `phrase_key`.
        phrase_is_name: (P,) bool, phrases of vocabularies.
        token_words: (B, T) int64, or None.
    """

    regions: Tensor
    words: Tensor
    mask: Tensor
    region_phrase: Tensor
    token_map: Tensor
    phrase_picture: Tensor
    phrase_key: Tensor
    phrase_is_name: Tensor
    token_words: Tensor | None = None


def contrast_targets(batch: ContrastBatch, propagate: str = "names") -> tuple[Tensor, Tensor]:
    """Say which words are right for which region, and which are neither right nor wrong.

    In its own picture a region's words are those of its phrase. Elsewhere (label propagation) the words of the same class name are
    right, where both texts are vocabularies; words of the same text, one of them or both in a sentence, may mean this region or
    not, and do not count. With `propagate="words"` every word of a class name is right that is also one of the region's own name.

    Returns:
        positive and ignored, (R, B * T) bool; no pair is both.

    Raises:
        ConfigError: for words to propagate in a batch that does not say them.
    """
    pictures, tokens = batch.mask.shape
    key = batch.phrase_key.unique(return_inverse=True)[1]
    phrase, token = batch.token_map.nonzero(as_tuple=True)
    column = batch.phrase_picture[phrase] * tokens + token
    of_key = batch.mask.new_zeros(2, int(key.max()) + 1 if len(key) else 0, pictures * tokens)  # words of each text: names, and all
    of_key[1, key[phrase], column] = True
    named = batch.phrase_is_name[phrase]
    of_key[0, key[phrase[named]], column[named]] = True

    mine = batch.region_phrase
    rows, picture = torch.arange(len(mine), device=mine.device), batch.phrase_picture[mine]
    elsewhere = batch.mask.new_ones(len(mine), pictures, tokens)
    elsewhere[rows, picture] = False
    elsewhere = elsewhere.flatten(1)
    positive = batch.mask.new_zeros(len(mine), pictures, tokens)
    positive[rows, picture] = batch.token_map[mine]
    positive = positive.flatten(1) | (of_key[0, key[mine]] & elsewhere & batch.phrase_is_name[mine, None])
    if propagate == "words":
        if batch.token_words is None:
            raise ConfigError('propagate="words" compares words: give PicturePhrases their token_words')
        own = batch.token_words.flatten()
        word = own.unique(return_inverse=True)[1]
        has = batch.mask.new_zeros(len(batch.token_map), int(word.max()) + 1)
        has[phrase[named], word[column[named]]] = True  # phrases of sentences have none
        positive = positive | (has[mine][:, word] & of_key[0].any(dim=0) & (own != NO_WORD))
    return positive, of_key[1, key[mine]] & elsewhere & ~positive


def bidirectional_cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    """Cross-entropy of rows over columns and of columns over rows, each shared evenly by what is right; half their sum.

    Columns without anything right are words that no region is named by: they have no answer and only serve as wrong ones.

    Args:
        logits: (R, M), -inf where a pair does not count.
        positive: (R, M) bool, at least one a row, none where a logit is -inf.

    Returns:
        a scalar, divided by R.
    """
    answered = positive.any(dim=0)
    total = logits.new_zeros(())
    for table, right in ((logits, positive), (logits[:, answered].t(), positive[:, answered].t())):
        chosen = table.log_softmax(dim=1).masked_fill(~right, 0.0)
        total = total - (chosen.sum(dim=1) / right.sum(dim=1)).sum()
    return total / 2 / len(logits)


class RegionWordContrast(nn.Module):
    """Regions of a picture against the words of all pictures of the batch, before fusion, over all processes.

    `S = O P^T / t` over all regions and words, and cross-entropy along both (the paper's L_inter). As in the released code, regions
    are the cells of the pyramid that the matcher gives a box, words are all tokens, special ones included, both are projected to
    D and set to length 1, and t = exp(log_scale) is learned. Ours: the regions of every box take part (the released code loses
    those of each picture's first box), gradients go through the words and regions of the other processes too (there through
    their own only), and what `same_text="ignore"` says.

    Letters: B pictures, T tokens, C visual width, L language width, D.

    Args:
        visual_dim: C.
        lang_dim: L.
        embed_dim: D.
        max_regions: most regions a picture, drawn evenly.
        log_scale: logarithm of the temperature t at the start.
        same_text: what a phrase's words are to a region of another picture whose phrase has the same text, if one of the two texts
            is a sentence: "ignore", or "negative" as published.
        propagate: what else is right for a region with a class name: the same "names" elsewhere, as published; or (ours) all the
            same "words" of class names, so that "red" of "red square" is right for a red circle. For attributes and nouns:
            whole names as labels teach pairs, and hide what pairs that are in no training picture have in common with others.
        weight: factor of the loss.

    Raises:
        ConfigError: for an unknown `same_text` or `propagate`, or fewer than one region.
    """

    def __init__(
        self,
        *,
        visual_dim: int = 256,
        lang_dim: int = 768,
        embed_dim: int = 64,
        max_regions: int = 100,
        log_scale: float = 0.0,
        same_text: str = "ignore",
        propagate: str = "names",
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        if same_text not in SAME_TEXT or max_regions < 1:
            raise ConfigError(f"same_text='{same_text}' must be one of {SAME_TEXT}, max_regions={max_regions} at least 1")
        if propagate not in PROPAGATE:
            raise ConfigError(f"propagate='{propagate}' must be one of {PROPAGATE}")
        self.project_regions = nn.Linear(visual_dim, embed_dim)
        self.project_words = nn.Linear(lang_dim, embed_dim)
        self.log_scale = nn.Parameter(torch.tensor([float(log_scale)]))
        self.max_regions, self.same_text, self.propagate, self.weight = max_regions, same_text, propagate, float(weight)
        for layer in (self.project_regions, self.project_words):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        pyramid: Sequence[Tensor],
        hidden: Tensor,
        mask: Tensor,
        matched: Sequence[Tensor],
        phrases: Sequence[PicturePhrases],
    ) -> dict[str, Tensor]:
        """Return `loss_inter`; a collective call. Without any region it is 0.

        Args:
            pyramid: per level (B, C, H, W), before fusion; N cells in all.
            hidden: (B, T, L), before fusion.
            mask: (B, T) bool, real tokens.
            matched: (N,) a picture: the box of each cell, or a number below 0.
            phrases: B of them.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            cells = torch.cat([x.flatten(2).transpose(1, 2) for x in pyramid], dim=1)
            chosen = [self._choose(m) for m in matched]
            regions = torch.cat([x[i] for x, i in zip(cells, chosen, strict=True)]).float()
            regions = F.normalize(self.project_regions(regions), dim=-1)
            words = F.normalize(self.project_words(F.normalize(hidden.float(), dim=-1)), dim=-1)
            boxes = [p.box_phrases[m[i]] for p, m, i in zip(phrases, matched, chosen, strict=True)]
            return {"loss_inter": self.weight * self.loss(gathered(regions, words, mask, boxes, phrases))}

    def loss(self, batch: ContrastBatch) -> Tensor:
        """The loss of gathered regions and words, a scalar."""
        logits = batch.regions @ batch.words.flatten(0, 1).t() / self.log_scale.exp()
        if not len(logits):
            return logits.sum() + 0.0 * (batch.words.sum() + self.log_scale.sum())
        positive, ignored = contrast_targets(batch, self.propagate)
        out = ~batch.mask.flatten()
        out = out | ignored if self.same_text == "ignore" else out.expand_as(positive)
        return bidirectional_cross_entropy(logits.masked_fill(out, float("-inf")), positive)

    def _choose(self, matched: Tensor) -> Tensor:
        found = torch.nonzero(matched >= 0).flatten()
        if len(found) <= self.max_regions:
            return found
        return found[torch.randperm(len(found))[: self.max_regions].sort().values.to(found.device)]


def gathered(
    regions: Tensor, words: Tensor, mask: Tensor, boxes: Sequence[Tensor], phrases: Sequence[PicturePhrases]
) -> ContrastBatch:
    """Bring the parts of all processes together, in order of rank; a collective call.

    Args:
        regions: (R, D) of this process, those of one picture after the other.
        words: (B, T, D).
        mask: (B, T) bool.
        boxes: the phrase of each region, a tensor a picture, counted in that picture.
        phrases: B of them.
    """
    device, counts = regions.device, [len(p.token_map) for p in phrases]
    width = max(gather_sizes(words.shape[1], device))
    gap = width - words.shape[1]
    first_picture, first_phrase = (_before(n, device) for n in (len(words), sum(counts)))
    starts = [first_phrase + sum(counts[:i]) for i in range(len(counts))]
    pictures = [torch.full((n,), first_picture + i, device=device) for i, n in enumerate(counts)]
    names = [[phrase_key(n), int(p.is_vocabulary)] for p in phrases for n in p.names]
    table = torch.tensor(names, dtype=torch.long, device=device).reshape(-1, 2)
    maps = torch.cat([F.pad(p.token_map, (0, width - p.token_map.shape[1])) for p in phrases])
    places = torch.cat([b + start for b, start in zip(boxes, starts, strict=True)])
    table = gather_with_gradient(torch.cat([torch.cat(pictures)[:, None], table], dim=1))
    own = [p.token_words for p in phrases if p.token_words is not None]  # of all of them, or of none, in every process
    return ContrastBatch(
        regions=gather_with_gradient(regions),
        words=gather_with_gradient(F.pad(words, (0, 0, 0, gap))),
        mask=gather_with_gradient(F.pad(mask, (0, gap)).to(torch.uint8)).bool(),
        region_phrase=gather_with_gradient(places),
        token_map=gather_with_gradient(maps.to(torch.uint8)).bool(),
        phrase_picture=table[:, 0],
        phrase_key=table[:, 1],
        phrase_is_name=table[:, 2].bool(),
        token_words=gather_with_gradient(torch.stack([F.pad(w, (0, width - len(w))) for w in own])) if own else None,
    )


def _before(rows: int, device: torch.device) -> int:
    """How many rows the processes before this one bring."""
    return sum(gather_sizes(rows, device)[: comm.get_rank()])
