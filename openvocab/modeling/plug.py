"""Put an open-vocabulary classifier into a stock detectron2 head, and change its names later."""

from __future__ import annotations

from torch import Tensor, nn

from openvocab.errors import ConfigError, VocabularyError

from .similarity import SimilarityClassifier


def with_classifier(*, head: nn.Module, classifier: nn.Module, name: str = "cls_score") -> nn.Module:
    """Return `head` with its linear classifier replaced.

    For LazyConfigs: `L(with_classifier)(head=L(FastRCNNOutputLayers)(...), classifier=L(SimilarityClassifier)(...))`, or a
    `RetinaNetHead` with a `SimilarityConv`.

    Raises:
        ConfigError: if `head` has no module of that name.
    """
    if not isinstance(getattr(head, name, None), nn.Module):
        raise ConfigError(f"{type(head).__name__} has no module '{name}' to replace")
    setattr(head, name, classifier)
    return head


def set_class_embeddings(model: nn.Module, embeddings: Tensor) -> int:
    """Give all similarity classifiers of a model the embeddings (K, D); return how many there are.

    Parts with a `set_class_embeddings` of their own count as classifiers. Heads that keep the number of classes beside their
    classifier (detectron2's RetinaNet and FastRCNNOutputLayers) learn the new K.

    Raises:
        VocabularyError: if the model has no such classifier, or D does not fit.
    """
    owners = [m for m in model.modules() if any(isinstance(c, SimilarityClassifier) for c in m.children())]
    classifiers = [m for m in model.modules() if isinstance(m, SimilarityClassifier)]
    others = [m for m in model.modules() if callable(getattr(m, "set_class_embeddings", None))]
    if not classifiers and not others:
        raise VocabularyError(f"{type(model).__name__} has no SimilarityClassifier; put one in with with_classifier")
    for classifier in classifiers:
        classifier.set_embeddings(embeddings)
    for other in others:
        other.set_class_embeddings(embeddings)
    for module in [model, *model.modules()]:
        contains = module in owners or any(o in owners for o in module.modules())
        if contains and isinstance(getattr(module, "num_classes", None), int) and not isinstance(module, SimilarityClassifier):
            module.num_classes = len(embeddings)
    return len(classifiers) + len(others)
