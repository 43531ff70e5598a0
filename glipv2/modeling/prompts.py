"""From what a picture asks for to prompts: long vocabularies in chunks, and encoded captions that are kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor, nn

from openvocab.errors import ConfigError
from openvocab.prompting import Caption, build_caption, chunk_names
from openvocab.text import LanguageFeatures
from openvocab.vocabulary import Vocabulary

REMEMBERED_PLANS = 16
CACHED_TOKENS = 2**15
"""Encoded tokens that are kept: 100 MB of BERT-base's; LVIS's 1,203 names are 5,000."""

Encoded = tuple[LanguageFeatures, Tensor]


@dataclass(frozen=True)
class Chunking:
    """How a vocabulary is cut into prompts. Every name is whole and in one prompt; each prompt is suppressed by itself.

    The released code asks 40 names at a time, computes the whole network for each, and keeps all that each found (its protocol
    for LVIS): `Chunking(max_names=40)`, with 300 detections a prompt.

    Attributes:
        max_names: most names of a prompt; None: as many as its tokens allow.
        max_tokens: most tokens of a prompt, special ones included; None: the text encoder's limit.
        batch: prompts that go through the fused tower at a time, or as many as there are pictures, if these are more. It bounds
            memory and changes no result.
        max_detections: most detections a picture over all its prompts; None keeps all that each prompt found.

    Raises:
        ConfigError: for a number below 1.
    """

    max_names: int | None = None
    max_tokens: int | None = None
    batch: int = 4
    max_detections: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_names", "max_tokens", "batch", "max_detections"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")


@dataclass(frozen=True)
class Prompt:
    """One caption for the tower.

    Attributes:
        caption: its phrases are the names asked for, maybe followed by a prior's generic name.
        vocabulary: the names asked for; None where a picture brought a caption of its own.
        places: of these names in the picture's vocabulary; None if they are all of it.
    """

    caption: Caption
    vocabulary: Vocabulary | None = None
    places: tuple[int, ...] | None = None

    def in_whole(self, found: Instances) -> Instances:
        """Turn `pred_classes` that count this prompt's names into places in the picture's vocabulary."""
        if self.places is not None:
            found.pred_classes = torch.as_tensor(self.places, device=found.pred_classes.device)[found.pred_classes]
        return found


class PromptPlanner:
    """Writes vocabularies as prompts; the last few plans are kept.

    Args:
        text_encoder: counts tokens.
        chunking: how to cut.
        separator: between names.
        prior: a `SemanticPrior`, which may add its generic name to a prompt, or None.
    """

    def __init__(self, *, text_encoder: nn.Module, chunking: Chunking, separator: str, prior: nn.Module | None) -> None:
        self.text_encoder, self.chunking, self.separator, self.prior = text_encoder, chunking, separator, prior
        self._plans: OrderedDict[Vocabulary, list[Prompt]] = OrderedDict()

    def __call__(self, vocabulary: Vocabulary) -> list[Prompt]:
        """Return the prompts of a vocabulary.

        Raises:
            PromptError: if one name alone needs more tokens than a prompt may have.
        """
        if vocabulary not in self._plans:
            parts = chunk_names(
                vocabulary,
                self.text_encoder,
                max_tokens=self._budget(),
                separator=self.separator,
                max_names=self.chunking.max_names,
            )
            self._plans[vocabulary] = [self._prompt(vocabulary, part) for part in parts]
        self._plans.move_to_end(vocabulary)
        while len(self._plans) > REMEMBERED_PLANS:
            self._plans.popitem(last=False)
        return self._plans[vocabulary]

    def _budget(self) -> int:
        limit = self.text_encoder.max_tokens
        budget = limit if self.chunking.max_tokens is None else min(self.chunking.max_tokens, limit)
        if self.prior is not None:
            budget -= self.text_encoder.count_tokens([self.separator.strip() + " " + self.prior.generic_name])[0]
        return max(budget, 1)

    def _prompt(self, vocabulary: Vocabulary, part: list[int]) -> Prompt:
        whole = len(part) == len(vocabulary)
        names = vocabulary if whole else vocabulary.subset(part)
        asked = names if self.prior is None else self.prior.extended(names)
        caption = build_caption(asked, separator=self.separator)
        return Prompt(caption, names, None if whole else tuple(part))


class CaptionCache:
    """Encoded captions and their token maps. Those that were not asked for the longest go first.

    Args:
        max_tokens: most tokens that are held, over all captions.
    """

    def __init__(self, max_tokens: int = CACHED_TOKENS) -> None:
        self.max_tokens = max_tokens
        self._held: OrderedDict[Caption, Encoded] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def clear(self) -> None:
        """Forget all."""
        self._held.clear()

    def get(self, captions: Sequence[Caption], encode: Callable[[Caption], Encoded]) -> list[Encoded]:
        """Return each caption's features (1, T, L) and token map (phrases, T); what is not held is encoded, one by one."""
        found = []
        for caption in captions:
            if caption not in self._held:
                self._held[caption] = encode(caption)
            self._held.move_to_end(caption)
            found.append(self._held[caption])
        used = sum(features.mask.numel() for features, _ in self._held.values())
        while used > self.max_tokens and len(self._held) > 1:
            used -= self._held.popitem(last=False)[1][0].mask.numel()
        return found


def stack_captions(encoded: Sequence[Encoded]) -> tuple[LanguageFeatures, list[Tensor]]:
    """Pad captions to the longest: features (B, T, L), and B token maps (phrases, T)."""
    width = max(features.hidden.shape[1] for features, _ in encoded)
    gaps = [width - features.hidden.shape[1] for features, _ in encoded]
    hidden = torch.cat([F.pad(f.hidden, (0, 0, 0, gap)) for (f, _), gap in zip(encoded, gaps, strict=True)])
    mask = torch.cat([F.pad(f.mask, (0, gap)) for (f, _), gap in zip(encoded, gaps, strict=True)])
    return LanguageFeatures(hidden=hidden, mask=mask), [F.pad(m, (0, gap)) for (_, m), gap in zip(encoded, gaps, strict=True)]
