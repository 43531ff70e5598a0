"""The language-aware mask head of GLIPv2 (arXiv 2206.05836): masks by matching pixels of a box with the words of its phrase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn

from openvocab.errors import DataError, VocabularyError

from .head import RegionWordAlignment
from .losses import reduce_mean
from .mask_trunk import MaskConvs, MaskHourglasses


@dataclass
class PhraseWords:
    """What a picture's phrases (or class names) are to the mask head.

    Attributes:
        vectors: (P, C), to be compared with pixels.
        bias: (P,), added to the logits.
    """

    vectors: Tensor
    bias: Tensor


@ROI_MASK_HEAD_REGISTRY.register()
class GLIPv2MaskHead(nn.Module):
    """Mask logits as dot products of pixels and words (the released code's `VLMaskRCNNC4Predictor`).

    A phrase's logit is the mean of its tokens' logits. Those are linear in the words, so the words' vectors are averaged first: one
    product a box in place of one for each of 256 tokens (all that is lost is the released code's clamp at 50000).

    It is called as detectron2's mask heads are, so that it also serves in a stock `StandardROIHeads`: there the words are class
    embeddings, set by `set_class_embeddings`. Letters: R boxes of all pictures, S pooled size, C channels, L width of words,
    P phrases of a picture, T tokens.

    Args:
        trunk: maps (R, C, S, S) to the same shape, a `MaskConvs` or `MaskHourglasses`.
        alignment: a `RegionWordAlignment` with `prior_prob=None`: masks have no prior.
        channels: C.
        loss_weight: factor of the loss.

    The yaml form reads the keys `MODEL.GLIPV2.MASK_...` that `add_glipv2_config` adds.
    """

    @configurable
    def __init__(self, *, trunk: nn.Module, alignment: nn.Module, channels: int = 256, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.trunk, self.alignment, self.loss_weight = trunk, alignment, loss_weight
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        for layer in (self.upsample, alignment.projection):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.register_buffer("class_embeddings", torch.zeros(0, alignment.projection.in_features), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Read a yaml config that `add_glipv2_config` has prepared."""
        node, channels = cfg.MODEL.GLIPV2, input_shape.channels
        kind = MaskHourglasses if node.MASK_HOURGLASS else MaskConvs
        count = {"num_blocks" if node.MASK_HOURGLASS else "num_convs": node.MASK_LAYERS}
        return {
            "trunk": kind(channels=channels, **count),
            "alignment": RegionWordAlignment(channels=channels, lang_dim=node.MASK_WORD_DIM, prior_prob=None),
            "channels": channels,
        }

    def set_class_embeddings(self, embeddings: Tensor) -> None:
        """Use `embeddings` (K, L) as words wherever the caller brings no phrases: one word a class.

        Raises:
            VocabularyError: if the shape is not (K >= 1, L).
        """
        width = self.class_embeddings.shape[1]
        if embeddings.ndim != 2 or not len(embeddings) or embeddings.shape[1] != width:
            raise VocabularyError(f"embeddings of shape {tuple(embeddings.shape)} do not fit; expected (names, {width})")
        self.class_embeddings = embeddings.detach().to(self.class_embeddings.device, torch.float32)

    def words(self, hidden: Tensor, token_map: Tensor) -> PhraseWords:
        """Average the tokens of each phrase: `hidden` (T, L) and `token_map` (P, T) bool give P words."""
        vectors, bias = self.alignment.words(hidden[None])
        share = token_map.to(vectors.dtype)
        share = share / share.sum(dim=1, keepdim=True).clamp(min=1.0)
        return PhraseWords(share @ vectors[0], share @ bias[0])

    def pixels(self, features: Tensor) -> Tensor:
        """Map pooled features (R, C, S, S) to pixel vectors (R, C, 2S, 2S)."""
        return F.relu(self.upsample(self.trunk(features)))

    def logits(self, pixels: Tensor, words: PhraseWords) -> Tensor:
        """Compare pixels (R, C, 2S, 2S) with one word a box, vectors (R, C): mask logits (R, 2S, 2S)."""
        products = torch.einsum("rchw,rc->rhw", pixels.float(), words.vectors.float())
        return products / self.alignment.log_scale.exp() + words.bias[:, None, None]

    def forward(
        self, features: Tensor, instances: list[Instances], phrases: Sequence[PhraseWords] | None = None
    ) -> dict[str, Tensor] | list[Instances]:
        """Find the masks of boxes, or in training return the loss.

        Args:
            features: (R, C, S, S) pooled from the boxes of all pictures, in order.
            instances: one a picture. In training with `proposal_boxes`, `gt_classes` (a phrase each), `gt_masks` and maybe
                `gt_is_box_mask` (true where a mask is only its box; those teach nothing here); else with `pred_classes`.
            phrases: one a picture, from `words`; None: the class embeddings.

        Returns:
            in training {"loss_mask"}; else the instances, with `pred_masks` (N, 1, 2S, 2S) in 0..1, to be pasted by
            `detector_postprocess`.

        Raises:
            VocabularyError: if there are neither phrases nor class embeddings, or a class is not among them.
        """
        if phrases is None:
            phrases = [self._class_words()] * len(instances)
        field = "gt_classes" if self.training else "pred_classes"
        chosen = [_pick(p, i.get(field)) for p, i in zip(phrases, instances, strict=True)]
        words = PhraseWords(torch.cat([w.vectors for w in chosen]), torch.cat([w.bias for w in chosen]))
        logits = self.logits(self.pixels(features), words)
        if self.training:
            return {"loss_mask": mask_loss(logits, instances) * self.loss_weight}
        for found, masks in zip(instances, logits.sigmoid().split([len(i) for i in instances]), strict=True):
            found.pred_masks = masks[:, None]
        return instances

    def _class_words(self) -> PhraseWords:
        if not len(self.class_embeddings):
            raise VocabularyError("the mask head has no words: call set_class_embeddings, or pass phrases")
        each = torch.eye(len(self.class_embeddings), dtype=torch.bool, device=self.class_embeddings.device)
        return self.words(self.class_embeddings, each)


def _pick(words: PhraseWords, classes: Tensor) -> PhraseWords:
    if len(classes) and int(classes.max()) >= len(words.vectors):
        raise VocabularyError(f"a box is of class {int(classes.max())}, but the mask head was given {len(words.vectors)} names")
    return PhraseWords(words.vectors[classes], words.bias[classes])


def mask_loss(logits: Tensor, instances: Sequence[Instances]) -> Tensor:
    """Binary cross entropy of mask logits (R, M, M) against the masks inside the boxes, a mean over boxes and pixels.

    The number of boxes is averaged over the processes. Without boxes the result is 0 and still reaches every parameter.

    Args:
        logits: of the boxes of all pictures.
        instances: see `GLIPv2MaskHead.forward`.

    Raises:
        DataError: for pictures without `gt_masks`.
    """
    size, targets, real = logits.shape[-1], [], []
    for truth in instances:
        if not truth.has("gt_masks"):
            raise DataError("the mask head is trained on pictures with 'gt_masks': give the mapper with_masks=True")
        if len(truth):
            boxes = truth.proposal_boxes.tensor.detach()
            targets.append(truth.gt_masks.crop_and_resize(boxes, size).to(logits.device, torch.float32))
            rectangles = truth.gt_is_box_mask if truth.has("gt_is_box_mask") else torch.zeros(len(truth), dtype=torch.bool)
            real.append(~rectangles.to(logits.device))
    keep = torch.cat(real) if real else logits.new_zeros(0, dtype=torch.bool)
    count = reduce_mean(keep.sum().float()).clamp(min=1.0)
    if not real:
        return logits.sum() * 0.0
    losses = F.binary_cross_entropy_with_logits(logits, torch.cat(targets), reduction="none").mean(dim=(1, 2))
    return (losses * keep).sum() / count
