"""RegionCLIP's pretraining as a detectron2 meta-architecture (arXiv 2112.09106, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from openvocab.errors import ConfigError, DataError, VocabularyError
from openvocab.text import TextEncoder, embed_names
from openvocab.vocabulary import Vocabulary
from regionclip.modeling.names import RANDOM, check_activation

from .captions import fitted
from .concepts import ConceptPool, embed_concepts
from .gather import gather_sizes, gather_with_gradient
from .losses import concept_contrastive_loss, cosine_logits, distillation_loss, image_text_loss
from .pseudo_labels import PseudoLabeller, PseudoLabels
from .teachers import read_embeddings

GATHER = ("none", "images", "all")
FRAMES = ("padded", "image")


class RegionTeacher(Protocol):
    """What a teacher can do. It may be any object; if it is a module it goes to the student's device."""

    def region_logits(self, images: Sequence[Tensor], proposals: Sequence[Instances]) -> Tensor:
        """Return logits (N, C) of the concepts for all regions, pictures one after the other.

        Args:
            images: [(3, H, W)] in the student's channel order, 0-255, not padded.
            proposals: of each picture: `proposal_boxes`, and whatever other fields the data brought along.
        """


@META_ARCH_REGISTRY.register()
class RegionCLIPPretraining(nn.Module):
    """A student that learns to place regions where their words are.

    Letters: B pictures, N regions of all pictures, C concepts, D embedding width.

    Teacher, text encoder and proposal network are held aside: they are neither parameters nor part of `state_dict`, so that a
    checkpoint is the student alone (`backbone.*`, `region_features.*`) and a resume needs nothing of them.

    Args:
        backbone: of the student; pictures (B, 3, H, W) to a dict of maps.
        region_features: (maps, boxes [(N_i, 4)] XYXY pixels of the padded batch) to (N, D); a `RegionFeatures` that has no
            layers of its own borrows the backbone's.
        text_encoder: of captions, and of names at test time; frozen.
        teacher: a `RegionTeacher`; None if both region losses are off.
        proposals: pictures [(3, H, W)] to [Instances with `proposal_boxes` (and `objectness_logits`)]; None takes the inputs'
            "proposals", which go first in evaluation (given boxes are to be named, not others).
        concepts: the pool, embedded by `recipe`.
        concept_embeddings: (C, D) in its place, or a file of them, such as the official "*_nouns_*_emb.pth", which is read at
            the first training step.
        recipe: of `openvocab.text.RECIPES`.
        temperature: of all cosines; 0.01 in the paper.
        concept_threshold: see `PseudoLabeller`.
        sample_regions: random regions a picture that are looked at; 100 of the 300 proposals in the paper; None: all.
        distill_weight: of the distillation loss; 0 leaves it out, like the next two.
        contrast_weight: of the region-concept contrast.
        image_text_weight: of the contrast of pictures and captions.
        gather: "images": pictures and captions of all ranks are compared (official); "all": regions too, so that W ranks equal
            one with the whole batch (ours); "none".
        global_frame: what a whole picture is: "padded", the batch's frame (official), or "image", its own.
        pixel_mean, pixel_std: per channel, 0-255.
        input_format: channel order of the inputs' "image".
        vocabulary: names used at test time when an input brings none.

    Raises:
        ConfigError: for an unknown option, a loss without what it needs, or embeddings of another width than the texts'.
    """

    joins_names = False  # each name is embedded on its own: a long vocabulary is one run

    def __init__(
        self,
        *,
        backbone: nn.Module,
        region_features: nn.Module,
        text_encoder: TextEncoder,
        teacher: RegionTeacher | None = None,
        proposals: Callable[[list[Tensor]], list[Instances]] | None = None,
        concepts: ConceptPool | None = None,
        concept_embeddings: Tensor | str | Path | None = None,
        recipe: str = "regionclip",
        temperature: float = 0.01,
        concept_threshold: float = 0.1,
        sample_regions: int | None = 100,
        distill_weight: float = 1.0,
        contrast_weight: float = 1.0,
        image_text_weight: float = 1.0,
        gather: str = "images",
        global_frame: str = "padded",
        pixel_mean: Sequence[float] = (122.7709383, 116.7460125, 104.09373615),
        pixel_std: Sequence[float] = (68.5005327, 66.6321579, 70.32316305),
        input_format: str = "RGB",
        vocabulary: Vocabulary | Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        weights = (distill_weight, contrast_weight, image_text_weight)
        _check(gather, global_frame, input_format, temperature, sample_regions, weights)
        if getattr(region_features, "borrows", False):
            region_features.borrow(backbone)  # CLIP's last stage and attention pool stay the backbone's, under its names
        self.backbone, self.region_features = backbone, region_features
        object.__setattr__(self, "text_encoder", text_encoder)  # no submodules: see above
        object.__setattr__(self, "teacher", teacher)
        object.__setattr__(self, "proposals", proposals)
        self.recipe, self.temperature, self.sample_regions = recipe, float(temperature), sample_regions
        self.distill_weight, self.contrast_weight = float(distill_weight), float(contrast_weight)
        self.image_text_weight = float(image_text_weight)
        self.gather, self.global_frame, self.input_format = gather, global_frame, input_format
        self.labeller = PseudoLabeller(concept_threshold)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.register_buffer("concept_embeddings", self._embedded(concepts, concept_embeddings), persistent=False)
        self.vocabulary = None if vocabulary is None else Vocabulary.coerce(vocabulary)
        for part in self._aside():
            part.requires_grad_(False)
            part.eval()

    def _embedded(self, concepts: ConceptPool | None, embeddings: Tensor | str | Path | None) -> Tensor:
        """Concept embeddings (C, D); none yet if they are in a file, or not needed."""
        self._to_read = None
        if not self.learns_regions:
            return torch.zeros(0, self.text_encoder.dim)
        if self.teacher is None:
            raise ConfigError("the region losses need a teacher; set distill_weight and contrast_weight to 0 to train without")
        if (concepts is None) == (embeddings is None):
            raise ConfigError("give either `concepts`, or `concept_embeddings` made from them")
        if isinstance(embeddings, (str, Path)):
            self._to_read = embeddings
            return torch.zeros(0, self.text_encoder.dim)
        found = embed_concepts(concepts, self.text_encoder, recipe=self.recipe) if embeddings is None else embeddings
        return read_embeddings(found, self.text_encoder.dim)

    def _get_ready(self) -> None:
        """Read what is still to be read, before the first training step."""
        if self._to_read is not None:
            self.concept_embeddings = read_embeddings(self._to_read, self.text_encoder.dim).to(self.device)
            self._to_read = None
        if RANDOM in getattr(self.text_encoder, "identity", ""):
            raise ConfigError(
                f"the text encoder '{self.text_encoder.identity}' has random weights, from which nothing can be learned: set "
                "model.text_encoder.pretrained to a file of CLIP's text tower"
            )
        check_activation(self.text_encoder, self.recipe)

    @property
    def learns_regions(self) -> bool:
        """Whether a loss of regions is on."""
        return self.distill_weight > 0 or self.contrast_weight > 0

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def _aside(self) -> Iterator[nn.Module]:
        """The parts that are modules but not ours."""
        return (p for p in (self.text_encoder, self.teacher, self.proposals) if isinstance(p, nn.Module))

    def _apply(self, fn: Callable, recurse: bool = True) -> RegionCLIPPretraining:
        for part in self._aside():
            part._apply(fn)  # to the same device
        return super()._apply(fn)

    def set_vocabulary(self, vocabulary: Vocabulary | Sequence[str] | str) -> None:
        """Name regions by these from now on, in evaluation."""
        self.vocabulary = Vocabulary.coerce(vocabulary)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Return the losses, or in evaluation name the given regions.

        Args:
            batched_inputs: a dict a picture: "image" (3, H, W), 0-255; "proposals", unless the model finds its own; in training
                "captions" (one is drawn; pictures without any are left out of that loss) or "text", the one to use; in
                evaluation optional "height", "width", "vocabulary".

        Returns:
            {"loss_img_txt_level", "loss_region_distill", "loss_concept_contrastive"}, those that are on; in evaluation
            [{"instances": pred_boxes, scores, pred_classes}], a region each, in order, in the size (height, width).

        Raises:
            DataError: if pictures bring no proposals.
            VocabularyError: in evaluation without names.
        """
        return self._losses(batched_inputs) if self.training else self._classify(batched_inputs)

    # ---- pictures -------------------------------------------------------------------------------------------------

    def preprocess(self, images: Sequence[Tensor]) -> Tensor:
        """Normalise, and pad with zeros at the right and the bottom: (B, 3, H, W)."""
        images = [(x.to(self.device).float() - self.pixel_mean) / self.pixel_std for x in images]
        step = max(getattr(self.backbone, "size_divisibility", 0), 1)
        height, width = (-(-max(x.shape[i] for x in images) // step) * step for i in (1, 2))
        return torch.stack([F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in images])

    def _find(self, batched_inputs: Sequence[dict]) -> list[Instances]:
        if self.proposals is not None and (self.training or any("proposals" not in x for x in batched_inputs)):
            with torch.no_grad():
                found = self.proposals([x["image"].to(self.device) for x in batched_inputs])
        else:
            lacking = next((x for x in batched_inputs if "proposals" not in x), None)
            if lacking is not None:
                raise DataError(
                    f"picture '{lacking.get('file_name', '?')}' brings no 'proposals' and the model has no proposal network; "
                    "give the model `proposals`, or records with boxes (regionclip.pretraining.with_proposals)"
                )
            found = [x["proposals"].to(self.device) for x in batched_inputs]
        return [self._sampled(p) for p in found] if self.training else list(found)

    def _sampled(self, proposals: Instances) -> Instances:
        if self.sample_regions is None or len(proposals) <= self.sample_regions:
            return proposals
        chosen = torch.randperm(len(proposals))[: self.sample_regions]  # on the CPU: one order for all devices
        return proposals[chosen.to(self.device)]

    def encode_regions(self, padded: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Encode boxes [(N_i, 4)] of a padded batch (B, 3, H, W): (N, D)."""
        return self.region_features(self.backbone(padded), list(boxes))

    # ---- training -------------------------------------------------------------------------------------------------

    def _losses(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        self._get_ready()
        images = [x["image"] for x in batched_inputs]
        padded = self.preprocess(images)
        found = self._find(batched_inputs) if self.learns_regions else [None] * len(images)
        boxes = [self._boxes(p, x, padded) for p, x in zip(found, images, strict=True)]
        if not any(map(len, boxes)):  # nothing was proposed: all losses are 0, but of a graph that DDP knows
            frame = padded.new_tensor([[0.0, 0.0, *padded.shape[:1:-1]]])
            empty = self.encode_regions(padded, [frame, *boxes[1:]])[1:]
            return self._region_losses(empty, self.labeller(empty.detach()[:, :1], everywhere=self.gather == "all"))
        vectors = self.encode_regions(padded, boxes).split([len(b) for b in boxes])
        losses = {}
        if self.image_text_weight > 0:
            whole = torch.stack([v[-1] for v in vectors])
            losses["loss_img_txt_level"] = self.image_text_weight * self._image_text(whole, batched_inputs)
            vectors = [v[:-1] for v in vectors]
        if self.learns_regions:
            with torch.no_grad():
                logits = self.teacher.region_logits(images, found)
            losses |= self._region_losses(torch.cat(vectors), self.labeller(logits, everywhere=self.gather == "all"))
        return losses

    def _boxes(self, proposals: Instances | None, image: Tensor, padded: Tensor) -> Tensor:
        """Boxes of one picture (N_i + 1, 4); the last, if pictures are compared with captions, is the picture itself."""
        own = padded.new_zeros(0, 4) if proposals is None else proposals.proposal_boxes.tensor.to(padded)
        if self.image_text_weight <= 0:
            return own
        height, width = (padded if self.global_frame == "padded" else image).shape[-2:]
        return torch.cat([own, padded.new_tensor([[0.0, 0.0, width, height]])])

    def _image_text(self, whole: Tensor, batched_inputs: Sequence[dict]) -> Tensor:
        texts = [_caption(x) for x in batched_inputs]
        having = [i for i, t in enumerate(texts) if t]
        images = whole[having]
        embedded = images.detach().new_zeros(0, whole.shape[1])
        if having:
            with torch.no_grad():
                spoken = fitted(self.text_encoder, [texts[i] for i in having])
                embedded = self.text_encoder.encode(spoken, normalize=False).to(images)
        if self.gather != "none":
            images, embedded = gather_with_gradient(images), gather_with_gradient(embedded)
        return image_text_loss(images, embedded, self.temperature) + whole.sum() * 0.0  # all pictures stay in the graph

    def _region_losses(self, regions: Tensor, found: PseudoLabels) -> dict[str, Tensor]:
        kept = regions[found.keep.to(regions.device)]
        share = 1.0
        everyone = found.labels
        if self.gather == "all":
            # a mean over all ranks' regions, of which DistributedDataParallel averages the parts
            sizes = gather_sizes(len(kept), kept.device)
            share = len(sizes) * len(kept) / max(sum(sizes), 1)
            everyone = gather_with_gradient(found.labels)
        losses = {}
        if self.distill_weight > 0:
            logits = cosine_logits(kept, self.concept_embeddings, self.temperature)
            losses["loss_region_distill"] = self.distill_weight * share * distillation_loss(logits, found.probs)
        if self.contrast_weight > 0:
            contrast = concept_contrastive_loss(
                kept, found.labels, self.concept_embeddings, self.temperature, others=everyone
            )
            losses["loss_concept_contrastive"] = self.contrast_weight * share * contrast
        return losses

    # ---- evaluation -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _classify(self, batched_inputs: list[dict]) -> list[dict[str, Instances]]:
        padded = self.preprocess([x["image"] for x in batched_inputs])
        found = self._find(batched_inputs)
        boxes = [p.proposal_boxes.tensor.to(padded) for p in found]
        vectors = self.encode_regions(padded, boxes).split([len(b) for b in boxes])
        return [
            {"instances": self._named(x, b, v)} for x, b, v in zip(batched_inputs, boxes, vectors, strict=True)
        ]

    def _named(self, x: dict, boxes: Tensor, vectors: Tensor) -> Instances:
        vocabulary = x.get("vocabulary") or self.vocabulary
        if vocabulary is None:
            raise VocabularyError("no names to choose from: call set_vocabulary(...), or give each input a 'vocabulary'")
        check_activation(self.text_encoder, self.recipe)
        texts = embed_names(self.text_encoder, Vocabulary.coerce(vocabulary), self.recipe)[0].to(vectors)
        probs = cosine_logits(vectors, texts, self.temperature).softmax(dim=1)
        scores, classes = probs.max(dim=1)
        height, width = x["image"].shape[-2:]
        named = Instances((height, width), pred_boxes=Boxes(boxes.clone()), scores=scores, pred_classes=classes)
        return detector_postprocess(named, x.get("height", height), x.get("width", width))


def _caption(x: dict) -> str:
    """The caption to use: "text", or one drawn from "captions"; "" if there is none."""
    if x.get("text"):
        return x["text"]
    captions = [c for c in x.get("captions") or () if c.strip()]
    return captions[int(torch.randint(len(captions), ()))] if captions else ""


def _check(
    gather: str, frame: str, input_format: str, temperature: float, sample: int | None, weights: tuple[float, ...]
) -> None:
    if gather not in GATHER or frame not in FRAMES or input_format not in ("RGB", "BGR"):
        raise ConfigError(f"gather={gather!r}, global_frame={frame!r} or input_format={input_format!r} is not known")
    if temperature <= 0 or (sample is not None and sample < 1):
        raise ConfigError(f"temperature={temperature} must be above 0 and sample_regions={sample} at least 1, or None")
    if min(weights) < 0 or not any(weights):
        raise ConfigError(f"the loss weights {weights} must be 0 or more, and one above 0")
