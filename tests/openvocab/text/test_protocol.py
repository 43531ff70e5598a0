"""What every text encoder promises, held for all three."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openvocab.errors import PromptError, TextEncoderError
from openvocab.testing.tiny import TINY_BERT, tiny_clip
from openvocab.text import (
    TEXT_ENCODER_REGISTRY,
    BertTextEncoder,
    CLIPTextEncoder,
    HashedTextEncoder,
    TextEncoder,
    build_text_encoder,
)

MAKERS: dict[str, Callable[..., TextEncoder]] = {
    "bert": lambda **o: BertTextEncoder(source=None, config=TINY_BERT, **o),
    "clip": lambda **o: CLIPTextEncoder(model=tiny_clip(), **o),
    "hashed": lambda **o: HashedTextEncoder(dim=32, **o),
}
RELAXED = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda t: t.strip())
_BUILT: dict[str, TextEncoder] = {}


def encoder_of(kind: str) -> TextEncoder:
    if kind not in _BUILT:
        torch.manual_seed(0)
        _BUILT[kind] = MAKERS[kind]()
    return _BUILT[kind]


@pytest.fixture(params=list(MAKERS))
def encoder(request: pytest.FixtureRequest) -> TextEncoder:
    return encoder_of(request.param)


def test_tokens_are_padded_to_the_longest_and_point_into_the_text(encoder: TextEncoder) -> None:
    texts = ["cat", "a red double-decker bus, in London"]
    tokens = encoder.tokenize(texts)
    assert tokens.input_ids.dtype == tokens.offsets.dtype == torch.int64 and tokens.attention_mask.dtype == torch.bool
    lengths = tokens.attention_mask.sum(1).tolist()
    assert tokens.input_ids.shape[1] == max(lengths) == lengths[1] > lengths[0]
    assert encoder.count_tokens(texts) == [n - 2 for n in lengths]
    for text, row, mask in zip(texts, tokens.offsets.tolist(), tokens.attention_mask, strict=True):
        words = [text[a:b] for a, b in row if b > a]
        assert "".join(words) == text.replace(" ", ""), "every letter is in one token"
        assert len(words) == int(mask.sum()) - 2
        assert all(span == [0, 0] for span, real in zip(row, mask.tolist(), strict=True) if not real)


@pytest.mark.parametrize("kind", list(MAKERS))
@RELAXED
@given(text=TEXT)
def test_any_text_has_spans_that_lie_inside_it_in_order(kind: str, text: str) -> None:
    encoder = encoder_of(kind)
    tokens = encoder.tokenize([text])
    spans = tokens.offsets[0, 1:-1].tolist()
    assert all(0 <= a <= b <= len(text) for a, b in spans)
    assert [a for a, b in spans if b > a] == sorted(a for a, b in spans if b > a)
    assert encoder.count_tokens([text])[0] == len(spans)


def test_padding_changes_no_result(encoder: TextEncoder) -> None:
    texts = ["cat", "a very long name of a thing that nobody has", "red blood cell"]
    together = encoder(encoder.tokenize(texts))
    sentences = encoder.encode(texts)
    for i, text in enumerate(texts):
        alone = encoder(encoder.tokenize([text])).hidden[0]
        assert torch.allclose(together.hidden[i, : len(alone)], alone, atol=1e-5)
        assert torch.allclose(encoder.encode([text])[0], sentences[i], atol=1e-5)


def test_sentences_have_length_1_and_keep_their_order_over_batches(encoder: TextEncoder) -> None:
    texts = ["zebra", "a", "a small dog", "car", "potted plant"]
    whole = encoder.encode(texts)
    assert whole.shape == (5, encoder.dim) and whole.dtype == torch.float32 and not whole.requires_grad
    assert torch.allclose(whole.norm(dim=1), torch.ones(5), atol=1e-5)
    assert torch.allclose(encoder.encode(texts, batch_size=2), whole, atol=1e-5)
    raw = encoder.encode(texts, normalize=False)
    assert torch.allclose(torch.nn.functional.normalize(raw, dim=-1), whole, atol=1e-5)


def test_too_long_a_text_is_refused_with_count_and_limit(encoder: TextEncoder) -> None:
    text = " ".join(["word"] * 600)
    assert encoder.count_tokens([text]) == [600], "it can be counted, though"
    for call in (encoder.tokenize, encoder.encode):
        with pytest.raises(PromptError, match=f"602 tokens and this encoder takes {encoder.max_tokens}"):
            call(["cat", text])
    fitting = " ".join(["word"] * (encoder.max_tokens - 2))
    assert encoder.tokenize([fitting]).input_ids.shape == (1, encoder.max_tokens)


@pytest.mark.parametrize(
    ("texts", "message"),
    [("cat", "one string"), ([], "the list is empty"), (["cat", "  "], "text 1 is '  '"), ([None], "text 0 is None")],
)
def test_bad_texts_are_refused(encoder: TextEncoder, texts: object, message: str) -> None:
    for call in (encoder.tokenize, encoder.encode, encoder.count_tokens):
        with pytest.raises(PromptError, match=message):
            call(texts)


def test_frozen_stays_frozen_inside_a_model_that_trains(encoder: TextEncoder) -> None:
    model = torch.nn.Sequential(copy.deepcopy(encoder)).train()
    assert not any(m.training for m in model[0].modules())
    assert not any(p.requires_grad for p in model.parameters())
    assert not model[0](model[0].tokenize(["cat"])).hidden.requires_grad


@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_unfrozen_trains(kind: str) -> None:
    encoder = MAKERS[kind](frozen=False).train()
    assert encoder.training and all(p.requires_grad for p in encoder.parameters())
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    encoder(encoder.tokenize(["a red cat", "dog"])).hidden.pow(2).sum().backward()
    optimizer.step()
    assert all(p.grad is not None for n, p in encoder.named_parameters() if "layer" in n or "resblocks" in n)
    assert any(not torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    encoder.encode(["cat"])
    assert encoder.training, "encode leaves the mode as it was"


def test_copies_and_pickles_are_the_same_encoder(encoder: TextEncoder) -> None:
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert twin.identity == encoder.identity
        assert torch.allclose(twin.encode(["a small cat"]), encoder.encode(["a small cat"]))


@pytest.mark.parametrize("kind", list(MAKERS))
def test_short_and_full_names_build_it(kind: str) -> None:
    options = {"bert": {"source": None, "config": TINY_BERT}, "clip": {"model": tiny_clip()}, "hashed": {}}[kind]
    wanted = type(encoder_of(kind))
    assert wanted.__name__ in TEXT_ENCODER_REGISTRY
    for name in (kind, wanted.__name__):
        assert type(build_text_encoder(name, frozen=True, **options)) is wanted


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(TextEncoderError, match="no text encoder 'burt'. Did you mean 'bert'"):
        build_text_encoder("burt")
