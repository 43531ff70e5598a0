"""`Bridge`: pictures and words in one space, with no training at all.

ConSE (arXiv 1312.5650): an ImageNet classifier says what a picture looks like; the sentence embeddings of its best class names,
weighted by their probabilities, are the picture's embedding among words. Here EfficientNet-Lite0 and all-MiniLM-L6-v2 do it,
both from PyPI packages. It stands in for CLIP where no CLIP can be had: as a scorer of regions, a teacher, and a prior for names
without boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from openvocab.errors import ConfigError, PromptError, missing
from openvocab.modeling.efficientnet_lite import PIXEL_MEAN, PIXEL_STD, SHA256, lite_state_dict
from openvocab.text import BertTextEncoder, TextEncoder


def imagenet_names() -> list[str]:
    """The 1,000 curated class names of ImageNet-1k, in the order of its class ids."""
    try:
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    except ImportError as error:
        raise missing("open_clip_torch", "clip") from error
    return list(IMAGENET_CLASSNAMES)


class Bridge(nn.Module):
    """An image encoder and a text encoder whose vectors can be compared.

    Letters: N regions, K names, D text width.

    Args:
        backbone: "efficientnet_lite0", or "efficientnet_lite2" if its package is installed.
        text_encoder: sentences to vectors; MiniLM by default.
        topk: classes that make up an embedding (50, as measured in docs/bridge.md).
        template: the sentence around a name, of the classifier's classes and of the user's words alike; "{}" stands for the name.
        image_size: side in pixels to which a region is sampled.
        temperature: of the softmax over names in `score_regions`.

    Raises:
        ConfigError: for a `topk` outside 1..1000, a temperature not above 0, or a template without "{}".
    """

    def __init__(
        self,
        *,
        backbone: str = "efficientnet_lite0",
        text_encoder: TextEncoder | None = None,
        topk: int = 50,
        template: str = "a {}",
        image_size: int = 224,
        temperature: float = 0.05,
    ) -> None:
        super().__init__()
        import timm

        if not 1 <= topk <= 1000 or temperature <= 0:
            raise ConfigError(f"topk={topk} must lie in 1..1000 and temperature={temperature} be above 0")
        if "{}" not in template:
            raise ConfigError(f"template={template!r} needs a {{}} where the name goes")
        self.classifier = timm.create_model(f"tf_{backbone}", pretrained=False)
        self.classifier.load_state_dict(lite_state_dict(backbone))
        self.text_encoder = text_encoder if text_encoder is not None else BertTextEncoder()
        self.topk, self.image_size, self.temperature, self.template = topk, image_size, temperature, template
        self.identity = f"bridge:{backbone}:{SHA256[backbone][:12]}:{self.text_encoder.identity}:{topk}:{template}"
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)
        self.register_buffer("_class_vectors", torch.zeros(0), persistent=False)
        self.register_buffer("_centre", torch.zeros(0), persistent=False)
        self._cached: tuple[tuple[str, ...], Tensor] | None = None
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Bridge:
        """Stays in evaluation mode."""
        return super().train(False)

    @property
    def dim(self) -> int:
        """D."""
        return self.text_encoder.dim

    def _classes(self) -> tuple[Tensor, Tensor]:
        """Centred unit vectors of the 1,000 class names, and the centre; made at first use."""
        if self._class_vectors.numel() == 0:
            raw = self._sentences(imagenet_names()).to(self.pixel_mean.device)
            self._centre = raw.mean(0)
            self._class_vectors = F.normalize(raw - self._centre, dim=-1)
        return self._class_vectors, self._centre

    def _sentences(self, names: Sequence[str]) -> Tensor:
        return self.text_encoder.encode([self.template.replace("{}", name) for name in names])

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors (K, D) of names in the common space: in the template, centred on the ImageNet names, of length 1."""
        _, centre = self._classes()
        return F.normalize(self._sentences(texts).to(centre.device) - centre, dim=-1)

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Embed regions (N, 3, S, S), RGB 0-255: (N, D) of length 1 (ConSE, equation 2)."""
        classes, _ = self._classes()
        x = (pixels.to(self.pixel_mean.device).float() - self.pixel_mean) / self.pixel_std
        rows = [self.classifier(part.contiguous(memory_format=torch.channels_last)).float() for part in x.split(32)]
        prob, index = torch.cat(rows).softmax(-1).topk(self.topk, dim=-1)
        return F.normalize((prob[..., None] * classes[index]).sum(1), dim=-1)

    @torch.no_grad()
    def encode_image(self, images: Sequence[Tensor]) -> Tensor:
        """Embed whole pictures [(3, H, W) uint8 RGB] of any sizes: (N, D)."""
        crops = []
        for image in images:
            box = torch.tensor([[0.0, 0.0, image.shape[2], image.shape[1]]])
            crops.append(self.crop(image, box))
        return self.encode_pixels(torch.cat(crops))

    def crop(self, image: Tensor, boxes: Tensor, context: float = 0.0) -> Tensor:
        """Sample regions of a picture as squares (N, 3, S, S), 0-255.

        The shorter side of a box is widened to the longer, as far as the picture goes; what is not square then is stretched.
        `boxes` (N, 4) XYXY pixels; `context` widens both sides by this share of the longer one.
        """
        image = image.to(self.pixel_mean.device).float()[None]
        boxes = boxes.to(image.device).float()
        half = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1, keepdim=True) * (1 + context) / 2
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        boxes = torch.cat([centre - half, centre + half], dim=1)
        limit = boxes.new_tensor([image.shape[3], image.shape[2]]).repeat(2)
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        # sampling_ratio 0 averages over all pixels of a cell, which is an antialiased resize
        return roi_align(image, [boxes], self.image_size, 1.0, sampling_ratio=0, aligned=True)

    def _names(self, names: Sequence[str]) -> Tensor:
        key = tuple(names)
        if self._cached is None or self._cached[0] != key:
            self._cached = (key, self.encode(names))
        return self._cached[1]

    @torch.no_grad()
    def score_regions(
        self,
        image: Tensor,
        boxes: Tensor,
        names: Sequence[str],
        *,
        negatives: Sequence[str] = (),
        context: float = 0.0,
        temperature: float | None = None,
    ) -> Tensor:
        """Probability of each name for each region.

        Args:
            image: (3, H, W) uint8 RGB.
            boxes: (N, 4) XYXY pixels.
            names: K names.
            negatives: names that compete with them and are then left out; with them a single name has a meaningful probability.
            context: see `crop`.
            temperature: of the softmax over all names; the bridge's own by default.

        Returns:
            (N, K) in 0..1; rows sum to 1 only without negatives.

        Raises:
            PromptError: for no names.
        """
        if isinstance(names, str) or not len(names):
            raise PromptError(f"names={names!r:.40} must be a list with at least one name")
        if len(boxes) == 0:
            return torch.zeros(0, len(names), device=self.pixel_mean.device)
        words = self._names([*names, *negatives])
        similarity = self.encode_pixels(self.crop(image, boxes, context)) @ words.t()
        return (similarity / (temperature or self.temperature)).softmax(-1)[:, : len(names)]
