"""RegionCLIP's C4 ROI heads for any detectron2 R-CNN (arXiv 2112.09106; microsoft/RegionCLIP)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import ROIHeads, select_foreground_proposals
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import EventStorage, has_event_storage
from torch import Tensor, nn

from openvocab.errors import ConfigError, VocabularyError

from .region_features import RegionFeatures


@ROI_HEADS_REGISTRY.register()
class RegionCLIPROIHeads(ROIHeads):
    """Regions -> res5 -> attention pool -> cosine to text embeddings; boxes and, if wanted, masks that know no classes.

    The number of classes is that of the predictor's embeddings at the time.

    Args:
        region_features: a `RegionFeatures`, with a res5 of its own, or one that `borrow`s the backbone's.
        box_predictor: a `RegionCLIPOutputLayers`.
        mask_head: detectron2's `MaskRCNNConvUpsampleHead` with `num_classes=1`, on maps after res5; or None.
        batch_size_per_image, positive_fraction, proposal_matcher, proposal_append_gt: of the sampling; see detectron2's `ROIHeads`.

    Raises:
        ConfigError: if region vectors and predictor have different widths.
    """

    @configurable
    def __init__(
        self,
        *,
        region_features: RegionFeatures,
        box_predictor: nn.Module,
        mask_head: nn.Module | None = None,
        batch_size_per_image: int = 512,
        positive_fraction: float = 0.25,
        proposal_matcher: object,
        proposal_append_gt: bool = True,
    ) -> None:
        super().__init__(
            num_classes=0,
            batch_size_per_image=batch_size_per_image,
            positive_fraction=positive_fraction,
            proposal_matcher=proposal_matcher,
            proposal_append_gt=proposal_append_gt,
        )
        self.region_features, self.box_predictor = region_features, box_predictor
        self.mask_on = mask_head is not None
        if self.mask_on:
            self.mask_head = mask_head
        self._check_width()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict:
        """Read a yaml config that `add_regionclip_config` has prepared."""
        from regionclip.config import roi_heads_from_config

        return roi_heads_from_config(cfg, input_shape)

    @property
    def num_classes(self) -> int:
        """K of the embeddings in use."""
        return self.box_predictor.num_classes

    @num_classes.setter
    def num_classes(self, value: int) -> None:
        """ROIHeads sets it once; what counts are the embeddings."""

    def borrow(self, backbone: nn.Module) -> RegionCLIPROIHeads:
        """Run regions through this backbone's layer4 and attention pool, unless there is a res5 already; returns itself.

        Raises:
            ConfigError: if the backbone has none, or sizes do not fit.
        """
        if self.region_features.borrows:
            self.region_features.borrow(backbone)
            self._check_width()
        return self

    def _check_width(self) -> None:
        width = self.region_features.out_channels
        if width is not None and width != self.box_predictor.input_dim:
            raise ConfigError(
                f"region vectors are {width} wide and the box predictor takes {self.box_predictor.input_dim}: set its input_dim "
                f"to {width}"
            )

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Detect, or in training return the losses, as every detectron2 ROI head does.

        Args:
            images: not read.
            features: maps by name, each (B, C, H, W).
            proposals: of each picture: `proposal_boxes` and `objectness_logits`.
            targets: in training: `gt_boxes`, `gt_classes`, and `gt_masks` with a mask head.

        Returns:
            in training [] and `loss_cls`, `loss_box_reg` (and `loss_mask`); else Instances with `pred_boxes`, `scores`,
            `pred_classes` (and `pred_masks`), and {}.

        Raises:
            ConfigError: in training without targets.
            VocabularyError: without names, or for ground truth of more classes than names.
        """
        if not self.training:
            return self.predict(features, proposals), {}
        if targets is None:
            raise ConfigError("in training the inputs need 'instances' with gt_boxes and gt_classes")
        self._check_classes(targets)
        with _storage():
            return [], self._losses(features, self.label_and_sample_proposals(proposals, targets))

    def _check_classes(self, targets: list[Instances]) -> None:
        if not self.num_classes:
            raise VocabularyError("no vocabulary is set: call set_class_embeddings before training")
        highest = max((int(t.gt_classes.max()) for t in targets if len(t)), default=-1)
        if highest >= self.num_classes:
            raise VocabularyError(
                f"the ground truth has class {highest} and the vocabulary {self.num_classes} names (0-{self.num_classes - 1}): set "
                "the embeddings of the data set's classes, in its order"
            )

    def _losses(self, features: Mapping[str, Tensor], sampled: list[Instances]) -> dict[str, Tensor]:
        maps = self.region_features.maps(features, [p.proposal_boxes for p in sampled])
        losses = self.box_predictor.losses(self.box_predictor(self.region_features.vectors(maps)), sampled)
        if self.mask_on:
            foreground, masks = select_foreground_proposals(sampled, self.num_classes)
            losses |= self.mask_head(maps[torch.cat(masks)], foreground)
        return losses

    def predict(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Instances],
        *,
        embeddings: Mapping[int, Tensor] | None = None,
        regress_boxes: bool | None = None,
    ) -> list[Instances]:
        """Detect; see `RegionCLIPOutputLayers.inference` for the options."""
        vectors = self.region_features(features, [p.proposal_boxes for p in proposals])
        found, _ = self.box_predictor.inference(vectors, proposals, embeddings=embeddings, regress_boxes=regress_boxes)
        return self.forward_with_given_boxes(features, found)

    def forward_with_given_boxes(self, features: Mapping[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """Add `pred_masks` (N, 1, M, M), probabilities, to instances with `pred_boxes`, if there is a mask head."""
        if self.mask_on:
            self.mask_head(self.region_features.maps(features, [x.pred_boxes for x in instances]), instances)
        return instances


def _storage() -> AbstractContextManager:
    """Where detectron2's heads write statistics of training: the trainer's storage; in a loop without one, nowhere."""
    return nullcontext() if has_event_storage() else EventStorage()
