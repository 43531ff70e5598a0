"""A semantic prior for names the detector saw few or no boxes of (ours, not the papers').

The detector, trained on few boxes, knows *where* things are better than *what* they are. An image-text model that never saw a box
(the `bridge`: an ImageNet classifier and a sentence encoder) knows the names. This part lets it speak on the detector's best boxes,
the louder the fewer boxes of a name the detector was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import batched_nms, nms

from openvocab.errors import ConfigError
from openvocab.vocabulary import Vocabulary, merge

MIN_WEIGHT = 0.1
MIN_SCORE = 0.01


class SemanticPrior(nn.Module):
    """Mix the detector's scores with an image-text model's.

    For a box with objectness o, the detector's score d of a name and the image-text model's probability p of it, the result is
    d^(1 - w) * sqrt(o * p)^w. The weight w = strength / (1 + (n / scale)^2) falls with the number n of boxes of that name in
    training: 0 boxes give `strength`, many give nothing.

    Letters: M boxes, K names.

    Args:
        scorer: has `score_regions(image, boxes, names, negatives=...)`, such as `openvocab.bridge.Bridge`. It is not saved with
            the detector's weights.
        seen: boxes of each name in training; names are compared by their prompts, without case.
        negatives: names that compete for a region beside those that are asked for; without them one name alone would always win.
        generic_name: the word by which the detector learned objectness.
        scale: n at which the prior's weight is halved.
        strength: its weight for names without a box, 0..1.
        top_boxes: most boxes a picture that are looked at (the cost is linear in it).
        nms_threshold: among them.

    Raises:
        ConfigError: for a strength outside 0..1, or `top_boxes` below 1.
    """

    def __init__(
        self,
        *,
        scorer: nn.Module,
        seen: Mapping[str, int] | None = None,
        negatives: Sequence[str] = (),
        generic_name: str = "object",
        scale: float = 30.0,
        strength: float = 1.0,
        top_boxes: int = 20,
        nms_threshold: float = 0.6,
    ) -> None:
        super().__init__()
        if not 0 <= strength <= 1 or top_boxes < 1:
            raise ConfigError(f"strength={strength} must lie in 0..1 and top_boxes={top_boxes} be at least 1")
        object.__setattr__(self, "scorer", scorer)  # no submodule: its weights come from packages, not from checkpoints
        self.seen = {k.casefold(): int(v) for k, v in dict(seen or {}).items()}
        self.negatives = tuple(negatives)
        self.generic_name, self.scale, self.strength = generic_name, scale, strength
        self.top_boxes, self.nms_threshold = top_boxes, nms_threshold

    def _apply(self, fn: Callable, recurse: bool = True) -> SemanticPrior:
        if isinstance(self.scorer, nn.Module):
            self.scorer._apply(fn)  # goes to the same device
        return super()._apply(fn)

    def weights(self, vocabulary: Vocabulary) -> Tensor:
        """Return the weight w of the prior for each name, (K,)."""
        pairs = zip(vocabulary.names, vocabulary.prompts, strict=True)
        counts = [self.seen.get(p.casefold(), self.seen.get(n.casefold(), 0)) for n, p in pairs]
        return self.strength / (1.0 + (torch.tensor(counts, dtype=torch.float32) / self.scale) ** 2)

    def extended(self, vocabulary: Vocabulary) -> Vocabulary:
        """Return the vocabulary with the generic name behind its own, unless that is one of them.

        A vocabulary on which the prior is silent is returned as it is: one more word in the caption moves every score a little.
        """
        if not (self.weights(vocabulary) > MIN_WEIGHT).any():
            return vocabulary
        return _with_name(vocabulary, self.generic_name)

    @torch.no_grad()
    def forward(
        self, image: Tensor, found: Instances, boxes: Tensor, scores: Tensor, vocabulary: Vocabulary, max_detections: int
    ) -> Instances:
        """Correct a picture's detections.

        Args:
            image: (3, H, W) uint8 RGB, the picture the boxes refer to.
            found: the detector's detections; `pred_classes` are positions in `vocabulary`.
            boxes: (M, 4) XYXY pixels, candidates of any overlap.
            scores: (M, P) of the detector for the extended vocabulary, 0..1.
            vocabulary: the K names asked for.
            max_detections: most detections to return.

        Returns:
            detections, best first; `pred_classes` are positions in `vocabulary`.
        """
        weight = self.weights(vocabulary).to(scores.device)
        asked = torch.nonzero(weight > MIN_WEIGHT).flatten()
        if len(asked) == 0 or len(boxes) == 0:
            return found
        objectness = scores.amax(dim=1)  # the generic name is among them
        keep = nms(boxes, objectness, self.nms_threshold)[: self.top_boxes]
        mixed = self._mix(image, boxes[keep], scores[keep][:, asked], objectness[keep], weight[asked], vocabulary, asked)
        box, name = torch.nonzero(mixed > MIN_SCORE, as_tuple=True)
        quiet = torch.where(weight > MIN_WEIGHT, 1 - weight, 1.0)[found.pred_classes]
        all_boxes = torch.cat([found.pred_boxes.tensor, boxes[keep][box]])
        all_scores = torch.cat([found.scores * quiet, mixed[box, name]])
        classes = torch.cat([found.pred_classes, asked[name]])
        best = batched_nms(all_boxes, all_scores, classes, self.nms_threshold)[:max_detections]
        size = tuple(image.shape[-2:])
        return Instances(size, pred_boxes=Boxes(all_boxes[best]), scores=all_scores[best], pred_classes=classes[best])

    def _mix(
        self,
        image: Tensor,
        boxes: Tensor,
        scores: Tensor,
        objectness: Tensor,
        weight: Tensor,
        vocabulary: Vocabulary,
        asked: Tensor,
    ) -> Tensor:
        names = [vocabulary.prompts[i] for i in asked.tolist()]
        taken = {n.casefold() for n in vocabulary.prompts}
        others = [p for i, p in enumerate(vocabulary.prompts) if i not in set(asked.tolist())]
        others += [n for n in self.negatives if n.casefold() not in taken]
        prior = self.scorer.score_regions(image, boxes, names, negatives=others).to(scores)
        return scores.clamp(min=1e-6) ** (1 - weight) * (objectness[:, None] * prior).sqrt().clamp(min=1e-6) ** weight


@lru_cache(maxsize=64)
def _with_name(vocabulary: Vocabulary, name: str) -> Vocabulary:
    """Return the vocabulary and `name`; asked for every picture, so the last few are kept."""
    return merge([vocabulary, Vocabulary.from_names([name], templates=vocabulary.templates)])[0]
