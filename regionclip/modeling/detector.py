"""RegionCLIP's transfer detector as a detectron2 meta-architecture (arXiv 2112.09106; microsoft/RegionCLIP)."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import Tensor, nn

from openvocab.errors import ConfigError, DataError, PromptError, VocabularyError
from openvocab.prompting import Caption
from openvocab.text import TextEmbeddings, TextEncoder
from openvocab.vocabulary import Vocabulary

from .names import EmbeddingFile, NameVectors
from .offline_rpn import OfflineProposals
from .roi_heads import RegionCLIPROIHeads

CLIP_MEAN = (122.7709383, 116.7460125, 104.09373615)  # CLIP's own, times 255
CLIP_STD = (68.5005327, 66.6321579, 70.32316305)
REGIONS = ("rpn", "gt")


@META_ARCH_REGISTRY.register()
class RegionCLIP(nn.Module):
    """CLIP's image tower as a detector: regions from a frozen RPN, named by their cosine to text embeddings.

    Children: `backbone`, `roi_heads`, `offline_rpn`. A text encoder, where there is one, is held aside: it is frozen, and neither a
    parameter nor part of the state dict.

    Args:
        backbone: a `ModifiedResNet`, whose last stage and attention pool `roi_heads` borrow; or any, if they have their own.
        roi_heads: a `RegionCLIPROIHeads`.
        offline_rpn: an `OfflineProposals`, or whatever makes `Instances` of pictures as it does; None if every input brings
            "proposals".
        regions: "rpn": the inputs' "proposals", else those of `offline_rpn`; "gt": the ground truth's boxes, never moved (the
            published zero-shot protocol on given boxes).
        text_encoder: frozen; embeds names as they come.
        recipe: of `openvocab.text.RECIPES`; RegionCLIP's own is the mean of 81 raw sentence vectors.
        text_embeddings: a table of names and vectors (or its file, or an `EmbeddingFile`) that is asked before the encoder.
        vocabulary: names to begin with, if an encoder or a table is there.
        test_vocabulary: other names in evaluation (65 after training on 48); of the embeddings for tests that the box predictor
            was built with, or looked up as those of `vocabulary`.
        pixel_mean, pixel_std: per channel, 0-255.
        input_format: channel order of the inputs' "image".

    Raises:
        ConfigError: for an unknown option, or ground-truth boxes together with RPN scores.
        VocabularyError: if the names' vectors do not fit.
    """

    joins_names = False  # each name is embedded on its own: no prompt budget

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        roi_heads: RegionCLIPROIHeads,
        offline_rpn: OfflineProposals | Callable[[Sequence[Tensor]], list[Instances]] | None = None,
        regions: str = "rpn",
        text_encoder: TextEncoder | None = None,
        recipe: str = "regionclip",
        text_embeddings: TextEmbeddings | EmbeddingFile | str | Path | None = None,
        vocabulary: Vocabulary | Sequence[str] | str | None = None,
        test_vocabulary: Vocabulary | Sequence[str] | str | None = None,
        pixel_mean: Sequence[float] = CLIP_MEAN,
        pixel_std: Sequence[float] = CLIP_STD,
        input_format: str = "RGB",
    ) -> None:
        super().__init__()
        if regions not in REGIONS or input_format not in ("RGB", "BGR"):
            raise ConfigError(f"regions='{regions}' must be one of {', '.join(REGIONS)}, input_format='{input_format}' RGB or BGR")
        if max(pixel_std) < 1:
            raise ConfigError(
                f"pixel_std={list(pixel_std)} is of pictures in 0-1, as in official configs; pictures here are in 0-255: multiply "
                "pixel_mean and pixel_std by 255"
            )
        self.backbone, self.roi_heads, self.offline_rpn = backbone, roi_heads.borrow(backbone), offline_rpn
        fusion = roi_heads.box_predictor.postprocessor.score_fusion
        if regions == "gt" and fusion != "none":
            raise ConfigError(
                f"regions='gt' with score_fusion='{fusion}': boxes of the ground truth have no RPN score to multiply with; set "
                "score_fusion='none'"
            )
        self.regions, self.input_format = regions, input_format
        object.__setattr__(self, "text_encoder", text_encoder)  # no submodule: see above
        self.names = NameVectors(text_encoder=text_encoder, recipe=recipe, table=text_embeddings)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.vocabulary: Vocabulary | None = None
        self.test_vocabulary: Vocabulary | None = None
        if text_encoder is not None:
            text_encoder.requires_grad_(False).eval()
        self._begin(vocabulary, test_vocabulary)

    def _begin(self, vocabulary: Vocabulary | None, test_vocabulary: Vocabulary | None) -> None:
        """Set the names to begin with; embeddings for tests that the predictor was built with stay."""
        own = self.roi_heads.box_predictor.test_embeddings
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)
        if test_vocabulary is not None:
            self.set_test_vocabulary(test_vocabulary, own)
        elif own is not None:
            self.roi_heads.box_predictor.set_test_embeddings(own)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read a yaml config that `add_regionclip_config` has prepared."""
        from regionclip.config import regionclip_from_config

        return regionclip_from_config(cfg)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def _apply(self, fn: Callable, recurse: bool = True) -> RegionCLIP:
        if self.text_encoder is not None:
            self.text_encoder._apply(fn)  # to the same device
            self.names.forget()
        return super()._apply(fn)

    def before_load(self, tensors: MutableMapping[str, Tensor], prefix: str) -> None:
        """Take the region layers of a pretrained student (`RegionCLIPPretraining`), which stand at another place there."""
        theirs, ours = f"{prefix}region_features.", f"{prefix}roi_heads.region_features."
        for name in [k for k in tensors if k.startswith(theirs)]:
            tensors[ours + name.removeprefix(theirs)] = tensors.pop(name)

    # ---- names ----------------------------------------------------------------------------------------------------

    def set_vocabulary(self, vocabulary: Vocabulary | Sequence[str] | str, embeddings: Tensor | None = None) -> None:
        """Detect these names from now on: any number of them, at any time.

        Args:
            vocabulary: K names.
            embeddings: their vectors (K, D); None asks the table or the text encoder.

        Raises:
            VocabularyError: if there is no way to the vectors, or they do not fit.
        """
        vocabulary = Vocabulary.coerce(vocabulary)
        self.roi_heads.box_predictor.set_class_embeddings(self._vectors(vocabulary, embeddings))
        self.vocabulary, self.test_vocabulary = vocabulary, None

    def set_class_embeddings(self, embeddings: Tensor) -> None:
        """Tell K nameless classes apart from now on, by their vectors (K, D).

        Raises:
            VocabularyError: if they do not fit.
        """
        self.roi_heads.box_predictor.set_class_embeddings(embeddings)
        self.vocabulary = self.test_vocabulary = None

    def set_test_vocabulary(self, vocabulary: Vocabulary | Sequence[str] | str | None, embeddings: Tensor | None = None) -> None:
        """Detect other names in evaluation than in training (65 after training on 48); None for the same again.

        Raises:
            VocabularyError: as `set_vocabulary`.
        """
        vocabulary = None if vocabulary is None else Vocabulary.coerce(vocabulary)
        self.roi_heads.box_predictor.set_test_embeddings(None if vocabulary is None else self._vectors(vocabulary, embeddings))
        self.test_vocabulary = vocabulary

    def _vectors(self, vocabulary: Vocabulary, given: Tensor | None) -> Tensor:
        """Vectors of K names: those given, or looked up."""
        if given is not None and given.ndim == 2 and len(given) != len(vocabulary):
            raise VocabularyError(f"{len(vocabulary)} names and embeddings of shape {tuple(given.shape)}: give one row a name")
        return self.names(vocabulary) if given is None else given

    def _embeddings(self, x: dict) -> Tensor | None:
        """Vectors of the names that an input brings; None for the model's own."""
        caption, vocabulary = x.get("caption"), _vocabulary_of(x)
        if caption is not None:
            if not isinstance(caption, Caption):
                raise PromptError("'caption' must be an openvocab.prompting.Caption, which says what its phrases are")
            names = tuple(dict.fromkeys(caption.names))
            vectors = self.names(Vocabulary.from_names(names))[[names.index(n) for n in caption.names]]
        elif vocabulary is None or self._knows(vocabulary):
            return None
        else:
            vectors = self.names(vocabulary)
        return self.roi_heads.box_predictor.check_embeddings(vectors)

    def _knows(self, vocabulary: Vocabulary) -> bool:
        """Whether the embeddings in use are those of this vocabulary (nameless ones, without a source of others: if as many)."""
        predictor = self.roi_heads.box_predictor
        tested = predictor.test_embeddings is not None and not self.training
        own = self.test_vocabulary if tested else self.vocabulary
        if own is not None:
            return own.names == vocabulary.names
        return self.names.table is None and self.text_encoder is None and len(vocabulary) == predictor.num_classes

    # ---- pictures -------------------------------------------------------------------------------------------------

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Detect, or in training return the losses.

        Args:
            batched_inputs: a dict a picture: `image` (3, H, W) in `input_format`, 0-255; optional `height`, `width` of the
                original; `proposals` (`proposal_boxes` in pixels of `image`, and `objectness_logits` if scores are fused);
                `vocabulary` or `caption` for this picture; `instances` with `gt_boxes`, `gt_classes` (and `gt_masks`) in training,
                and wherever regions are those of the ground truth.

        Returns:
            in training `loss_cls`, `loss_box_reg` if boxes are regressed, `loss_mask` with a mask head; else
            `[{"instances": Instances}]` in the size (height, width), best first, with `pred_boxes`, `scores`, `pred_classes` (and
            `pred_masks`).

        Raises:
            VocabularyError: without names, or for names without vectors.
            DataError: without boxes to look at, or without ground truth in training.
            PromptError: for a caption that is a bare string.
        """
        if self.training:
            return self._losses(batched_inputs)
        embeddings = {i: e for i, e in enumerate(map(self._embeddings, batched_inputs)) if e is not None}
        features = self.backbone(self.preprocess([x["image"] for x in batched_inputs]))
        proposals = self.propose(batched_inputs)
        regress = False if self.regions == "gt" else None
        found = self.roi_heads.predict(features, proposals, embeddings=embeddings, regress_boxes=regress)
        return [{"instances": _finish(x, f)} for x, f in zip(batched_inputs, found, strict=True)]

    def preprocess(self, images: Sequence[Tensor]) -> Tensor:
        """Normalise, and pad with zeros at the right and the bottom to the largest: (B, 3, H, W)."""
        images = [(x.to(self.device).float() - self.pixel_mean) / self.pixel_std for x in images]
        step = max(getattr(self.backbone, "size_divisibility", 0), 1)
        height, width = (-(-max(x.shape[i] for x in images) // step) * step for i in (1, 2))
        return torch.stack([F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in images])

    def propose(self, batched_inputs: Sequence[dict]) -> list[Instances]:
        """Return the regions to look at: `proposal_boxes`, and `objectness_logits` where there are some.

        Raises:
            DataError: if there is no way to any.
        """
        key = "instances" if self.regions == "gt" else "proposals"
        lacking = [i for i, x in enumerate(batched_inputs) if x.get(key) is None]
        if lacking and (self.regions == "gt" or self.offline_rpn is None):
            cure = "keep the annotations at test time" if self.regions == "gt" else "build the model with an offline_rpn"
            name = batched_inputs[lacking[0]].get("file_name", f"picture {lacking[0]} of the batch")
            raise DataError(f"there are no boxes to look at: {name} brings no '{key}'; {cure}, or give them")
        found = dict(zip(lacking, self.offline_rpn([batched_inputs[i]["image"] for i in lacking]) if lacking else [], strict=True))
        return [found[i] if i in found else self._given(x) for i, x in enumerate(batched_inputs)]

    def _given(self, x: dict) -> Instances:
        if self.regions != "gt":
            return x["proposals"].to(self.device)
        truth = x["instances"].to(self.device)
        regions = Instances(truth.image_size, proposal_boxes=truth.gt_boxes)
        if self.training:
            regions.objectness_logits = torch.ones(len(truth), device=self.device)
        return regions

    def _losses(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        brought = list(dict.fromkeys(v for v in map(_vocabulary_of, batched_inputs) if v is not None))
        if len(brought) > 1:
            raise VocabularyError(f"the pictures of this batch bring {len(brought)} vocabularies; a training batch has one softmax")
        if brought and not self._knows(brought[0]):
            self.set_vocabulary(brought[0])
        if any(x.get("instances") is None for x in batched_inputs):
            raise DataError("in training each input needs 'instances' with gt_boxes and gt_classes")
        targets = [x["instances"].to(self.device) for x in batched_inputs]
        proposals = self.propose(batched_inputs)
        features = self.backbone(self.preprocess([x["image"] for x in batched_inputs]))
        return self.roi_heads(None, features, proposals, targets)[1]


def _vocabulary_of(x: dict) -> Vocabulary | None:
    return None if x.get("vocabulary") is None else Vocabulary.coerce(x["vocabulary"])


def _finish(x: dict, found: Instances) -> Instances:
    height, width = x["image"].shape[-2:]
    return detector_postprocess(found, x.get("height", height), x.get("width", width))
