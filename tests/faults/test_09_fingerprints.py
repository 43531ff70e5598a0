"""Promise 9: words and the weights that depend on them carry a fingerprint; a mismatch is an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.errors import EvaluationError, WeightsError
from openvocab.evaluation import COCODetectionEvaluator
from openvocab.io import check_fingerprint, fingerprint_metadata, load_weights, save_weights
from openvocab.text import EmbeddingCache, HashedTextEncoder, encode_vocabulary
from openvocab.vocabulary import Vocabulary
from tests.openvocab.evaluation.conftest import output

NAMES = st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=5, unique=True)


@settings(max_examples=60, deadline=None)
@given(first=NAMES, second=NAMES, encoders=st.tuples(st.sampled_from("xy"), st.sampled_from("xy")))
def test_weights_are_accepted_for_exactly_their_own_words(first: list[str], second: list[str], encoders: tuple) -> None:
    metadata = fingerprint_metadata(Vocabulary.from_names(first), encoders[0])
    expected = Vocabulary.from_names(second).fingerprint(encoders[1])
    if first == second and encoders[0] == encoders[1]:
        check_fingerprint(metadata, expected)
    else:
        with pytest.raises(WeightsError, match="other names or another text encoder"):
            check_fingerprint(metadata, expected)


def test_a_classifier_in_another_order_is_refused(tmp_path: Path) -> None:
    words, turned = Vocabulary.from_names(["cat", "dog"]), Vocabulary.from_names(["dog", "cat"])
    encoder = HashedTextEncoder(dim=16)
    rows = encode_vocabulary(encoder, words, cache=None)
    save_weights(tmp_path / "w.safetensors", {"classifier": rows}, fingerprint_metadata(words, encoder.identity))
    metadata = load_weights(tmp_path / "w.safetensors").metadata
    check_fingerprint(metadata, words.fingerprint(encoder.identity))
    for wrong in (turned.fingerprint(encoder.identity), words.fingerprint(HashedTextEncoder(dim=16, seed=1).identity)):
        with pytest.raises(WeightsError, match="'cat', 'dog'"):
            check_fingerprint(metadata, wrong)


def test_cached_embeddings_are_never_those_of_other_words(tmp_path: Path) -> None:
    cache, encoder = EmbeddingCache(tmp_path), HashedTextEncoder(dim=16)
    for names in (["cat", "dog"], ["dog", "cat"], ["cat", "dogs"]):
        words = Vocabulary.from_names(names)
        again = [encode_vocabulary(encoder, words, cache=c) for c in (cache, EmbeddingCache(tmp_path), None)]
        assert all(torch.equal(again[2], a) for a in again[:2])
    other = HashedTextEncoder(dim=16, seed=5)
    assert not torch.equal(encode_vocabulary(other, words, cache=cache), encode_vocabulary(encoder, words, cache=cache))


def test_an_evaluation_with_more_classes_than_names_is_an_error(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "width": 9, "height": 9}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    evaluator = COCODetectionEvaluator(annotations=tmp_path / "a.json")
    with pytest.raises(EvaluationError, match="predicts class 1, but .* has 1 names"):
        evaluator.process([{"image_id": 1}], [output([(1, (0, 0, 5, 5), 0.5)])])
