"""Picture and text in, named boxes out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances

from openvocab.config import ZOO, instantiate, load_config
from openvocab.detections import Detections
from openvocab.errors import ConfigError, PromptError
from openvocab.io import load_into, load_weights
from openvocab.media import as_image
from openvocab.prompting import Caption, build_caption, chunk_names
from openvocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

logger = logging.getLogger(__name__)
Picture = "str | Path | Image | np.ndarray"
DEFAULT_SIZE = (384, 640)


class Predictor:
    """A model ready to be asked.

    Args:
        model: honours the house's model contract (see DESIGN.md), in evaluation mode.
        augmentations: the resize before the network.
        score_threshold: weaker detections are left out.
        max_detections: over all names, when a long vocabulary is asked in several prompts.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        augmentations: Sequence[T.Augmentation],
        score_threshold: float = 0.3,
        max_detections: int = 100,
    ) -> None:
        self.model = model.eval()
        self.augmentations = T.AugmentationList(list(augmentations))
        self.score_threshold, self.max_detections = score_threshold, max_detections
        self.vocabulary: Vocabulary | None = getattr(model, "vocabulary", None)

    def set_vocabulary(self, vocabulary: Vocabulary | Sequence[str] | str) -> None:
        """Look for these names from now on; of any length, at any time."""
        self.vocabulary = Vocabulary.coerce(vocabulary)

    def __call__(self, image: Picture, text: str | Sequence[str] | Vocabulary | Caption | None = None) -> Detections:
        """Detect in one picture.

        Args:
            image: a path, a PIL picture, or (H, W, 3) uint8 RGB.
            text: "cat. remote control.", a list of names, a `Vocabulary`, a `Caption` with phrases, or None for the names set
                before.

        Raises:
            InputError: for a picture that cannot be used.
            VocabularyError: for names that cannot be used, or none at all.
            PromptError: for a text over the token budget.
        """
        return self.batch([image], [text])[0]

    def batch(
        self, images: Sequence[Picture], texts: Sequence[str | Sequence[str] | Vocabulary | Caption | None] | None = None
    ) -> list[Detections]:
        """Detect in several pictures, each with a text of its own."""
        texts = [None] * len(images) if texts is None else texts
        if len(texts) != len(images):
            raise PromptError(f"{len(images)} pictures and {len(texts)} texts: give one text a picture")
        return [self._detect(as_image(i), self._resolve(t)) for i, t in zip(images, texts, strict=True)]

    def ground(self, image: Picture, sentence: str) -> Detections:
        """Find the noun phrases of a sentence; names are the phrases."""
        from openvocab.prompting import noun_phrases

        return self(image, noun_phrases(sentence))

    def _resolve(self, text: object) -> Vocabulary | Caption:
        if text is None:
            if self.vocabulary is None:
                raise PromptError("nothing to look for: pass a text such as 'cat. dog.', or call set_vocabulary first")
            return self.vocabulary
        return text if isinstance(text, Caption) else Vocabulary.coerce(text)

    @torch.inference_mode()
    def _detect(self, pixels: np.ndarray, words: Vocabulary | Caption) -> Detections:
        aug = T.AugInput(pixels)
        self.augmentations(aug)
        resized = aug.image if self.model.input_format == "RGB" else aug.image[:, :, ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        base = {"image": tensor, "height": pixels.shape[0], "width": pixels.shape[1]}
        if isinstance(words, Caption):
            found = self.model([{**base, "caption": words}])[0]["instances"]
        else:
            parts = self._chunks(words)
            found = _merge([self._ask(base, words, part) for part in parts], self.max_detections)
        found = found[found.scores >= self.score_threshold]
        return Detections.from_instances(found, words.names, pixels)

    def _ask(self, base: dict, words: Vocabulary, part: list[int]) -> Instances:
        found = self.model([{**base, "vocabulary": words.subset(part)}])[0]["instances"]
        found.pred_classes = torch.as_tensor(part, device=found.pred_classes.device)[found.pred_classes]
        return found

    def _chunks(self, words: Vocabulary) -> list[list[int]]:
        """Split a vocabulary whose caption is over the token budget; each part is a prompt of its own."""
        encoder = self.model.text_encoder
        budget = encoder.max_tokens - 8  # room for special tokens and a prior's generic name
        if sum(encoder.count_tokens([build_caption(words).text])) <= budget if len(words) < 60 else False:
            return [list(range(len(words)))]
        return chunk_names(words, encoder, max_tokens=budget)


def _merge(parts: list[Instances], most: int) -> Instances:
    found = Instances.cat(parts) if len(parts) > 1 else parts[0]
    return found[found.scores.argsort(descending=True)[:most]]


def test_augmentations(cfg: object) -> list[T.Augmentation]:
    """Return the resize of the config's first test loader; a default with a warning if it has none."""
    for parts in (cfg.get("dataloader", {}).get("test") or {}).values():
        mapper = parts.loader.get("mapper")
        if mapper is not None and mapper.get("augmentations"):
            return [instantiate(a) for a in mapper.augmentations]
    logger.warning("the config says no test size; using a short side of %d, at most %d", *DEFAULT_SIZE)
    return [T.ResizeShortestEdge(DEFAULT_SIZE[0], DEFAULT_SIZE[1])]


def load_predictor(
    name: str = "default",
    *,
    device: str = "auto",
    weights: str | Path | None = None,
    score_threshold: float | None = None,
    overrides: Sequence[str] = (),
) -> Predictor:
    """Return a predictor for a model of the zoo, or for a config.

    Args:
        name: "default", another name of the zoo, or the path or name of a config.
        device: "auto", "cpu", "cuda", "cuda:1".
        weights: a weight file instead of the zoo's.
        score_threshold: weaker detections are left out; 0.3 by default.
        overrides: changes to the config, such as "model.prior=null".

    Raises:
        ConfigError: for an unknown name or device.
        WeightsError: for weights that are missing, unsafe, or of another architecture.
    """
    from openvocab.engine.run import pick_device

    entry = ZOO.get(name.removeprefix("zoo://"))
    cfg = load_config(entry.config if entry else name, overrides)
    if "model" not in cfg:
        raise ConfigError(f"the config '{name}' has no 'model'")
    path = weights if weights is not None else entry.weights_path() if entry else cfg.train.get("init_checkpoint")
    content = load_weights(path) if path else None
    model = instantiate(cfg.model).to(pick_device(device)).eval()
    if content is not None:
        report = load_into(model, content.tensors, min_matched=_least(model))
        logger.info("%s: %s", path, report)
    else:
        logger.warning("the config '%s' names no weights: the model is random", name)
    threshold = 0.3 if score_threshold is None else score_threshold
    return Predictor(model=model, augmentations=test_augmentations(cfg), score_threshold=threshold)


def _least(model: nn.Module) -> int:
    """Tensors that a fitting weight file must at least match: all that train."""
    return sum(p.requires_grad for p in model.parameters())
