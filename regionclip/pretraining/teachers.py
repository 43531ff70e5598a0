"""Teachers: what says which concept a region shows. All give logits (N, C) over the concept pool, never vectors.

So a teacher may be any model: CLIP itself (paper), the bridge, or labels. See `model.RegionTeacher`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor, nn

from openvocab.bridge import Bridge
from openvocab.errors import ConfigError, DataError, VocabularyError
from openvocab.io import load_into, load_weights
from openvocab.text import load_text_embeddings

from .concepts import ConceptPool
from .losses import cosine_logits

VECTORS = "teacher_vectors"


class WithWeights(nn.Module):
    """A frozen network that reads its weights when it is first used, so that a config can be built, and its student evaluated,
    without them.

    Args:
        network: called with whatever this is called with.
        weights: a file in our names, see `tools/convert_weights.py`.
        prefix: of the network's names in the file, such as "offline_rpn.".
    """

    def __init__(self, *, network: nn.Module, weights: str | Path, prefix: str = "") -> None:
        super().__init__()
        self.network, self.weights, self.prefix, self.loaded = network, weights, prefix, False
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> WithWeights:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, *args: object) -> object:
        """Load the weights if that is still to be done, and run the network.

        Raises:
            WeightsError: if the file is missing, or not of this network.
        """
        if not self.loaded:
            fill(self.network, self.weights, self.prefix)
            self.loaded = True
        with torch.no_grad():
            return self.network(*args)


def fill(network: nn.Module, weights: str | Path, prefix: str) -> None:
    """Load the part of a file under a prefix into a network; all of it must be there.

    Raises:
        WeightsError: if the file is missing, or not of this network.
    """
    tensors = {k: v for k, v in load_weights(weights).tensors.items() if k.startswith(prefix)}
    load_into(network, tensors, prefix=prefix, strict=True)


def read_embeddings(value: Tensor | str | Path, dim: int | None = None) -> Tensor:
    """Return concept embeddings (C, D), from a file if need be.

    Raises:
        ConfigError: for another shape.
        WeightsError, VocabularyError: for a file that cannot be used, or is of another width.
    """
    found = value if isinstance(value, Tensor) else load_text_embeddings(value, dim=dim).vectors
    if found.ndim != 2 or not len(found) or (dim is not None and found.shape[1] != dim):
        raise ConfigError(
            f"concept embeddings of shape {tuple(found.shape)} are not (concepts, {dim or 'width'}), as wide as the texts of the "
            "model: they are of another CLIP"
        )
    return found.detach().float().clone()


class CLIPTeacher(nn.Module):
    """An image-text model that encodes regions as the student does: the paper's teacher.

    Args:
        backbone: pictures (B, 3, H, W) to a dict of maps, such as CLIP's `ModifiedResNet`.
        region_features: (maps, boxes) to (N, D).
        concept_embeddings: (C, D) of its own text tower, or a file of them that is read at the first use; the same concepts as
            the student's, in the same order.
        weights: a file with "backbone.*", read at the first use; None: the backbone has its weights.
        temperature: T.
        pixel_mean, pixel_std: per channel, 0-255.

    Raises:
        ConfigError: for embeddings that are not (C, D).
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        region_features: nn.Module,
        concept_embeddings: Tensor | str | Path,
        weights: str | Path | None = None,
        temperature: float = 0.01,
        pixel_mean: Sequence[float] = (122.7709383, 116.7460125, 104.09373615),
        pixel_std: Sequence[float] = (68.5005327, 66.6321579, 70.32316305),
    ) -> None:
        super().__init__()
        if getattr(region_features, "borrows", False):
            region_features.borrow(backbone)
        self.backbone, self.region_features, self.temperature = backbone, region_features, float(temperature)
        self._to_read: tuple[str | Path | None, str | Path | None] = (weights, None)
        given = concept_embeddings
        if not isinstance(given, Tensor):
            self._to_read, given = (weights, given), torch.zeros(1, 1)
        self.register_buffer("concept_embeddings", read_embeddings(given), persistent=False)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> CLIPTeacher:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def region_logits(self, images: Sequence[Tensor], proposals: Sequence[Instances]) -> Tensor:
        """See `RegionTeacher`."""
        self._read()
        images = [(x.to(self.pixel_mean.device).float() - self.pixel_mean) / self.pixel_std for x in images]
        step = max(getattr(self.backbone, "size_divisibility", 0), 1)
        height, width = (-(-max(x.shape[i] for x in images) // step) * step for i in (1, 2))
        padded = torch.stack([F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in images])
        boxes = [p.proposal_boxes.tensor.to(padded) for p in proposals]
        return cosine_logits(self.region_features(self.backbone(padded), boxes), self.concept_embeddings, self.temperature)


    def _read(self) -> None:
        """Read the files that are still to be read."""
        weights, embeddings = self._to_read
        if weights is not None:
            fill(self.backbone, weights, "backbone.")
        if embeddings is not None:
            self.concept_embeddings = read_embeddings(embeddings).to(self.pixel_mean.device)
        self._to_read = (None, None)


class BridgeTeacher(nn.Module):
    """The bridge on cut-out regions: ConSE vectors against the names of the concepts.

    Its whole distribution over the pool is what is distilled; a projection fitted on its vectors of some classes alone forgets
    all others.

    Args:
        bridge: an `openvocab.bridge.Bridge`.
        concepts: C names.
        temperature: T; the bridge's own by default.
        context: see `Bridge.crop`.
    """

    def __init__(
        self, *, bridge: Bridge, concepts: ConceptPool, temperature: float | None = None, context: float = 0.0
    ) -> None:
        super().__init__()
        self.bridge, self.context = bridge, context
        self.temperature = float(temperature if temperature is not None else bridge.temperature)
        if self.temperature <= 0:
            raise ConfigError(f"temperature={temperature} must be above 0")
        self.register_buffer("words", bridge.encode(list(concepts.names)), persistent=False)
        self.requires_grad_(False)

    @torch.no_grad()
    def vectors(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Encode regions (N, 4) of one picture (3, H, W) RGB 0-255: (N, D) of length 1."""
        if not len(boxes):
            return self.words.new_zeros(0, self.words.shape[1])
        return self.bridge.encode_pixels(self.bridge.crop(image, boxes, self.context))

    @torch.no_grad()
    def region_logits(self, images: Sequence[Tensor], proposals: Sequence[Instances]) -> Tensor:
        """See `RegionTeacher`. Proposals that bring "teacher_vectors" (N, D) (`cache_proposals`) are not looked at again."""
        rows = [
            p.get(VECTORS).to(self.words) if p.has(VECTORS) else self.vectors(x, p.proposal_boxes.tensor)
            for x, p in zip(images, proposals, strict=True)
        ]
        return torch.cat(rows) @ self.words.t() / self.temperature


class LabelTeacher:
    """The truth as a teacher, to measure what pseudo labels cost: boxes with "gt_classes" (`PairMapper(given="annotations")`).

    Args:
        names: of the classes, in order of their ids.
        concepts: the pool; it must have all of them.
        certainty: logit of the right concept over all others.

    Raises:
        VocabularyError: for a name that is not in the pool.
    """

    def __init__(self, *, names: Sequence[str], concepts: ConceptPool, certainty: float = 20.0) -> None:
        places = {n.casefold(): i for i, n in enumerate(concepts.names)}
        lacking = [n for n in names if n.casefold() not in places]
        if lacking:
            raise VocabularyError(f"the pool lacks {lacking[:5]}; build it with extra=names")
        self.table = torch.tensor([places[n.casefold()] for n in names])
        self.count, self.certainty = len(concepts), float(certainty)

    def region_logits(self, images: Sequence[Tensor], proposals: Sequence[Instances]) -> Tensor:
        """See `RegionTeacher`.

        Raises:
            DataError: for proposals without "gt_classes".
        """
        if not all(p.has("gt_classes") for p in proposals):
            raise DataError("LabelTeacher needs proposals with gt_classes: PairMapper(given='annotations')")
        classes = torch.cat([p.gt_classes for p in proposals])
        return F.one_hot(self.table.to(classes.device)[classes], self.count).float() * self.certainty
