"""Reading from left to right, and from tokens back to text."""

from __future__ import annotations

import pytest
import torch

from openvocab.errors import TextEncoderError
from openvocab.testing import TINY_BERT, tiny_clip
from openvocab.text import BertTextEncoder, CLIPTextEncoder, HashedTextEncoder, TextEncoder, TokenBatch

TEXTS = ["a red circle, left of two blue squares", "cats"]


def encoder(kind: str) -> TextEncoder:
    torch.manual_seed(0)
    return BertTextEncoder(source=None, config=TINY_BERT) if kind == "bert" else CLIPTextEncoder(model=tiny_clip())


@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_a_later_token_changes_no_earlier_one(kind: str) -> None:
    reader = encoder(kind)
    tokens = reader.tokenize(TEXTS)
    first = reader.forward_causal(tokens).hidden
    for place in range(1, int(tokens.attention_mask[0].sum())):
        ids = tokens.input_ids.clone()
        ids[0, place] = (ids[0, place] + 7) % 1000 + 2000
        other = reader.forward_causal(TokenBatch(ids, tokens.attention_mask, tokens.offsets)).hidden
        assert torch.allclose(other[0, :place], first[0, :place], atol=1e-6)
        assert not torch.allclose(other[0, place], first[0, place])
        assert torch.allclose(other[1], first[1], atol=1e-6)


def test_a_prefix_gives_what_the_whole_gives_and_padding_nothing() -> None:
    reader = encoder("bert")
    both, alone = reader.tokenize(TEXTS), reader.tokenize(TEXTS[1:])
    whole = reader.forward_causal(both).hidden
    short = TokenBatch(both.input_ids[:, :4], both.attention_mask[:, :4], both.offsets[:, :4])
    assert torch.allclose(reader.forward_causal(short).hidden, whole[:, :4], atol=1e-5)
    length = alone.input_ids.shape[1]
    assert torch.allclose(reader.forward_causal(alone).hidden[0], whole[1, :length], atol=1e-5)
    assert not torch.allclose(reader(both).hidden[0, 1], whole[0, 1], atol=1e-3), "the usual way sees what follows"


def test_the_last_token_sees_what_it_always_sees() -> None:
    """Without anything behind it, a BERT of one layer gives its last token the same either way."""
    torch.manual_seed(0)
    reader = BertTextEncoder(source=None, config={**TINY_BERT, "num_hidden_layers": 1})
    tokens = reader.tokenize(TEXTS[:1])
    assert torch.allclose(reader(tokens).hidden[:, -1], reader.forward_causal(tokens).hidden[:, -1], atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_from_tokens_to_text(kind: str) -> None:
    reader = encoder(kind)
    begin, end = reader.ends()
    for text, row in zip(TEXTS, reader.split(TEXTS), strict=True):
        assert (row.ids[0], row.ids[-1]) == (begin, end)
        assert reader.join(row.ids).replace(" ,", ",") == text == reader.join(row.ids[1:-1]).replace(" ,", ",")
    assert reader.join([begin, end]) == ""


def test_gradients_reach_the_weights() -> None:
    reader = BertTextEncoder(source=None, config=TINY_BERT, frozen=False)
    reader.forward_causal(reader.tokenize(TEXTS)).hidden.sum().backward()
    assert reader.word_embeddings.grad is not None
    frozen = encoder("bert")
    assert not frozen.forward_causal(frozen.tokenize(TEXTS)).hidden.requires_grad


def test_one_that_cannot_says_so() -> None:
    hashed = HashedTextEncoder(dim=8)
    with pytest.raises(TextEncoderError, match="left to right"):
        hashed.forward_causal(hashed.tokenize(["a"]))
    with pytest.raises(TextEncoderError, match="into text"):
        hashed.join([1, 2])
