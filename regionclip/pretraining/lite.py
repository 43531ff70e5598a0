"""A student for machines without CLIP: EfficientNet-Lite on regions, in the space of the bridge (ours, not the paper's).

As CLIP's ResNet in the C4 form, the network is cut in two: the stem and five stages see the picture once, regions are pooled from
their map, and what is left of the network, its ImageNet classifier included, sees each region. ConSE makes a vector of the
classifier's probabilities, as in the bridge. Before any training the student thus is the image-level model applied to regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes
from torch import Tensor, nn
from torchvision.ops import roi_align

from openvocab.bridge import imagenet_names
from openvocab.errors import ConfigError
from openvocab.modeling.efficientnet_lite import lite_state_dict
from openvocab.text import BertTextEncoder, LanguageFeatures, TextEncoder, TokenBatch
from openvocab.text.base import Pieces

from .concepts import ConceptPool

STAGES_BEFORE = 5  # blocks.0 to blocks.4: stride 16
TEMPLATE = "a {}"  # the sentence around a name, as in the bridge; the recipe "article" puts it around a model's names


class CentredTextEncoder(TextEncoder):
    """A text encoder whose sentence vectors are centred on the names of ImageNet, as the bridge's.

    Texts are taken as they are; `framed` puts names into the template.

    Args:
        encoder: of sentences.
        names: whose mean vector is the centre.
        template: around these names; "{}" stands for one.
    """

    def __init__(self, *, encoder: TextEncoder, names: Sequence[str] | None = None, template: str = TEMPLATE) -> None:
        super().__init__()
        self.encoder, self.dim, self.max_tokens, self.pad_id = encoder, encoder.dim, encoder.max_tokens, encoder.pad_id
        self.template = template
        names = imagenet_names() if names is None else list(names)
        self.register_buffer("centre", encoder.encode(self.framed(names)).mean(0).detach(), persistent=False)
        self.sign(f"centred:{encoder.identity}:{len(names)}:{template}")

    def framed(self, names: Sequence[str]) -> list[str]:
        """Return the sentences that stand for names."""
        return [self.template.replace("{}", name) for name in names]

    def split(self, texts: list[str]) -> list[Pieces]:
        return self.encoder.split(texts)

    def forward(self, tokens: TokenBatch) -> LanguageFeatures:
        return self.encoder(tokens)

    def pool(self, features: LanguageFeatures) -> Tensor:
        """Sentence vectors (B, D): of length 1, less the centre."""
        return F.normalize(self.encoder.pool(features), dim=-1) - self.centre


@lru_cache(maxsize=1)
def bridge_text_encoder() -> CentredTextEncoder:
    """MiniLM in the bridge's space; one for all parts of a config that ask."""
    return CentredTextEncoder(encoder=BertTextEncoder())


def mini_concepts() -> ConceptPool:
    """The pool of `regionclip_mini`: nouns of coco_mini's training captions (twice or more), COCO's 80 names, ImageNet's 1,000.

    The file is what `build_pool(captions, min_count=2, form="both", extra=Vocabulary.builtin("coco").names)` gives.
    """
    return ConceptPool.load(Path(__file__).with_name("coco_mini_nouns.txt")).extended(imagenet_names())


