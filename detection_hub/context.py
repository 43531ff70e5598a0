"""`DatasetContext`: all that the detector must know of a data set, as a value that travels with the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from openvocab.errors import ConfigError, DataError, nearest
from openvocab.vocabulary import Vocabulary

FLAGS: tuple[str, ...] = ("amodal", "visible", "tight", "loose", "parts", "square", "group_of")
"""Box conventions a data set may declare; "full" is another word for "amodal"."""
LABEL_POLICIES: tuple[str, ...] = ("exhaustive", "federated", "verified", "partial")
_SYNONYMS = {"full": "amodal", "group-of": "group_of", "part": "parts"}
_REST = ("flags", "label_policy", "evaluator", "description", "sources", "hierarchy", "weights", "loss_weight")
_KEYS = ("name", "vocabulary", *_REST)

Flags = Mapping[str, "float | str | bool"] | Sequence[str] | None


@dataclass(frozen=True)
class DatasetContext:
    """One data set as the detector sees it. Build one with `create`, which checks.

    Attributes:
        name: the key of the data set's vector and bias; what an input dict says under "dataset".
        vocabulary: its names; labels 0..C-1 of its pictures count them.
        flags: (flag of `FLAGS`, strength) pairs, sorted; the box conventions.
        label_policy: what an unlabelled object means. "exhaustive": there is none (COCO, Objects365). "federated": only the
            picture's positives, its checked negatives and some sampled names count (LVIS). "verified": only names checked in the
            picture count, ancestors of a positive are positive, its descendants do not count (OpenImages). "partial": only
            positives and listed negatives count.
        evaluator: which evaluator judges it ("coco", "lvis", ...); kept for the checkpoint, the model does not read it.
        description: a sentence on the data set; kept for the checkpoint.
        sources: other values of "dataset" that mean this one, such as the names of its splits in detectron2's catalog.
        hierarchy: (name, its parents) pairs, for "verified".
        weights: one number a name for the sampling of federated negatives (pictures with that name, say); () for equal ones.
        loss_weight: factor on the losses of its pictures.
    """

    name: str
    vocabulary: Vocabulary
    flags: tuple[tuple[str, float], ...] = ()
    label_policy: str = "exhaustive"
    evaluator: str = "coco"
    description: str = field(default="", repr=False)
    sources: tuple[str, ...] = ()
    hierarchy: tuple[tuple[str, tuple[str, ...]], ...] = field(default=(), repr=False)
    weights: tuple[float, ...] = field(default=(), repr=False)
    loss_weight: float = 1.0

    @staticmethod
    def create(
        name: str,
        vocabulary: Vocabulary | Sequence[str] | str,
        *,
        flags: Flags = None,
        label_policy: str = "exhaustive",
        evaluator: str = "coco",
        description: str = "",
        sources: Sequence[str] = (),
        hierarchy: Mapping[str, Sequence[str]] | None = None,
        weights: Sequence[float] = (),
        loss_weight: float = 1.0,
    ) -> DatasetContext:
        """Build a context from plain values.

        Args:
            vocabulary: a `Vocabulary`, a list of names, or a caption "cat. dog.".
            flags: {"loose": 1.0}, {"extent": "visible", "fit": "tight"} (a text is the flag, whatever its key), or
                ["visible", "tight"].
            hierarchy: name -> its parents; all names of the vocabulary.

        Raises:
            DataError: for a blank name, unknown names in `hierarchy`, or `weights` that do not fit the names.
            VocabularyError: for no names, or names that cannot be used.
            ConfigError: for an unknown flag or policy.
        """
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"a data set needs a name that is not blank, got {name!r}")
        if isinstance(vocabulary, (Vocabulary, str)):
            vocabulary = Vocabulary.coerce(vocabulary)
        else:
            vocabulary = Vocabulary.from_names(vocabulary)  # some data sets have both "Q" and "q"
        if label_policy not in LABEL_POLICIES:
            known = ", ".join(LABEL_POLICIES)
            raise ConfigError(f"'{name}': label_policy='{label_policy}' is none of {known}.{nearest(label_policy, LABEL_POLICIES)}")
        if not (math.isfinite(loss_weight) and loss_weight >= 0):
            raise ConfigError(f"'{name}': loss_weight={loss_weight} must be 0 or more")
        return DatasetContext(
            name=name,
            vocabulary=vocabulary,
            flags=read_flags(flags, name),
            label_policy=label_policy,
            evaluator=evaluator,
            description=description,
            sources=tuple(sources),
            hierarchy=_read_hierarchy(hierarchy, vocabulary, name),
            weights=_read_weights(weights, vocabulary, name),
            loss_weight=float(loss_weight),
        )

    def to_dict(self) -> dict:
        """Return plain values that json can hold."""
        return {
            "name": self.name,
            "vocabulary": self.vocabulary.to_dict(),
            "flags": dict(self.flags),
            "label_policy": self.label_policy,
            "evaluator": self.evaluator,
            "description": self.description,
            "sources": list(self.sources),
            "hierarchy": {k: list(v) for k, v in self.hierarchy},
            "weights": list(self.weights),
            "loss_weight": self.loss_weight,
        }

    @staticmethod
    def from_dict(value: Mapping) -> DatasetContext:
        """Undo `to_dict`; all keys but "name" and "vocabulary" (a dict, or a list of names) may be absent.

        Raises:
            DataError: for unknown or missing keys; else as `create`.
        """
        unknown = sorted(set(value) - set(_KEYS))
        if unknown or "name" not in value or "vocabulary" not in value:
            raise DataError(
                f"a data set's context is a dict of {', '.join(_KEYS)} ('name' and 'vocabulary' are needed), got {sorted(value)}"
            )
        rest = {k: v for k, v in value.items() if k not in ("name", "vocabulary")}
        words = value["vocabulary"]
        words = Vocabulary.from_dict(dict(words)) if isinstance(words, Mapping) else words
        return DatasetContext.create(value["name"], words, **rest)


def read_flags(flags: Flags, owner: str = "") -> tuple[tuple[str, float], ...]:
    """Return flags as sorted (flag, strength) pairs; those of strength 0 are left out.

    Raises:
        ConfigError: for an unknown flag, or a strength that is no finite number.
    """
    if flags is None:
        return ()
    if isinstance(flags, str):
        flags = [flags]
    pairs = flags.items() if isinstance(flags, Mapping) else [(flag, 1.0) for flag in flags]
    found: dict[str, float] = {}
    for key, value in pairs:
        flag, strength = (value, 1.0) if isinstance(value, str) else (key, value)
        flag = _SYNONYMS.get(flag, flag)
        if flag not in FLAGS:
            raise ConfigError(f"'{owner}': there is no convention flag '{flag}'.{nearest(flag, FLAGS)} Known: {', '.join(FLAGS)}")
        if not math.isfinite(float(strength)):
            raise ConfigError(f"'{owner}': the strength of the flag '{flag}' is {strength}, not a finite number")
        if float(strength) != 0:
            found[flag] = float(strength)
    return tuple(sorted(found.items()))


def _read_hierarchy(
    hierarchy: Mapping[str, Sequence[str]] | None, vocabulary: Vocabulary, owner: str
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    pairs = []
    for child, parents in (hierarchy or {}).items():
        parents = (parents,) if isinstance(parents, str) else tuple(parents)
        for name in (child, *parents):
            if name not in vocabulary.names:
                raise DataError(f"'{owner}': the hierarchy speaks of '{name}', no name of it.{nearest(name, vocabulary.names)}")
        pairs.append((child, parents))
    return tuple(sorted(pairs))


def _read_weights(weights: Sequence[float], vocabulary: Vocabulary, owner: str) -> tuple[float, ...]:
    values = tuple(float(w) for w in weights)
    if values and (len(values) != len(vocabulary) or any(not math.isfinite(w) or w < 0 for w in values) or not any(values)):
        raise DataError(
            f"'{owner}': {len(values)} weights for {len(vocabulary)} names; one number of 0 or more is needed a name, not all 0"
        )
    return values
