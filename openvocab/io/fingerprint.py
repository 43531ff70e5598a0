"""Words that travel with weights, so that a class index never means another name than it did in training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from openvocab.errors import WeightsError

if TYPE_CHECKING:
    from openvocab.vocabulary import Vocabulary

VOCABULARY_KEY, ENCODER_KEY, FINGERPRINT_KEY = "vocabulary", "text_encoder", "vocabulary_fingerprint"


def fingerprint_metadata(vocabulary: Vocabulary, encoder: str = "") -> dict[str, str]:
    """Return the metadata to save with weights that depend on a vocabulary.

    Args:
        vocabulary: the names, in the order of the weights' classes.
        encoder: `TextEncoder.identity` of the encoder that embedded them; "" if the weights depend on none.
    """
    return {
        VOCABULARY_KEY: json.dumps(vocabulary.to_dict()),
        ENCODER_KEY: encoder,
        FINGERPRINT_KEY: vocabulary.fingerprint(encoder),
    }


def check_fingerprint(metadata: Mapping[str, str], expected: str, *, source: str = "the weight file") -> None:
    """Refuse weights made for other names, prompts, templates, or another text encoder.

    Args:
        metadata: of the weight file (see `fingerprint_metadata`).
        expected: `Vocabulary.fingerprint(encoder.identity)` of what is about to be used.
        source: how to call the file in the message.

    Raises:
        WeightsError: if the fingerprint is another one, or is missing.
    """
    found = metadata.get(FINGERPRINT_KEY)
    if found is None:
        raise WeightsError(
            f"{source} does not say for which names it was made (no '{FINGERPRINT_KEY}' in its metadata)"
        )
    if found != expected:
        details = [f"{n} names beginning with {names}" for n, names in [_names(metadata)] if n]
        details += [f"text encoder '{metadata[ENCODER_KEY]}'"] if metadata.get(ENCODER_KEY) else []
        made = f" It was made for {' and '.join(details)}." if details else ""
        raise WeightsError(
            f"{source} was made for other names or another text encoder: its fingerprint is {found}, "
            f"needed is {expected}.{made}"
        )


def _names(metadata: Mapping[str, str]) -> tuple[int, list[str]]:
    try:
        names = json.loads(metadata.get(VOCABULARY_KEY, "{}"))["names"]
        return len(names), [str(n) for n in names[:3]]
    except (ValueError, KeyError, TypeError):
        return 0, []
