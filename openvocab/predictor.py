"""Picture and text in, named boxes out."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances

from openvocab.config import ZOO, ZooEntry, instantiate, load_config
from openvocab.detections import Detections
from openvocab.errors import ConfigError, InputError, PromptError, VocabularyError, WeightsError, nearest
from openvocab.io import WeightFile, load_into, load_weights
from openvocab.media import ImageLike, to_rgb
from openvocab.modeling.plug import set_class_embeddings
from openvocab.prompting import Caption, chunk_names, noun_phrases
from openvocab.speaking import Speaker
from openvocab.text import TextEmbeddings, load_text_embeddings
from openvocab.text.identity import check_encoder
from openvocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import nn

    from openvocab.regions import RegionClassifier

logger = logging.getLogger(__name__)

Text = str | Sequence[str] | Vocabulary | Caption | None
DEFAULT_SIZE = (384, 640)
DEFAULT_THRESHOLD = 0.3
RESERVED_TOKENS = 8  # of a prompt's budget, for what a model may add to it, such as a prior's generic name
REMEMBERED_PLANS = 16


class Predictor(Speaker):
    """A detector ready to be asked.

    The model encodes a vocabulary's text once and keeps it; the predictor keeps only how a long vocabulary was cut into prompts.
    Each part of a long vocabulary is a run of its own over the picture, unless the model cuts vocabularies itself (`name_chunks`)
    and shares between the parts what needs no words.

    Args:
        model: takes detectron2's list of dicts, a picture's with "vocabulary" or "caption", and returns
            `[{"instances": Instances}]` with `pred_boxes`, `scores`, `pred_classes`. It is put into evaluation mode.
        augmentations: the resize before the network.
        score_threshold: weaker detections are left out.
        max_detections: most detections a picture where a vocabulary is asked in several prompts; else the model's own limit.
        vocabulary: names to look for when a call brings no text; by default the model's own.
        embed: names to text embeddings (K, D), for a model that has no text encoder and takes class embeddings
            (`set_class_embeddings`, or a `SimilarityClassifier` in a stock head): `TextEmbeddings.select` looks them up in a file.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        augmentations: Sequence[T.Augmentation | T.Transform],
        score_threshold: float = DEFAULT_THRESHOLD,
        max_detections: int = 100,
        vocabulary: Vocabulary | None = None,
        embed: Callable[[Vocabulary], torch.Tensor] | None = None,
    ) -> None:
        if not 0 <= score_threshold <= 1:
            raise ConfigError(f"score_threshold={score_threshold} must lie between 0 and 1")
        self.model = model.eval()
        self.augmentations = T.AugmentationList(list(augmentations))
        self.score_threshold, self.max_detections = float(score_threshold), int(max_detections)
        self.vocabulary = vocabulary if vocabulary is not None else getattr(model, "vocabulary", None)
        self.embed = embed
        self.dataset: str | None = None
        self._plans: OrderedDict[Vocabulary, list[list[int]]] = OrderedDict()

    def set_vocabulary(self, vocabulary: Vocabulary | Sequence[str] | str) -> None:
        """Look for these names from now on; any number of them, at any time.

        Raises:
            VocabularyError: for names that cannot be used.
            PromptError: if one name alone is over the text encoder's token budget.
        """
        vocabulary = Vocabulary.coerce(vocabulary)
        if self.embed is not None:
            self.embed(vocabulary)
        self._parts(vocabulary)
        self.vocabulary = vocabulary

    def set_dataset(self, name: str | None) -> None:
        """Look as a data set that the model knows does, from now on: for its names, unless a call brings others, with its boxes.

        Args:
            name: of the data set; None: of none, with the names as they are.

        Raises:
            ConfigError: for a model that knows no data sets.
            DataError: for one that it does not know.
        """
        if name is not None:
            find = getattr(self.model, "vocabulary_of", None)
            if not callable(find):
                raise ConfigError(f"this {type(self.model).__name__} knows no data sets, so it cannot look as '{name}' does")
            self.set_vocabulary(find(name))
        self.dataset = name

    def __call__(self, image: ImageLike, text: Text = None) -> Detections:
        """Detect in one picture.

        Args:
            image: a path, a PIL picture, or (H, W, 3) uint8 RGB (also grey or RGBA).
            text: "cat. remote control.", a list of names, a `Vocabulary`, a `Caption` with phrases, or None for the names of
                `set_vocabulary`.

        Returns:
            boxes in pixels of the picture, best first.

        Raises:
            InputError: for a picture that cannot be used.
            VocabularyError: for names that cannot be used, or none at all.
            PromptError: for a text over the token budget.
        """
        return self.batch([image], [text])[0]

    def ground(self, image: ImageLike, sentence: str) -> Detections:
        """Find the noun phrases of a sentence: "a man with a red umbrella" gives boxes named "a man" and "a red umbrella".

        `spans(i)` of the result says where in the sentence the phrase of detection i stands.

        Raises:
            InputError, PromptError: as above, or if the sentence has no noun phrase.
        """
        return self(image, noun_phrases(sentence))

    def batch(
        self, images: Sequence[ImageLike], texts: str | Vocabulary | Sequence[Text] | None = None, *, batch_size: int = 4
    ) -> list[Detections]:
        """Detect in several pictures.

        Args:
            images: B pictures.
            texts: one text for all (a caption or a `Vocabulary`), or a list of B texts, one a picture.
            batch_size: pictures that go through the network together.

        Raises:
            PromptError: if the list has another length than B; else as for one picture.
        """
        if texts is None or isinstance(texts, (str, Vocabulary, Caption)):
            texts = [texts] * len(images)
        if len(texts) != len(images):
            raise PromptError(f"{len(images)} pictures and {len(texts)} texts: give one text a picture, or one Vocabulary")
        words = [self._words(text) for text in texts]
        results: list[Detections] = []
        for start in range(0, len(images), max(batch_size, 1)):
            part = slice(start, start + max(batch_size, 1))
            results += self._run([to_rgb(i) for i in images[part]], words[part])
        return results

    # ---- inside ---------------------------------------------------------------------------------------------------

    def _words(self, text: Text) -> Vocabulary | Caption:
        if text is None:
            if self.vocabulary is None:
                raise VocabularyError("nothing to look for: pass a text such as 'cat. dog.', or call set_vocabulary first")
            return self.vocabulary
        if not isinstance(text, (Caption, Vocabulary, Sequence)):
            raise VocabularyError(f"a text must be a caption such as 'cat. dog.' or a list of names, not a {type(text).__name__}")
        return text if isinstance(text, Caption) else Vocabulary.coerce(text)

    def _parts(self, words: Vocabulary) -> list[list[int]]:
        """Places of the names of each prompt; several prompts where one would be over the text encoder's budget.

        A model that says `joins_names = False` embeds each name on its own: then there is no budget to keep.
        """
        if hasattr(self.model, "name_chunks"):
            return self.model.name_chunks(words)
        encoder = getattr(self.model, "text_encoder", None)
        if encoder is None or not getattr(self.model, "joins_names", True):
            return [list(range(len(words)))]
        if words not in self._plans:
            budget, separator = max(encoder.max_tokens - RESERVED_TOKENS, 1), getattr(self.model, "separator", ". ")
            self._plans[words] = chunk_names(words, encoder, max_tokens=budget, separator=separator)
            while len(self._plans) > REMEMBERED_PLANS:
                self._plans.popitem(last=False)
        return self._plans[words]

    def _input(self, pixels: np.ndarray) -> dict:
        """A model input without words, for (H, W, 3) RGB."""
        height, width = pixels.shape[:2]
        aug = T.AugInput(pixels)
        try:
            self.augmentations(aug)
        except ValueError as error:
            raise InputError(f"a picture of {width} x {height} pixels is too narrow for this model's resize: {error}") from error
        resized = aug.image if getattr(self.model, "input_format", "RGB") == "RGB" else aug.image[:, :, ::-1]
        image = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        whose = {} if self.dataset is None else {"dataset": self.dataset}
        return {"image": image, "height": height, "width": width, **whose}

    def _run_embedded(self, pictures: list[np.ndarray], words: list[Vocabulary | Caption]) -> list[Detections]:
        """Set the class embeddings of each vocabulary, and run its pictures together."""
        caption = next((w for w in words if isinstance(w, Caption)), None)
        if caption is not None:
            raise PromptError(f"this model compares regions with names and reads no sentence; pass names, not '{caption.text}'")
        results: dict[int, Detections] = {}
        for text in dict.fromkeys(words):
            places = [i for i, w in enumerate(words) if w == text]
            give_embeddings(self.model, self.embed(text))
            for i, output in zip(places, self.model([self._input(pictures[i]) for i in places]), strict=True):
                results[i] = self._finish(pictures[i], text, [output["instances"].to("cpu")])
        return [results[i] for i in range(len(pictures))]

    @torch.no_grad()
    def _run(self, pictures: list[np.ndarray], words: list[Vocabulary | Caption]) -> list[Detections]:
        if self.embed is not None:
            return self._run_embedded(pictures, words)
        asked: list[tuple[int, list[int] | None, dict]] = []
        for i, (pixels, text) in enumerate(zip(pictures, words, strict=True)):
            base = self._input(pixels)
            if isinstance(text, Caption):
                asked.append((i, None, {**base, "caption": text}))
                continue
            parts = self._parts(text)
            if len(parts) == 1 or hasattr(self.model, "name_chunks"):
                asked.append((i, None, {**base, "vocabulary": text}))
            else:
                asked += [(i, part, {**base, "vocabulary": text.subset(part)}) for part in parts]
        found: list[list[Instances]] = [[] for _ in pictures]
        for start in range(0, len(asked), len(pictures)):
            group = asked[start : start + len(pictures)]
            for (i, part, _), output in zip(group, self.model([x for _, _, x in group]), strict=True):
                found[i].append(_replaced(output["instances"].to("cpu"), part))
        return [self._finish(*row) for row in zip(pictures, words, found, strict=True)]

    def _finish(self, pixels: np.ndarray, words: Vocabulary | Caption, parts: list[Instances]) -> Detections:
        found = parts[0] if len(parts) == 1 else Instances.cat(parts)
        if isinstance(words, Vocabulary) and len(self._parts(words)) > 1:
            found = found[found.scores.argsort(descending=True, stable=True)[: self.max_detections]]
        found = found[found.scores >= self.score_threshold]
        extra = {"caption": words.text, "phrases": words.phrases} if isinstance(words, Caption) else {}
        return Detections.from_instances(found, words.names, image=pixels, **extra)


