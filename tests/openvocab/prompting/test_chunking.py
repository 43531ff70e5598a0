"""Long vocabularies in prompts that fit."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openvocab.errors import PromptError
from openvocab.prompting import build_caption, chunk_names, token_map
from openvocab.text import BertTextEncoder, HashedTextEncoder
from openvocab.text.base import TextEncoder
from openvocab.vocabulary import Vocabulary

# no deadline: machines that run tests are busy
RELAXED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

WORD = st.text("abcdefgh", min_size=1, max_size=6)
NAMES = st.lists(st.lists(WORD, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=25, unique=True)


@pytest.fixture(scope="module")
def bert() -> BertTextEncoder:
    return BertTextEncoder(source="minilm")


def check(parts: list[list[int]], vocabulary: Vocabulary, encoder: TextEncoder, limit: int) -> None:
    assert [i for part in parts for i in part] == list(range(len(vocabulary))), "a partition, in order"
    for part in parts:
        caption = build_caption(vocabulary.subset(part))
        tokens = encoder.tokenize([caption.text])
        assert int(tokens.attention_mask.sum()) <= limit
        assert token_map(tokens.offsets[0], caption).any(dim=1).all()


@RELAXED
@given(NAMES, st.integers(6, 40))
def test_parts_fit_and_partition(names: list[str], limit: int) -> None:
    encoder, vocabulary = HashedTextEncoder(dim=8), Vocabulary.from_names(names)
    parts = chunk_names(vocabulary, encoder, max_tokens=limit)
    check(parts, vocabulary, encoder, limit)
    for part, following in zip(parts, parts[1:], strict=False):
        longer = build_caption(vocabulary.subset([*part, following[0]])).text
        assert encoder.count_tokens([longer])[0] + 2 > limit, "the next name did not fit"


def test_coco_is_one_prompt_and_lvis_few(bert: BertTextEncoder) -> None:
    coco, lvis = Vocabulary.builtin("coco"), Vocabulary.builtin("lvis")
    assert chunk_names(coco, bert) == [list(range(80))]
    parts = chunk_names(lvis, bert)
    check(parts, lvis, bert, 256)
    assert len(parts) <= 31, "no more than the reference's 40 names a prompt need"


def test_one_name_over_the_budget_is_named() -> None:
    vocabulary = Vocabulary.from_names(["cat", "a very long name of things"])
    with pytest.raises(PromptError, match="'a very long name of things' alone has 6 tokens; a prompt holds 5"):
        chunk_names(vocabulary, HashedTextEncoder(dim=8), max_tokens=7)
    with pytest.raises(PromptError, match="a very long name of things"):
        chunk_names(vocabulary, HashedTextEncoder(dim=8, max_tokens=7))
    for budget in (0, -3, 2):
        with pytest.raises(PromptError, match="'cat' alone has 1 token"):
            chunk_names(vocabulary, HashedTextEncoder(dim=8), max_tokens=budget)


def test_the_budget_is_no_larger_than_the_encoders() -> None:
    vocabulary, encoder = Vocabulary.from_names([f"n{i}" for i in range(20)]), HashedTextEncoder(dim=8, max_tokens=12)
    assert chunk_names(vocabulary, encoder, max_tokens=1000) == chunk_names(vocabulary, encoder)
    check(chunk_names(vocabulary, encoder), vocabulary, encoder, 12)


def test_contexts_count() -> None:
    plain = Vocabulary.from_names(["a", "b", "c", "d"])
    wordy = Vocabulary.from_names(["a", "b", "c", "d"], contexts=[("there is a ", " on the porch")] * 4)
    encoder = HashedTextEncoder(dim=8)
    assert chunk_names(plain, encoder, max_tokens=12) == [[0, 1, 2, 3]]
    assert chunk_names(wordy, encoder, max_tokens=12) == [[0], [1], [2], [3]]


class Glued(HashedTextEncoder):
    """Counts a sentence higher than its parts, as a tokenizer with context may."""

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [n + t.count(".") for n, t in zip(super().count_tokens(texts), texts, strict=True)]


def test_the_whole_captions_count_decides() -> None:
    vocabulary, encoder = Vocabulary.from_names([f"n{i}" for i in range(9)]), Glued(dim=8)
    parts = chunk_names(vocabulary, encoder, max_tokens=11, separator=". . ")
    assert [i for part in parts for i in part] == list(range(9))
    for part in parts:
        assert encoder.count_tokens([build_caption(vocabulary.subset(part), separator=". . ").text])[0] <= 9


def test_a_name_without_a_token_is_named() -> None:
    class Blind(HashedTextEncoder):
        def count_tokens(self, texts: list[str]) -> list[int]:
            return [0 if t == "¤" else n for n, t in zip(super().count_tokens(texts), texts, strict=True)]

    with pytest.raises(PromptError, match="the name '¤' owns no token"):
        chunk_names(Vocabulary.from_names(["cat", "¤"]), Blind(dim=8))
