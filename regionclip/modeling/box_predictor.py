"""RegionCLIP's box predictor: cosine to text embeddings with a fixed zero background, and class-agnostic boxes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, MutableMapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Instances
from torch import Tensor, nn

from openvocab.errors import ConfigError, VocabularyError, WeightsError

from .losses import box_loss, classification_loss
from .postprocess import RegionPostProcessor

logger = logging.getLogger(__name__)
KEY = "class_embeddings"


class RegionCLIPOutputLayers(nn.Module):
    """Scores of K names and background, and one box, for each region vector (microsoft/RegionCLIP).

    logits = cos(x, class embedding) / T, with a constant 0 for background (its embedding is zero); box deltas are a linear function
    of x itself, not normalised, the same for all names.

    `class_embeddings` (K, D) is a buffer, kept as given (normalised at every use) and saved with the weights. It changes at any
    time, to any K. Embeddings that were set win over those of a weight file that is loaded later; if none were, the file's count.

    Args:
        input_dim: D.
        postprocessor: chooses detections in evaluation.
        embeddings: (K, D); None until `set_class_embeddings` or a weight file.
        temperature: T, 0.01 in the paper.
        box2box_transform: detectron2's, weights (10, 10, 5, 5).
        regress_boxes: False keeps proposals as they are (zero-shot inference); the regression is then frozen and has no loss.
        focal_gamma, background_weight: see `classification_loss`.
        smooth_l1_beta: 0 for L1.

    Raises:
        ConfigError: for a temperature not above 0.
        VocabularyError: for embeddings that do not fit.
    """

    def __init__(
        self,
        *,
        input_dim: int,
        postprocessor: RegionPostProcessor,
        embeddings: Tensor | None = None,
        temperature: float = 0.01,
        box2box_transform: Box2BoxTransform | None = None,
        regress_boxes: bool = True,
        focal_gamma: float | None = None,
        background_weight: float | None = None,
        smooth_l1_beta: float = 0.0,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ConfigError(f"temperature={temperature} must be above 0")
        self.input_dim, self.temperature, self.postprocessor = int(input_dim), float(temperature), postprocessor
        self.box2box_transform = box2box_transform or Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
        self.regress_boxes, self.focal_gamma, self.background_weight = regress_boxes, focal_gamma, background_weight
        self.smooth_l1_beta = smooth_l1_beta
        self.register_buffer(KEY, torch.zeros(0, self.input_dim))
        self.register_buffer("test_embeddings", None, persistent=False)
        self._were_set = False
        self.bbox_pred = nn.Linear(self.input_dim, 4)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.bbox_pred.bias)
        self.bbox_pred.requires_grad_(regress_boxes)
        if embeddings is not None:
            self.set_class_embeddings(embeddings)

    # ---- names ----------------------------------------------------------------------------------------------------

    @property
    def embeddings(self) -> Tensor:
        """Those in use (K, D): in evaluation `test_embeddings`, where set; else `class_embeddings`."""
        return self.class_embeddings if self.training or self.test_embeddings is None else self.test_embeddings

    @property
    def num_classes(self) -> int:
        """K of the embeddings in use."""
        return len(self.embeddings)

    def check_embeddings(self, embeddings: Tensor) -> Tensor:
        """Return embeddings as this module keeps them, float32 on its device.

        Raises:
            VocabularyError: if they are not (K >= 1, D), or a row is zero or not finite.
        """
        shape = tuple(embeddings.shape)
        if len(shape) == 1:
            raise VocabularyError(
                f"embeddings of shape {shape} do not fit: one name's vector must keep two axes, (1, {self.input_dim})"
            )
        if len(shape) != 2 or not shape[0]:
            raise VocabularyError(f"embeddings of shape {shape} do not fit; expected (names, {self.input_dim})")
        if shape[1] != self.input_dim:
            raise VocabularyError(
                f"embeddings of shape {shape} do not fit: they are {shape[1]} wide and this model's regions {self.input_dim}; "
                "take those of the CLIP that the backbone comes from (RN50: 1024, RN101: 512, RN50x4: 640)"
            )
        norms = embeddings.float().norm(dim=1)
        bad = torch.nonzero(~torch.isfinite(norms) | (norms == 0)).flatten().tolist()
        if bad:
            raise VocabularyError(f"embedding rows {bad[:5]} are zero or not finite")
        return embeddings.detach().to(self.class_embeddings.device, torch.float32).clone()

    def set_class_embeddings(self, embeddings: Tensor) -> None:
        """Tell these K names apart from now on, in training and evaluation: (K, D), of any length.

        Raises:
            VocabularyError: see `check_embeddings`.
        """
        self.class_embeddings = self.check_embeddings(embeddings)
        self.test_embeddings, self._were_set = None, True

    def set_test_embeddings(self, embeddings: Tensor | None) -> None:
        """Use other names (K', D) in evaluation than in training; None for the same again. They are not saved.

        Raises:
            VocabularyError: see `check_embeddings`.
        """
        self.test_embeddings = None if embeddings is None else self.check_embeddings(embeddings)

    def before_load(self, tensors: MutableMapping[str, Tensor], prefix: str) -> Callable[[], None] | None:
        """Make room for a weight file's embeddings, or put the ones that were set in their place (see `openvocab.io.load_into`).

        Returns:
            what undoes it, should the load fail.

        Raises:
            WeightsError: if the file's are of another width.
        """
        given, own = tensors.get(prefix + KEY), self.class_embeddings
        if given is None:
            return None
        if self._were_set:
            if given.shape != own.shape or not torch.equal(given.to(own), own):
                logger.info("the file's embeddings of %d names are not taken: %d names were set", len(given), self.num_classes)
            tensors[prefix + KEY] = own.clone()
            return None
        if given.ndim != 2 or given.shape[1] != self.input_dim:
            raise WeightsError(
                f"'{prefix}{KEY}' has the shape {tuple(given.shape)} and this model takes (names, {self.input_dim}): the "
                "file is of another CLIP"
            )
        self.class_embeddings = own.new_zeros(given.shape)
        return lambda: setattr(self, KEY, own)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        self.before_load(state_dict, prefix)  # plain load_state_dict
        super()._load_from_state_dict(state_dict, prefix, *args)

    # ---- regions --------------------------------------------------------------------------------------------------

    def classify(self, x: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Return logits (N, K + 1) of region vectors (N, D), background last; `embeddings` (K, D) instead of those in use.

        Raises:
            VocabularyError: if there are no names.
        """
        text = self.embeddings if embeddings is None else embeddings
        if not len(text):
            raise VocabularyError("no vocabulary is set: call set_class_embeddings first, or load weights that have one")
        logits = F.normalize(x.float(), dim=-1) @ F.normalize(text.float(), dim=-1).t() / self.temperature
        return F.pad(logits, (0, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, K + 1) and box deltas (N, 4) of region vectors (N, D)."""
        x = x.flatten(1)
        return self.classify(x), self.bbox_pred(x).float()

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: Sequence[Instances]) -> dict[str, Tensor]:
        """Return `loss_cls` and, if boxes are regressed, `loss_box_reg`.

        Args:
            predictions: of `forward`.
            proposals: sampled, with `proposal_boxes`, `gt_classes` (K for background) and, unless a picture is without
                ground truth, `gt_boxes`.
        """
        logits, deltas = predictions
        labels = torch.cat([p.gt_classes for p in proposals])
        boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
        truth = torch.cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals])
        background = logits.shape[1] - 1
        loss = classification_loss(logits, labels, focal_gamma=self.focal_gamma, background_weight=self.background_weight)
        if not self.regress_boxes:
            return {"loss_cls": loss}
        targets = torch.zeros_like(boxes)
        rows = torch.nonzero((labels >= 0) & (labels < background)).flatten()
        targets[rows] = self.box2box_transform.get_deltas(boxes[rows], truth[rows]).to(targets)
        boxed = box_loss(deltas, targets, labels, background=background, beta=self.smooth_l1_beta)
        return {"loss_cls": loss, "loss_box_reg": boxed}

    def inference(
        self,
        x: Tensor,
        proposals: Sequence[Instances],
        *,
        embeddings: Mapping[int, Tensor] | None = None,
        regress_boxes: bool | None = None,
    ) -> tuple[list[Instances], list[Tensor]]:
        """Detect.

        Args:
            x: region vectors (N, D), pictures one after the other.
            proposals: of each picture: `proposal_boxes`, and `objectness_logits` if scores are fused.
            embeddings: (K', D) of pictures (by their place) that have names of their own.
            regress_boxes: instead of the model's own setting.

        Returns:
            of each picture the detections, and the proposal of each.
        """
        regress = self.regress_boxes if regress_boxes is None else regress_boxes
        found, rows = [], []
        for i, (part, p) in enumerate(zip(x.split([len(p) for p in proposals]), proposals, strict=True)):
            boxes = p.proposal_boxes.tensor.float()
            if regress:
                boxes = self.box2box_transform.apply_deltas(self.bbox_pred(part).float(), boxes)
            probs = self.classify(part, (embeddings or {}).get(i)).softmax(dim=-1)
            objectness = p.objectness_logits if p.has("objectness_logits") else None
            chosen, kept = self.postprocessor(boxes, probs, objectness, p.image_size)
            found.append(chosen)
            rows.append(kept)
        return found, rows
