"""GLIPv2's detection path as a detectron2 meta-architecture (arXiv 2112.03857 and 2206.05836)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import Tensor, nn

from openvocab.errors import ConfigError, PromptError, VocabularyError
from openvocab.prompting import Caption, build_caption, token_map
from openvocab.text import LanguageFeatures
from openvocab.vocabulary import Vocabulary

from .head import HeadOutput
from .losses import Targets

CACHED_CAPTIONS = 32


@META_ARCH_REGISTRY.register()
class GLIPv2(nn.Module):
    """Grounded detector: a picture and a caption (or a vocabulary, written as one) give boxes for the caption's phrases.

    Args:
        backbone: a detectron2 backbone whose maps, finest first, all have the head's channels (an FPN).
        text_encoder: an `openvocab.text.TextEncoder`.
        head: a `GLIPv2Head`.
        anchor_generator: one anchor a cell, such as detectron2's `DefaultAnchorGenerator(offset=0.5, ...)`.
        criterion: training losses, a `GroundingCriterion`.
        postprocessor: a `GroundingPostProcessor`.
        pixel_mean: per channel, in 0-255.
        pixel_std: per channel.
        input_format: channel order the network expects, "RGB" or "BGR"; `image` in the inputs has it.
        separator: between the names of a vocabulary.
        ignore_padding: leave padded pixels out of attention and means, and run pictures of different sizes apart at test time, so
            that a batch gives what its pictures give alone (ours). False is the published form, in which padding takes part.
        prior: optional second opinion on names in evaluation, a `SemanticPrior`; pictures with a caption go without it.
        vocabulary: names used when a picture brings none.

    Raises:
        ConfigError: for an unknown `input_format`.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        text_encoder: nn.Module,
        head: nn.Module,
        anchor_generator: nn.Module,
        criterion: object,
        postprocessor: object,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        separator: str = ". ",
        ignore_padding: bool = True,
        prior: nn.Module | None = None,
        vocabulary: Vocabulary | Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if input_format not in ("RGB", "BGR"):
            raise ConfigError(f"input_format='{input_format}' is neither RGB nor BGR")
        self.backbone, self.text_encoder, self.head = backbone, text_encoder, head
        self.anchor_generator, self.criterion, self.postprocessor = anchor_generator, criterion, postprocessor
        self.input_format, self.separator, self.ignore_padding, self.prior = input_format, separator, ignore_padding, prior
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self._language_cache: OrderedDict[tuple, tuple[LanguageFeatures, Tensor]] = OrderedDict()
        self.register_load_state_dict_post_hook(lambda module, _: module._language_cache.clear())
        self.vocabulary: Vocabulary | None = None
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read a yaml config that `add_glipv2_config` has prepared."""
        from glipv2.config import glipv2_from_config

        return glipv2_from_config(cfg)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def set_vocabulary(self, vocabulary: Vocabulary | Sequence[str] | str) -> None:
        """Detect these names from now on, in pictures that bring no vocabulary or caption of their own.

        Raises:
            PromptError: if the names need more tokens than the text encoder takes.
        """
        vocabulary = Vocabulary.coerce(vocabulary)
        self.text_encoder.tokenize([build_caption(vocabulary, separator=self.separator).text])
        self.vocabulary = vocabulary

    def train(self, mode: bool = True) -> GLIPv2:
        """Set the mode; training forgets encoded captions, since the text encoder may change."""
        if mode:
            self._language_cache.clear()
        return super().train(mode)

    def _apply(self, fn: Callable, recurse: bool = True) -> GLIPv2:
        self._language_cache.clear()  # encoded captions stay on their old device
        return super()._apply(fn, recurse)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Detect, or in training return the losses.

        Args:
            batched_inputs: a dict a picture: `image` (3, H, W) in `input_format`, 0-255; optional `height`, `width` of the
                original; `vocabulary` (`Vocabulary`) or `caption` (`Caption`) for this picture; in training `instances` with
                `gt_boxes` and `gt_classes` (index into the names or phrases) and optional `ignore_boxes` (I, 4).

        Returns:
            in training a dict of scalar losses, else `[{"instances": Instances}]` in the size (height, width), best first, with
            `pred_boxes`, `scores` (0..1) and `pred_classes`.

        Raises:
            VocabularyError: if there is nothing to look for.
        """
        captions = [self._caption(x) for x in batched_inputs]
        if self.training:
            return self._losses(batched_inputs, captions)
        return self._detect(batched_inputs, captions)

    def _caption(self, x: dict) -> Caption:
        if x.get("caption") is not None:
            if not isinstance(x["caption"], Caption):
                raise PromptError("'caption' must be an openvocab.prompting.Caption, which says where its phrases are")
            return x["caption"]
        vocabulary = x.get("vocabulary") or self.vocabulary
        if vocabulary is None:
            raise VocabularyError("nothing to look for: call set_vocabulary(...), or give each input a 'vocabulary' or 'caption'")
        if self._uses_prior(x):
            vocabulary = self.prior.extended(vocabulary)
        return build_caption(vocabulary, separator=self.separator)

    # ---- language -------------------------------------------------------------------------------------------------

    def encode_captions(self, captions: Sequence[Caption]) -> tuple[LanguageFeatures, list[Tensor]]:
        """Encode B captions: features padded to the longest, and each caption's (phrases, T) bool token map.

        In evaluation each caption is encoded once and kept.
        """
        if self.training:
            return self._encode(captions)
        missing = [c for c in dict.fromkeys(captions) if c not in self._language_cache]
        for caption in missing:
            features, maps = self._encode([caption])
            self._language_cache[caption] = (features, maps[0])
        found = [self._language_cache[c] for c in captions]
        while len(self._language_cache) > CACHED_CAPTIONS:
            self._language_cache.popitem(last=False)
        width = max(f.hidden.shape[1] for f, _ in found)
        hidden = torch.cat([F.pad(f.hidden, (0, 0, 0, width - f.hidden.shape[1])) for f, _ in found])
        mask = torch.cat([F.pad(f.mask, (0, width - f.mask.shape[1])) for f, _ in found])
        return LanguageFeatures(hidden=hidden, mask=mask), [F.pad(m, (0, width - m.shape[1])) for _, m in found]

    def _encode(self, captions: Sequence[Caption]) -> tuple[LanguageFeatures, list[Tensor]]:
        tokens = self.text_encoder.tokenize([c.text for c in captions])
        maps = [token_map(o, c).to(self.device) for o, c in zip(tokens.offsets, captions, strict=True)]
        return self.text_encoder(tokens.to(self.device)), maps

    # ---- pictures -------------------------------------------------------------------------------------------------

    def preprocess(self, images: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Normalise and zero-pad pictures (3, H, W) to one (B, 3, H', W'); also return their (H, W)."""
        images = [(x.to(self.device).float() - self.pixel_mean) / self.pixel_std for x in images]
        sizes = [tuple(x.shape[-2:]) for x in images]
        height, width = (self._padded(max(s[i] for s in sizes)) for i in range(2))
        return torch.stack([F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in images]), sizes

    def _padded(self, length: int) -> int:
        step = max(self.backbone.size_divisibility, 1)
        return -(-length // step) * step

    def _valid(self, features: Sequence[Tensor], sizes: list[tuple[int, int]], padded: tuple[int, int]) -> list[Tensor] | None:
        """Per level (B, 1, H, W) bool: cells whose top left corner lies inside the picture. None in the published form."""
        if not self.ignore_padding:
            return None
        masks = []
        for x in features:
            h, w = x.shape[-2:]
            mask = torch.zeros(len(sizes), 1, h, w, dtype=torch.bool, device=x.device)
            for i, (height, width) in enumerate(sizes):
                mask[i, :, : -(-height * h // padded[0]), : -(-width * w // padded[1])] = True
            masks.append(mask)
        return masks

    def run_head(
        self, images: Sequence[Tensor], language: LanguageFeatures
    ) -> tuple[HeadOutput, list[Tensor], list[tuple[int, int]]]:
        """Run network and anchors on a batch of pictures: the head's output, per level anchors (N, 4), picture sizes."""
        padded, sizes = self.preprocess(images)
        features = list(self.backbone(padded).values())
        valid = self._valid(features, sizes, tuple(padded.shape[-2:]))
        anchors = [a.tensor for a in self.anchor_generator(features)]
        return self.head(features, language, valid), anchors, sizes

    # ---- training -------------------------------------------------------------------------------------------------

    def _losses(self, batched_inputs: list[dict], captions: list[Caption]) -> dict[str, Tensor]:
        language, maps = self.encode_captions(captions)
        output, anchors, _ = self.run_head([x["image"] for x in batched_inputs], language)
        targets = [self._target(x, m) for x, m in zip(batched_inputs, maps, strict=True)]
        return self.criterion(output, anchors, language.mask, targets)

    def _target(self, x: dict, phrase_tokens: Tensor) -> Targets:
        truth = x["instances"]
        ignore = x.get("ignore_boxes")
        return Targets(
            boxes=truth.gt_boxes.tensor.to(self.device, torch.float32),
            token_map=phrase_tokens[truth.gt_classes.to(self.device)],
            ignore_boxes=None if ignore is None else ignore.to(self.device),
        )

    # ---- inference ------------------------------------------------------------------------------------------------

    def _detect(self, batched_inputs: list[dict], captions: list[Caption]) -> list[dict[str, Instances]]:
        language, maps = self.encode_captions(captions)
        results: list[dict[str, Instances] | None] = [None] * len(batched_inputs)
        for group in self._groups(batched_inputs):
            part = LanguageFeatures(hidden=language.hidden[group], mask=language.mask[group])
            output, anchors, sizes = self.run_head([batched_inputs[i]["image"] for i in group], part)
            for j, i in enumerate(group):
                found = self._postprocess(batched_inputs[i], _one(output, j, anchors), maps[i], sizes[j])
                results[i] = {"instances": self._finish(batched_inputs[i], found)}
        return results

    def _groups(self, batched_inputs: list[dict]) -> list[list[int]]:
        """Indices of pictures that run together: those of one padded size, or all in the published form."""
        if not self.ignore_padding:
            return [list(range(len(batched_inputs)))]
        groups: dict[tuple[int, int], list[int]] = {}
        for i, x in enumerate(batched_inputs):
            groups.setdefault(tuple(self._padded(s) for s in x["image"].shape[-2:]), []).append(i)
        return list(groups.values())

    def _postprocess(self, x: dict, parts: tuple, phrase_tokens: Tensor, size: tuple[int, int]) -> Instances:
        if not self._uses_prior(x):
            return self.postprocessor.suppress(self.postprocessor.candidates(*parts, phrase_tokens, size))
        vocabulary = x.get("vocabulary") or self.vocabulary  # the prompt may hold a generic name behind these
        found = self.postprocessor.suppress(self.postprocessor.candidates(*parts, phrase_tokens[: len(vocabulary)], size))
        boxes, scores = self.postprocessor.proposals(*parts, phrase_tokens, size)
        image = x["image"] if self.input_format == "RGB" else x["image"].flip(0)
        return self.prior(image, found, boxes, scores, vocabulary, self.postprocessor.max_detections)

    def _uses_prior(self, x: dict) -> bool:
        return self.prior is not None and not self.training and x.get("caption") is None

    def _finish(self, x: dict, found: Instances) -> Instances:
        height, width = x["image"].shape[-2:]
        return detector_postprocess(found, x.get("height", height), x.get("width", width))


def _one(output: HeadOutput, index: int, anchors: list[Tensor]) -> tuple[list[Tensor], ...]:
    """Anchors and the head's output for one picture of the batch, as the postprocessor takes them."""
    return (anchors, *([x[index] for x in part] for part in (output.box_deltas, output.centerness, output.alignment)))
