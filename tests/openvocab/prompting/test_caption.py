"""Names to captions, characters to tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openvocab.errors import PromptError, VocabularyError
from openvocab.prompting import Caption, build_caption, token_map
from openvocab.text import BertTextEncoder, HashedTextEncoder
from openvocab.vocabulary import Vocabulary

# no deadline: machines that run tests are busy
RELAXED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

NAMES = st.lists(
    st.text(
        st.characters(whitelist_categories=("Lu", "Ll", "Lo", "Nd"), whitelist_characters="-_' ."), min_size=1, max_size=20
    ).filter(lambda t: any(c.isalnum() for c in t)),
    min_size=1,
    max_size=10,
    unique_by=lambda t: " ".join(Vocabulary.from_names([t]).names[0].casefold().split()),
)


@pytest.fixture(scope="module")
def bert() -> BertTextEncoder:
    return BertTextEncoder(source="minilm")


def owned(text: str, caption: Caption, encoder: torch.nn.Module) -> list[list[int]]:
    offsets = encoder.tokenize([text]).offsets[0]
    return [row.nonzero().flatten().tolist() for row in token_map(offsets, caption)]


def test_the_golden_example(bert: BertTextEncoder) -> None:
    """As recorded from GLIP's tokenizer; index 0 is [CLS]."""
    caption = build_caption(["person", "bicycle", "traffic light", "hair drier", "toothbrush"])
    assert caption.text == "person. bicycle. traffic light. hair drier. toothbrush"
    assert owned(caption.text, caption, bert) == [[1], [3], [5, 6], [8, 9, 10], [12, 13]]


def test_separator_and_end() -> None:
    caption = build_caption(["cat", "dog"], separator=" . ", end=" . ")
    assert caption.text == "cat . dog . " and caption.names == ("cat", "dog") and len(caption) == 2
    assert build_caption(["cat"], separator="").text == "cat"
    with pytest.raises(PromptError, match="separator"):
        build_caption(["cat", "dog"], separator="")
    with pytest.raises(VocabularyError, match="string"):
        build_caption("cat. dog")


@RELAXED
@given(NAMES, st.sampled_from([". ", " . ", ", ", " | "]), st.sampled_from(["", ".", " . "]))
def test_spans_cut_out_the_prompts(names: list[str], separator: str, end: str) -> None:
    contexts = [("a ", " here") if i % 2 else ("", "") for i in range(len(names))]
    v = Vocabulary.from_names(names, contexts=contexts)
    caption = build_caption(v, separator=separator, end=end)
    assert caption.names == v.prompts
    starts = [spans[0][0] for spans in caption.phrases]
    assert starts == sorted(starts) and caption.text.endswith(end)
    between = caption.text[caption.phrases[0][0][1] : caption.phrases[1][0][0]] if len(names) > 1 else None
    assert between in (None, separator + "a "), "the context is outside the phrase"


@RELAXED
@given(NAMES)
def test_every_phrase_owns_its_tokens_alone(names: list[str]) -> None:
    encoder = HashedTextEncoder(dim=8)
    caption = build_caption(names)
    offsets = encoder.tokenize([caption.text]).offsets[0]
    rows = token_map(offsets, caption)
    assert rows.any(dim=1).all() and int(rows.sum(dim=0).max()) == 1
    for row, spans in zip(rows, caption.phrases, strict=True):
        own = offsets[row]
        assert int(own[:, 0].min()) >= spans[0][0] and int(own[:, 1].max()) <= spans[0][1]


def test_several_spans_of_a_phrase_are_united(bert: BertTextEncoder) -> None:
    caption = Caption("a cat and a dog and a cat", (((2, 5), (22, 25)), ((12, 15),)))
    assert caption.names == ("cat cat", "dog")
    assert owned(caption.text, caption, bert) == [[2, 8], [5]]


def test_ends_without_a_token_fall_back_by_two_characters() -> None:
    text = "  cat  "
    offsets = torch.tensor([[0, 0], [2, 5], [0, 0]])
    for span in ((0, 7), (1, 6), (2, 5), (1, 5)):
        assert token_map(offsets, Caption(text, ((span,),))).tolist() == [[False, True, False]]
    with pytest.raises(PromptError, match="owns no token"):
        token_map(torch.tensor([[3, 6]]), Caption("   cat", (((0, 6),),)))  # three characters before the first token


def test_one_lost_span_does_not_matter_beside_a_good_one() -> None:
    caption = Caption("cat ###### cat", (((0, 3), (4, 10)),))
    assert token_map(torch.tensor([[0, 3], [11, 14]]), caption).tolist() == [[True, False]]


def test_a_phrase_without_a_token_is_named() -> None:
    caption = build_caption(["cat", "dog"])
    with pytest.raises(PromptError, match="the phrase 'dog' owns no token"):
        token_map(torch.tensor([[0, 0], [0, 3], [3, 4]]), caption)


@pytest.mark.parametrize("offsets", [torch.zeros(3, 3), torch.zeros(4), torch.tensor([[0, 99]])])
def test_offsets_of_another_text_are_refused(offsets: torch.Tensor) -> None:
    with pytest.raises(PromptError, match="not the"):
        token_map(offsets, build_caption(["cat"]))


@pytest.mark.parametrize(
    ("text", "phrases", "message"),
    [
        (" ", (), "not blank"),
        (None, (), "not blank"),
        ("cat", ((),), "has no span"),
        ("cat", (((0, 4),),), "outside the caption of 3"),
        ("cat", (((-1, 2),),), "outside"),
        ("cat", (((2, 2),),), "outside"),
        ("cat", ((0, 3),), "must be a list of"),
        ("cat", ("cat",), "must be a list of"),
    ],
)
def test_bad_captions(text: str, phrases: tuple, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        Caption(text, phrases)


def test_lists_become_tuples() -> None:
    caption = Caption("a cat", [[[2, 5]]])
    assert caption == Caption("a cat", (((2, 5),),)) and hash(caption) == hash(Caption("a cat", (((2, 5),),)))