def _replaced(found: Instances, part: list[int] | None) -> Instances:
    """Turn places in a part of a vocabulary into places in the whole."""
    if part is not None:
        found.pred_classes = torch.as_tensor(part)[found.pred_classes]
    return found


def give_embeddings(model: nn.Module, embeddings: torch.Tensor) -> None:
    """Set class embeddings (K, D): by the model's own `set_class_embeddings`, else those of its similarity classifiers.

    Raises:
        VocabularyError: if they do not fit, or the model has no place for them.
    """
    own = getattr(model, "set_class_embeddings", None)
    if callable(own):
        own(embeddings)
    else:
        set_class_embeddings(model, embeddings)


def resize_of(cfg: DictConfig, dataset: str | None = None) -> list[T.Augmentation | T.Transform]:
    """Return the resize of the config's test loader of `dataset`, else of its first; a default, with a warning, if it has none."""
    tests = cfg.get("dataloader", {}).get("test") or {}
    named = hasattr(tests, "values")
    own = [tests[dataset]] if named and dataset is not None and dataset in tests else []
    for entry in [*own, *(tests.values() if named else tests)]:
        mapper = (entry.get("loader") or {}).get("mapper")
        if mapper is not None and mapper.get("augmentations"):
            return [instantiate(a) for a in mapper.augmentations]
    logger.warning("the config says no test size; using a short side of %d px, at most %d", *DEFAULT_SIZE)
    return [T.ResizeShortestEdge(*DEFAULT_SIZE)]


