"""GLIPv2's detection path as a detectron2 meta-architecture (arXiv 2112.03857 and 2206.05836)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import Tensor, nn

from openvocab.errors import ConfigError, DataError, PromptError, VocabularyError
from openvocab.prompting import Caption, build_caption, token_map
from openvocab.text import LanguageFeatures, TokenBatch
from openvocab.vocabulary import Vocabulary

from .contrast import PicturePhrases, token_words
from .execution import Execution
from .head import HeadOutput
from .losses import Targets
from .prompts import CaptionCache, Chunking, Encoded, Prompt, PromptPlanner, stack_captions
from .trunk import Trunk, valid_cells


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
        mask_branch: a `MaskBranch` that gives the detections masks, and `loss_mask` in training.
        frozen_detector: train the mask branch alone, as the released code does; the detection losses are left out.
        contrast: pretraining's inter-image loss `loss_inter`, a `RegionWordContrast`, or None.
        mlm: pretraining's loss of hidden words `loss_mlm`, a `MaskedLanguageModelling`, or None.
        chunking: how a vocabulary over the token budget is cut, a `Chunking`. The trunk runs once a picture, whatever it says.
        execution: an `Execution`: 16 bits, memory order, compilation.
        vocabulary: names used when a picture brings none.

    Raises:
        ConfigError: for an unknown `input_format`, or a frozen detector without a mask branch or with pretraining's losses.
        TextEncoderError: if `mlm` belongs to another tokenizer.
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
        mask_branch: nn.Module | None = None,
        frozen_detector: bool = False,
        contrast: nn.Module | None = None,
        mlm: nn.Module | None = None,
        chunking: Chunking | None = None,
        execution: Execution | None = None,
        vocabulary: Vocabulary | Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if input_format not in ("RGB", "BGR"):
            raise ConfigError(f"input_format='{input_format}' is neither RGB nor BGR")
        self.backbone, self.text_encoder, self.head = backbone, text_encoder, head
        self.anchor_generator, self.criterion, self.postprocessor = anchor_generator, criterion, postprocessor
        self.input_format, self.separator, self.ignore_padding, self.prior = input_format, separator, ignore_padding, prior
        self.mask_branch, self.frozen_detector = mask_branch, frozen_detector
        self.contrast, self.mlm = contrast, mlm
        if mlm is not None:
            mlm.head.check(text_encoder)
        if frozen_detector:
            self._freeze()
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.chunking, self.execution = chunking or Chunking(), execution or Execution()
        self.execution.prepare(backbone, head)
        self._plan = PromptPlanner(text_encoder=text_encoder, chunking=self.chunking, separator=separator, prior=prior)
        self._language_cache = CaptionCache()
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
        """Detect these names from now on, any number of them, in pictures that bring no vocabulary or caption of their own.

        Raises:
            PromptError: if one name alone needs more tokens than the text encoder takes.
        """
        vocabulary = Vocabulary.coerce(vocabulary)
        self._plan(vocabulary)
        self.vocabulary = vocabulary

    def name_chunks(self, vocabulary: Vocabulary) -> list[list[int]]:
        """Places of the names that are asked together; the model itself asks one chunk after the other.

        Raises:
            PromptError: if one name alone needs more tokens than the text encoder takes.
        """
        prompts = self._plan(vocabulary)
        return [list(range(len(vocabulary)) if p.places is None else p.places) for p in prompts]

    def train(self, mode: bool = True) -> GLIPv2:
        """Set the mode; training forgets encoded captions, since the text encoder may change."""
        if mode:
            self._language_cache.clear()
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        return self

    def _freeze(self) -> None:
        if self.mask_branch is None:
            raise ConfigError("frozen_detector=True trains a mask branch alone, but there is no mask_branch")
        if self.contrast is not None or self.mlm is not None:
            raise ConfigError("frozen_detector=True trains a mask branch alone; contrast and mlm must be None")
        for part in self._frozen_parts():
            part.requires_grad_(False)

    def _frozen_parts(self) -> tuple[nn.Module, ...]:
        return (self.backbone, self.text_encoder, self.head) if self.frozen_detector else ()

    def _apply(self, fn: Callable, recurse: bool = True) -> GLIPv2:
        self._language_cache.clear()  # encoded captions stay on their old device
        return super()._apply(fn, recurse)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Detect, or in training return the losses.

        Args:
            batched_inputs: a dict a picture: `image` (3, H, W) in `input_format`, 0-255; optional `height`, `width` of the
                original; `vocabulary` (`Vocabulary`) or `caption` (`Caption`) for this picture; in training `instances` with
                `gt_boxes` and `gt_classes` (index into the names or phrases; with a mask branch `gt_masks` too) and optional
                `ignore_boxes` (I, 4).

        Returns:
            in training a dict of scalar losses, else `[{"instances": Instances}]` in the size (height, width), best first, with
            `pred_boxes`, `scores` (0..1), `pred_classes` and, from a mask branch, `pred_masks` (N, height, width) bool.

        Raises:
            VocabularyError: if there is nothing to look for.
            DataError: if a box is of a phrase that the caption does not have.
        """
        if self.training:
            return self._losses(batched_inputs, [self._caption(x) for x in batched_inputs])
        return self._detect(batched_inputs)

    def _caption(self, x: dict) -> Caption:
        """The one caption of a picture in training."""
        if x.get("caption") is None:
            return build_caption(self._vocabulary(x), separator=self.separator)
        if not isinstance(x["caption"], Caption):
            raise PromptError("'caption' must be an openvocab.prompting.Caption, which says where its phrases are")
        return x["caption"]

    def _vocabulary(self, x: dict) -> Vocabulary:
        vocabulary = x.get("vocabulary") or self.vocabulary
        if vocabulary is None:
            raise VocabularyError("nothing to look for: call set_vocabulary(...), or give each input a 'vocabulary' or 'caption'")
        return vocabulary

    def _prompts(self, x: dict) -> list[Prompt]:
        """What is asked of a picture: its caption, or its vocabulary in as many prompts as it needs."""
        return self._plan(self._vocabulary(x)) if x.get("caption") is None else [Prompt(self._caption(x))]

    # ---- language -------------------------------------------------------------------------------------------------

    def encode_captions(self, captions: Sequence[Caption]) -> tuple[LanguageFeatures, list[Tensor]]:
        """Encode B captions: features padded to the longest, and each caption's (phrases, T) bool token map.

        In evaluation each caption is encoded once and kept.
        """
        if self.training:
            return self._encode(captions)
        return stack_captions(self._language_cache.get(captions, self._encode_one))

    def _encode_one(self, caption: Caption) -> Encoded:
        features, maps = self._encode([caption])
        return features, maps[0]

    def _encode(self, captions: Sequence[Caption]) -> tuple[LanguageFeatures, list[Tensor]]:
        tokens, maps = self._tokens(captions)
        return self.text_encoder(tokens.to(self.device)), maps

    def _tokens(self, captions: Sequence[Caption]) -> tuple[TokenBatch, list[Tensor]]:
        tokens = self.text_encoder.tokenize([c.text for c in captions])
        return tokens, [token_map(o, c).to(self.device) for o, c in zip(tokens.offsets, captions, strict=True)]

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

    def run_head(
        self, images: Sequence[Tensor], language: LanguageFeatures
    ) -> tuple[HeadOutput, list[Tensor], list[tuple[int, int]]]:
        """Run network and anchors on a batch of pictures: the head's output, per level anchors (N, 4), picture sizes."""
        trunk = self.run_trunk(images)
        return self.head(trunk.features, language, trunk.valid), trunk.anchors, trunk.sizes

    def run_trunk(self, images: Sequence[Tensor]) -> Trunk:
        """Run what needs no words: the backbone on a batch of pictures."""
        padded, sizes = self.preprocess(images)
        features = list(self.backbone(self.execution.order(padded)).values())
        valid = valid_cells(features, sizes, tuple(padded.shape[-2:])) if self.ignore_padding else None
        return Trunk(features, valid, [a.tensor for a in self.anchor_generator(features)], sizes)

    # ---- training -------------------------------------------------------------------------------------------------

    def _losses(self, batched_inputs: list[dict], captions: list[Caption]) -> dict[str, Tensor]:
        tokens, maps = self._tokens(captions)
        offsets = tokens.offsets
        if self.mlm is not None:
            tokens, hidden_words = self.mlm.hide(tokens, maps, batched_inputs, self.text_encoder)
        language = self.text_encoder(tokens.to(self.device))
        output, anchors, sizes = self.run_head([x["image"] for x in batched_inputs], language)
        losses = {}
        if not self.frozen_detector:
            targets = [self._target(x, m) for x, m in zip(batched_inputs, maps, strict=True)]
            matched = self.criterion.match(anchors, targets)
            losses.update(self.criterion(output, anchors, language.mask, targets, matched))
            if self.contrast is not None:
                texts = [self._phrases(*row) for row in zip(batched_inputs, captions, maps, offsets, strict=True)]
                losses.update(self.contrast(output.pyramid, language.hidden, language.mask, matched, texts))
        if self.mlm is not None:
            losses.update(self.mlm(output.hidden, hidden_words.to(self.device), self.text_encoder))
        if self.mask_branch is not None:
            found = self._present_boxes(output, anchors, maps, sizes)
            truth = [x["instances"].to(self.device) for x in batched_inputs]
            losses.update(self.mask_branch.losses(output, maps, truth, found))
        return losses

    @torch.no_grad()
    def _present_boxes(
        self, output: HeadOutput, anchors: list[Tensor], maps: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Tensor]:
        """Return the boxes (N, 4) that the detector finds at this point of the training, a picture each."""
        post, parts = self.postprocessor, [_one(output, i, anchors) for i in range(len(maps))]
        found = [post.suppress(post.candidates(*p, m, s)) for p, m, s in zip(parts, maps, sizes, strict=True)]
        return [f.pred_boxes.tensor for f in found]

    def _phrases(self, x: dict, caption: Caption, phrase_tokens: Tensor, offsets: Tensor) -> PicturePhrases:
        given = x.get("caption") is not None
        names = caption.names if given else self._vocabulary(x).names
        words = token_words(caption.text, offsets).to(self.device) if self.contrast.propagate == "words" else None
        return PicturePhrases(phrase_tokens, names, x["instances"].gt_classes.to(self.device), not given, words)

    def _target(self, x: dict, phrase_tokens: Tensor) -> Targets:
        truth, phrases = x["instances"], len(phrase_tokens)
        numbers = truth.gt_classes
        for number in (int(numbers.min()), int(numbers.max())) if len(truth) else ():
            if not 0 <= number < phrases:
                raise DataError(f"a box is of phrase {number}, counted from 0, but its picture's text has {phrases} of them")
        ignore = x.get("ignore_boxes")
        return Targets(
            boxes=truth.gt_boxes.tensor.to(self.device, torch.float32),
            token_map=phrase_tokens[truth.gt_classes.to(self.device)],
            ignore_boxes=None if ignore is None else ignore.to(self.device),
        )

    # ---- inference ------------------------------------------------------------------------------------------------

    def _detect(self, batched_inputs: list[dict]) -> list[dict[str, Instances]]:
        prompts = [self._prompts(x) for x in batched_inputs]
        results: list[dict[str, Instances] | None] = [None] * len(batched_inputs)
        for group in self._groups(batched_inputs):
            with self.execution.rounding(self.device):
                trunk = self.run_trunk([batched_inputs[i]["image"] for i in group])
            found: list[list[Instances]] = [[] for _ in group]
            asked = [(j, prompt) for j, i in enumerate(group) for prompt in prompts[i]]
            step = max(len(group), self.chunking.batch)  # a prompt for each picture is a batch as in training
            for start in range(0, len(asked), step):
                part = asked[start : start + step]
                answers = self._ask(trunk, part, [batched_inputs[group[j]] for j, _ in part])
                for (j, prompt), answer in zip(part, answers, strict=True):
                    found[j].append(prompt.in_whole(answer))
            for i, parts in zip(group, found, strict=True):
                results[i] = {"instances": self._finish(batched_inputs[i], self._merge(parts))}
        return results

    def _ask(self, trunk: Trunk, asked: list[tuple[int, Prompt]], inputs: list[dict]) -> list[Instances]:
        """Run the tower for prompts of pictures (by their place in the trunk); detections in pixels of the network's input."""
        language, maps = self.encode_captions([prompt.caption for _, prompt in asked])
        part = trunk.of([j for j, _ in asked])
        with self.execution.rounding(self.device):
            output = self.head(part.features, language, part.valid)
        answers = []
        for k, ((_, prompt), x) in enumerate(zip(asked, inputs, strict=True)):
            found = self._postprocess(x, prompt, _one(output, k, part.anchors), maps[k], part.sizes[k])
            if self.mask_branch is not None:
                with self.execution.rounding(self.device):
                    found = self.mask_branch.predict(output, k, maps[k], found)
            answers.append(found)
        return answers

    def _merge(self, parts: list[Instances]) -> Instances:
        """Join what the prompts of a picture found, best first; a single prompt keeps the postprocessor's limit."""
        if len(parts) == 1:
            return parts[0]
        found = Instances.cat(parts)
        return found[found.scores.argsort(descending=True, stable=True)[: self.chunking.max_detections]]

    def _groups(self, batched_inputs: list[dict]) -> list[list[int]]:
        """Indices of pictures that run together: those of one padded size, or all in the published form."""
        if not self.ignore_padding:
            return [list(range(len(batched_inputs)))]
        groups: dict[tuple[int, int], list[int]] = {}
        for i, x in enumerate(batched_inputs):
            groups.setdefault(tuple(self._padded(s) for s in x["image"].shape[-2:]), []).append(i)
        return list(groups.values())

    def _postprocess(self, x: dict, prompt: Prompt, parts: tuple, phrase_tokens: Tensor, size: tuple[int, int]) -> Instances:
        if self.prior is None or prompt.vocabulary is None:
            return self.postprocessor.suppress(self.postprocessor.candidates(*parts, phrase_tokens, size))
        vocabulary = prompt.vocabulary  # the caption may hold a generic name behind these
        found = self.postprocessor.suppress(self.postprocessor.candidates(*parts, phrase_tokens[: len(vocabulary)], size))
        boxes, scores = self.postprocessor.proposals(*parts, phrase_tokens, size)
        image = x["image"] if self.input_format == "RGB" else x["image"].flip(0)
        return self.prior(image, found, boxes, scores, vocabulary, self.postprocessor.max_detections)

    def _finish(self, x: dict, found: Instances) -> Instances:
        height, width = x["image"].shape[-2:]
        size = x.get("height", height), x.get("width", width)
        result = detector_postprocess(found, *size)
        if self.postprocessor.inclusive_boxes:
            result.pred_boxes.tensor[:, 2:] += result.scores.new_tensor([1 - size[1] / width, 1 - size[0] / height])
        return result


def _one(output: HeadOutput, index: int, anchors: list[Tensor]) -> tuple[list[Tensor], ...]:
    """Anchors and the head's output for one picture of the batch, as the postprocessor takes them."""
    return (anchors, *([x[index] for x in part] for part in (output.box_deltas, output.centerness, output.alignment)))
