"""Names that travel with weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from openvocab.errors import WeightsError
from openvocab.io import check_fingerprint, fingerprint_metadata, load_weights, save_weights
from openvocab.vocabulary import Vocabulary

CATS = Vocabulary.from_names(["cat", "dog"])


def test_the_same_names_pass_through_a_file(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", {"a": torch.ones(1)}, fingerprint_metadata(CATS, "minilm"))
    check_fingerprint(load_weights(tmp_path / "w.safetensors").metadata, CATS.fingerprint("minilm"))


@pytest.mark.parametrize(
    ("vocabulary", "encoder"),
    [
        (Vocabulary.from_names(["dog", "cat"]), "minilm"),
        (Vocabulary.from_names(["cat"]), "minilm"),
        (Vocabulary.from_names(["cat", "dog"], prompts=["a cat", "dog"]), "minilm"),
        (Vocabulary.from_names(["cat", "dog"], templates=["a {}"]), "minilm"),
        (CATS, "other"),
    ],
)
def test_anything_else_is_refused(vocabulary: Vocabulary, encoder: str) -> None:
    with pytest.raises(WeightsError, match=r"w\.pth was made for other names.*2 names beginning with \['cat', 'dog'\]"):
        check_fingerprint(fingerprint_metadata(CATS, "minilm"), vocabulary.fingerprint(encoder), source="w.pth")


@pytest.mark.parametrize("words", ["", "no json", "[1]", '{"names": 3}'])
def test_damaged_notes_do_not_hide_the_error(words: str) -> None:
    with pytest.raises(WeightsError, match="is 0123, needed is 4567"):
        check_fingerprint({"vocabulary_fingerprint": "0123", "vocabulary": words}, "4567")


def test_a_file_that_says_nothing_is_refused() -> None:
    with pytest.raises(WeightsError, match="does not say for which names"):
        check_fingerprint({}, CATS.fingerprint())
