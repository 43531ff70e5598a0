"""The encoder without weights."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.errors import TextEncoderError
from openvocab.text import HashedTextEncoder

WORD = st.text("abcdefghij", min_size=1, max_size=8)


def test_like_spellings_are_alike() -> None:
    vectors = HashedTextEncoder(dim=256).encode(["starfish", "jellyfish", "motorcycle"])
    alike = vectors @ vectors.t()
    assert alike[0, 1] > alike[0, 2] + 0.05


@settings(deadline=None, max_examples=50)
@given(st.lists(WORD, min_size=2, max_size=6, unique=True))
def test_a_word_has_one_vector_wherever_it_stands(words: list[str]) -> None:
    encoder = HashedTextEncoder(dim=16)
    whole = encoder(encoder.tokenize([" ".join(words)])).hidden[0, 1:-1]
    for i, word in enumerate(words):
        alone = encoder(encoder.tokenize([word.upper()])).hidden[0, 1]
        assert torch.equal(alone, whole[i])
    assert len({tuple(v.tolist()) for v in whole}) == len(words), "different words, different vectors"


def test_vectors_are_the_same_in_another_process() -> None:
    code = "from openvocab.text import HashedTextEncoder; print(HashedTextEncoder(dim=3).encode(['a cat']).tolist())"
    other = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(other.stdout) == HashedTextEncoder(dim=3).encode(["a cat"]).tolist()


def test_another_encoder_of_the_process_reads_the_tokens() -> None:
    tokens = HashedTextEncoder(dim=8).tokenize(["purple elephant"])
    assert torch.equal(HashedTextEncoder(dim=8)(tokens).hidden, HashedTextEncoder(dim=8)(tokens).hidden)
    tokens.input_ids[0, 1] = 77
    with pytest.raises(TextEncoderError, match="token 77 is of no word"):
        HashedTextEncoder(dim=8)(tokens)


@pytest.mark.parametrize("options", [{"dim": 0}, {"max_tokens": 2}])
def test_bad_options_are_refused(options: dict) -> None:
    with pytest.raises(TextEncoderError, match="at least"):
        HashedTextEncoder(**options)