class LiteRegionFeatures(nn.Module):
    """The second half of EfficientNet-Lite0 on pooled regions: boxes to vectors in the space of names.

    v = normalised (softmax(classifier(z)) . class vectors) + projection(z), where z (1280) is the pooled feature; the projection
    starts at zero, so that at the start v is ConSE's.

    It stands in `RegionCLIPPretraining` as the student's, and in `RegionCLIPROIHeads` as the detector's region features.

    Args:
        text_encoder: gives the vectors of the classifier's classes.
        in_feature: map to pool from; of stride 16 with 112 channels.
        pooler_resolution: side of a pooled region; 14 is what a picture of 224 pixels has there.
        sampling_ratio: of ROIAlign; 0 adapts to the region.
        topk: classes that make up a vector, 50 as in the bridge; None: all.
        chunk: regions at a time.
        weights: "package" for ImageNet's, None for random ones.
        names: of the classifier's classes, ImageNet's by default.
        template: around them; "{}" stands for a name.

    Raises:
        ConfigError: for numbers below 1.
    """

    borrows = False  # its layers are its own

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        in_feature: str = "stage3",
        pooler_resolution: int = 14,
        sampling_ratio: int = 2,
        topk: int | None = 50,
        chunk: int = 128,
        weights: str | None = "package",
        names: Sequence[str] | None = None,
        template: str = TEMPLATE,
    ) -> None:
        super().__init__()
        import timm

        if pooler_resolution < 1 or chunk < 1 or (topk is not None and topk < 1) or weights not in (None, "package"):
            raise ConfigError(
                f"pooler_resolution={pooler_resolution}, chunk={chunk}, topk={topk} must be at least 1, weights={weights!r} "
                "'package' or None"
            )
        names = imagenet_names() if names is None else list(names)
        net = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=len(names))
        if weights == "package":
            net.load_state_dict(lite_state_dict("efficientnet_lite0"))
        self.blocks = nn.Sequential(*list(net.blocks)[STAGES_BEFORE:])
        self.conv_head, self.bn2, self.classifier = net.conv_head, net.bn2, net.classifier
        self.projection = nn.Linear(net.num_features, text_encoder.dim)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        sentences = [template.replace("{}", name) for name in names]
        self.register_buffer("class_vectors", text_encoder.encode(sentences).detach().clone())
        self.in_feature, self.pooler_resolution, self.sampling_ratio = in_feature, pooler_resolution, sampling_ratio
        self.topk = None if topk is None else min(topk, len(names))
        self.chunk, self.dim = chunk, text_encoder.dim
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # several times faster on a CPU
        self.train(self.training)

    def train(self, mode: bool = True) -> LiteRegionFeatures:
        """Set the mode; batch norms keep ImageNet's statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    @property
    def out_channels(self) -> int:
        """D."""
        return self.dim

    def forward(self, features: Mapping[str, Tensor], boxes: Sequence[Boxes | Tensor]) -> Tensor:
        """Encode boxes [(N_i, 4)] XYXY pixels of the padded batch: (N, D), not normalised."""
        pooled = self._pooled(features, boxes)
        if not len(pooled):
            return pooled.new_zeros(0, self.dim)
        return torch.cat([self.encode(part) for part in pooled.split(self.chunk)])

    def maps(self, features: Mapping[str, Tensor], boxes: Sequence[Boxes | Tensor]) -> Tensor:
        """Return the maps before the last convolution, (N, 320, S / 2, S / 2); arguments as of `forward`."""
        pooled = self._pooled(features, boxes)
        return torch.cat([self.blocks(part) for part in pooled.split(self.chunk)])

    def _pooled(self, features: Mapping[str, Tensor], boxes: Sequence[Boxes | Tensor]) -> Tensor:
        x, size = features[self.in_feature], self.pooler_resolution
        given = [(b.tensor if isinstance(b, Boxes) else b).to(x.dtype) for b in boxes]
        pooled = roi_align(x, given, size, 1 / 16, self.sampling_ratio, aligned=True)
        return pooled.contiguous(memory_format=torch.channels_last)

    def encode(self, pooled: Tensor) -> Tensor:
        """Encode pooled regions (N, 112, S, S): (N, D)."""
        return self.vectors(self.blocks(pooled.contiguous(memory_format=torch.channels_last)))

    def vectors(self, maps: Tensor) -> Tensor:
        """Encode maps of `maps`: (N, D)."""
        z = self.bn2(self.conv_head(maps)).mean(dim=(2, 3))
        prob = self.classifier(z).float().softmax(dim=-1)
        if self.topk is None:
            vectors = prob @ self.class_vectors
        else:
            best, index = prob.topk(self.topk, dim=-1)
            vectors = torch.zeros_like(prob).scatter(1, index, best) @ self.class_vectors
        return F.normalize(vectors, dim=-1) + self.projection(z).float()