def choose_device(name: str) -> torch.device:
    """Return the device "auto" (CUDA where there is some, else the CPU), "cpu", "cuda" or "cuda:1".

    Raises:
        ConfigError: if there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"there is no device '{name}' on this machine; use 'cpu' or 'auto'") from error
    return device


def load_predictor(
    name: str | Path = "default",
    *,
    device: str = "auto",
    weights: str | Path | None = None,
    score_threshold: float | None = None,
    overrides: Sequence[str] = (),
    embeddings: str | Path | TextEmbeddings | None = None,
    dataset: str | None = None,
) -> Predictor | RegionClassifier:
    """Return a predictor for a model of the zoo, or for a config.

    Args:
        name: "default"; "bridge" (names regions, finds none: see `RegionClassifier`); or the path or name of a config.
        device: "auto", "cpu", "cuda", "cuda:1".
        weights: a weight file instead of the zoo's; for a config, instead of its `train.init_checkpoint`.
        score_threshold: weaker detections are left out; 0.3 by default. 0 keeps all that the model returns.
        overrides: changes to the config, such as "model.prior=null".
        embeddings: text embeddings with their names (see `openvocab.text.load_text_embeddings`), for a model that takes class
            embeddings and has no text encoder of its own; these names and no others can then be asked for.
        dataset: one that the model knows, from its config or its weights, and its test size; see `Predictor.set_dataset`.

    Raises:
        ConfigError: for an unknown name, device or override.
        WeightsError: for weights that are missing, unsafe, or of another architecture.
        VocabularyError: for embeddings of another width, or that do not know their names.
        DataError: for a data set that the model does not know.
    """
    where, name = choose_device(device), str(name).removeprefix("zoo://")
    table = load_text_embeddings(embeddings) if isinstance(embeddings, (str, Path)) else embeddings
    if name == "bridge":
        if table is not None or dataset is not None:
            raise ConfigError("'bridge' has a text encoder of its own and knows no data sets; it takes no embeddings or dataset")
        from openvocab.regions import load_bridge

        return load_bridge(device=where, weights=weights, score_threshold=score_threshold, overrides=overrides)
    entry = ZOO.get(name)
    cfg = load_config(entry.config if entry else _known(name), overrides)
    if "model" not in cfg:
        raise ConfigError(f"the config '{name}' has no 'model'")
    if weights is None:
        weights = entry.weights_path() if entry else cfg.get("train", {}).get("init_checkpoint")
    content = load_weights(weights) if weights else None
    model = instantiate(cfg.model).to(where).eval()
    if content is not None:
        _fill(model, content, str(weights))
    elif any(p.requires_grad for p in model.parameters()):
        logger.warning("the config '%s' names no weights, so its model is random; pass weights=PATH", name)
    predictor = Predictor(
        model=model,
        augmentations=resize_of(cfg, dataset),
        score_threshold=DEFAULT_THRESHOLD if score_threshold is None else score_threshold,
        vocabulary=_vocabulary_of(content, entry) if table is None else table.vocabulary,
        embed=None if table is None else table.select,
    )
    if table is not None:
        give_embeddings(model, table.vectors)  # a width that does not fit is an error now, not at the first picture
    if dataset is not None:
        predictor.set_dataset(dataset)
    return predictor


def _known(name: str) -> str:
    from openvocab.config import find_config

    try:
        find_config(name)
    except ConfigError as error:
        models = ", ".join(ZOO)
        raise ConfigError(f"there is no model '{name}'.{nearest(name, ZOO)} Models: {models}. {error}") from error
    return name


def _fill(model: nn.Module, content: WeightFile, source: str) -> None:
    """Load weights; each parameter that trains must be among them."""
    needed = {n for n, p in model.named_parameters() if p.requires_grad}
    check_encoder(model, content.metadata, source, content.tensors)
    report = load_into(model, content.tensors)
    absent = sorted(needed - set(report.matched))
    if absent:
        raise WeightsError(
            f"{source} is made for another architecture: {len(absent)} of {len(needed)} parameters are not in it, such as "
            f"{absent[0]}; {report}"
        )
    logger.info("%s: %s", source, report)


def _vocabulary_of(content: WeightFile | None, entry: ZooEntry | None) -> Vocabulary | None:
    """The names a zoo entry or a checkpoint is for, if it says so (metadata "vocabulary": json of `Vocabulary.to_dict`)."""
    if entry is not None and entry.vocabulary:
        return Vocabulary.builtin(entry.vocabulary)
    text = content.metadata.get("vocabulary") if content is not None else None
    if not text:
        return None
    value = json.loads(text)
    return Vocabulary.from_dict(value) if isinstance(value, dict) else Vocabulary.from_names(value)
