"""The fused tower as a sequence-to-sequence decoder: words see the picture and the words before them, the picture sees no word.

GLIPv2 (arXiv 2206.05836) writes captions with the weights that detect, under a uni-directional mask over the text. That
the picture may not see the text to come follows; what it sees in its place is ours: the begin token, the same in all texts. So a
picture goes through the tower once, and each word costs the text's part alone.

Letters: B texts, T tokens, L language width, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glipv2.modeling.detector import GLIPv2
from glipv2.modeling.trunk import Trunk
from openvocab.errors import ConfigError
from openvocab.text import TokenBatch


@dataclass
class PictureReading:
    """Pictures as the blocks of the tower see them.

    Attributes:
        levels: for each block, per level (B, C, H, W): what goes into its fusion.
        valid: per level (B, 1, H, W) bool, or None.
    """

    levels: list[list[Tensor]]
    valid: list[Tensor] | None

    def of(self, pictures: Sequence[int]) -> PictureReading:
        """The same for these pictures, any of them several times."""
        index = list(pictures)
        valid = None if self.valid is None else [m[index] for m in self.valid]
        return PictureReading([[x[index] for x in levels] for levels in self.levels], valid)


def check_fused(detector: GLIPv2) -> None:
    """Raise ConfigError for a tower in which words never see the picture (GLIP-A)."""
    if not any(block.fusion is not None for block in detector.head.blocks):
        raise ConfigError("this detector's tower fuses nothing, so no caption can speak of the picture; its blocks need 'fusion'")


def read_pictures(detector: GLIPv2, images: Sequence[Tensor]) -> PictureReading:
    """Run B pictures (3, H, W) through backbone and tower, with the begin token for a text."""
    trunk: Trunk = detector.run_trunk(images)
    begin = detector.text_encoder.ends()[0]
    ids = torch.full((len(images), 1), begin, dtype=torch.int64, device=detector.device)
    hidden = detector.text_encoder.forward_causal(as_tokens(ids)).hidden
    seen = torch.ones_like(ids, dtype=torch.bool)
    levels, features = [], list(trunk.features)
    for block in detector.head.blocks[:-1]:
        levels.append(features)
        features, hidden = block(features, hidden, seen, trunk.valid)
    return PictureReading([*levels, features], trunk.valid)


def read_words(detector: GLIPv2, pictures: PictureReading, tokens: TokenBatch) -> Tensor:
    """Run texts, one a picture of the reading, through text encoder and tower: fused words (B, T, L).

    Word t depends on the picture and on the tokens 0 to t.
    """
    language = detector.text_encoder.forward_causal(tokens)
    hidden, mask = language.hidden, language.mask
    begin = torch.zeros_like(mask)
    begin[:, 0] = True
    length = mask.shape[1]
    before = mask[:, None, :] & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    for block, levels in zip(detector.head.blocks, pictures.levels, strict=True):
        hidden = _one_block(block, levels, hidden, begin, before, pictures.valid)
    return hidden


def _one_block(
    block: nn.Module, levels: list[Tensor], hidden: Tensor, begin: Tensor, before: Tensor, valid: list[Tensor] | None
) -> Tensor:
    if block.fusion is not None:
        hidden = block.fusion(levels, hidden, begin, valid)[1]
    return hidden if block.language is None else block.language(hidden, before)


def as_tokens(ids: Tensor) -> TokenBatch:
    """Return ids (B, T), all of them real, as the text encoder takes them."""
    return TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool), ids.new_zeros(*ids.shape, 2))
