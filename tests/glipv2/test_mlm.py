"""Hidden words: which, how many, what they become; the head; the loss; and what the detector makes of it."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glipv2.modeling import LanguageLayer, MaskedLanguageHead, MaskedLanguageModelling, WordMasker
from glipv2.modeling.mlm import NOT_ASKED, ordinary_ids
from openvocab.errors import ConfigError, TextEncoderError
from openvocab.testing import TINY_BERT
from openvocab.text import BertTextEncoder, HashedTextEncoder

from .conftest import LANG
from .test_contrast import hybrid, with_caption
from .test_detector import sample

SENTENCE = "a man in a red shirt holds two umbrellas next to a parked motorcycle in the rain"


@pytest.fixture(scope="module")
def encoder() -> BertTextEncoder:
    torch.manual_seed(0)
    return BertTextEncoder(source=None, config=TINY_BERT, frozen=False)


def modelling(tied: bool = True, **changes: object) -> MaskedLanguageModelling:
    torch.manual_seed(3)
    head = MaskedLanguageHead(dim=LANG, vocab_size=30522, tied=tied)
    return MaskedLanguageModelling(**{"head": head, "masker": WordMasker(rate=0.5), **changes})


# ---- hiding -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    rate=st.sampled_from([0.0, 0.15, 1.0]),
    texts=st.lists(st.sampled_from([SENTENCE, "a cat"]), min_size=1, max_size=3),
)
def test_only_words_are_hidden(encoder: BertTextEncoder, seed: int, rate: float, texts: list[str]) -> None:
    tokens = encoder.tokenize(texts)
    before = tokens.input_ids.clone()
    torch.manual_seed(seed)
    hidden, labels = WordMasker(rate=rate)(tokens, torch.ones_like(tokens.attention_mask), encoder)
    asked = labels != NOT_ASKED
    words = tokens.attention_mask & (tokens.offsets[..., 1] > 0)
    assert torch.equal(tokens.input_ids, before), "what was given stays as it was"
    assert torch.equal(labels[asked], before[asked]) and torch.equal(hidden.input_ids[~asked], before[~asked])
    assert not (asked & ~words).any() and (rate < 1 or torch.equal(asked, words))
    put_in = hidden.input_ids[asked & (hidden.input_ids != before)]
    special = torch.tensor([i for i in encoder.special_ids if i != encoder.mask_id])
    assert not torch.isin(put_in, special).any()


def test_shares_are_those_asked_for(encoder: BertTextEncoder) -> None:
    tokens = encoder.tokenize([SENTENCE] * 400)
    words = int((tokens.offsets[..., 1] > 0).sum())
    torch.manual_seed(0)
    hidden, labels = WordMasker()(tokens, torch.ones_like(tokens.attention_mask), encoder)
    asked = labels != NOT_ASKED
    count, masked = int(asked.sum()), int((hidden.input_ids[asked] == encoder.mask_id).sum())
    kept = int((hidden.input_ids[asked] == tokens.input_ids[asked]).sum())
    assert count / words == pytest.approx(0.15, abs=0.015)
    assert masked / count == pytest.approx(0.8, abs=0.04) and kept / count == pytest.approx(0.1, abs=0.03)


def test_a_seed_gives_the_same_words(encoder: BertTextEncoder) -> None:
    tokens = encoder.tokenize([SENTENCE])
    draws = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        draws.append(WordMasker(rate=0.5)(tokens, torch.ones_like(tokens.attention_mask), encoder)[0].input_ids)
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_words_of_bert(encoder: BertTextEncoder) -> None:
    assert encoder.vocab_size == 30522 and len(ordinary_ids(encoder)) == 30522 - 5
    assert encoder.mask_id in encoder.special_ids and encoder.pad_id in encoder.special_ids
    assert encoder.word_embeddings.shape == (30522, 32)


@pytest.mark.parametrize("bad", [{"rate": 1.5}, {"mask_share": -0.1}, {"mask_share": 0.8, "random_share": 0.3}])
def test_impossible_shares(bad: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        WordMasker(**bad)


def test_sentences_only_or_the_names_of_boxes_too(encoder: BertTextEncoder) -> None:
    inputs = [sample(64, 64, ["cat", "remote control", "dog"]), with_caption("a cat and a dog", ["a cat", "a dog"])]
    tokens = encoder.tokenize(["cat. remote control. dog", "a cat and a dog"])
    maps = [
        torch.zeros(3, tokens.input_ids.shape[1], dtype=torch.bool),
        torch.zeros(2, tokens.input_ids.shape[1], dtype=torch.bool),
    ]
    maps[0][0, 1], maps[0][1, 3:5], maps[0][2, 6] = True, True, True
    all_words = WordMasker(rate=1.0)
    for names, columns in ((False, []), (True, [1, 6])):  # the boxes are of the first and last name
        _, labels = modelling(masker=all_words, names=names).hide(tokens, maps, inputs, encoder)
        assert (labels[0] != NOT_ASKED).nonzero().flatten().tolist() == columns
        assert (labels[1] != NOT_ASKED).sum() == 5


# ---- head and loss ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_berts(encoder: BertTextEncoder, tied: bool) -> None:
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLMPredictionHead

    head = MaskedLanguageHead(dim=32, vocab_size=30522, tied=tied)
    torch.nn.init.normal_(head.bias)
    theirs = BertLMPredictionHead(BertConfig(hidden_size=32, vocab_size=30522))
    state = {"transform.dense": head.dense, "transform.LayerNorm": head.norm}
    tensors = {f"{k}.{n}": p for k, m in state.items() for n, p in m.named_parameters()}
    table = encoder.word_embeddings if tied else head.decoder.weight
    theirs.load_state_dict({**tensors, "decoder.weight": table, "bias": head.bias, "decoder.bias": head.bias}, strict=False)
    x = torch.randn(3, 32)
    torch.testing.assert_close(head(x, encoder), theirs(x), atol=1e-5, rtol=1e-5)


def test_the_loss_is_the_mean_over_what_is_asked(encoder: BertTextEncoder) -> None:
    part, hidden = modelling(weight=2.0), torch.randn(2, 4, LANG)
    labels = torch.full((2, 4), NOT_ASKED)
    labels[0, 1], labels[1, 2] = 7, 9
    logits = part.head(hidden, encoder)
    expected = torch.nn.functional.cross_entropy(logits[[0, 1], [1, 2]], torch.tensor([7, 9]))
    assert float(part(hidden, labels, encoder)["loss_mlm"]) == pytest.approx(2 * float(expected), rel=1e-5)


def test_nothing_asked_is_zero_with_a_graph(encoder: BertTextEncoder) -> None:
    part = modelling()
    loss = part(torch.randn(1, 4, LANG), torch.full((1, 4), NOT_ASKED), encoder)["loss_mlm"]
    loss.backward()
    assert float(loss.detach()) == 0.0 and all(p.grad is not None for p in part.parameters())


# ---- in the detector ----------------------------------------------------------------------------------------------


def test_the_loss_reaches_the_picture(tiny, encoder: BertTextEncoder) -> None:
    model = tiny(text_encoder=encoder, mlm=modelling(), deformable=False).train()
    assert all(isinstance(b.language, LanguageLayer) for b in model.head.blocks)
    torch.manual_seed(0)
    loss = model([with_caption(SENTENCE, ["a man", "motorcycle"])])["loss_mlm"]
    loss.backward()
    assert loss > 0 and model.backbone.fpn_lateral3.weight.grad.abs().sum() > 0, "hidden words are read with the picture"
    assert model.text_encoder.word_embeddings.grad.abs().sum() > 0


def test_a_batch_of_names_alone_has_nothing_to_ask(tiny, encoder: BertTextEncoder) -> None:
    model = tiny(text_encoder=encoder, mlm=modelling(), deformable=False).train()
    losses = model([sample(64, 96, ["cat", "dog"])])
    sum(losses.values()).backward()
    assert losses["loss_mlm"] == 0 and model.mlm.head.bias.grad is not None


def test_it_is_learned(tiny, encoder: BertTextEncoder) -> None:
    model = tiny(text_encoder=deepcopy(encoder), mlm=modelling(), deformable=False).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch, history = [with_caption(SENTENCE, ["a man", "motorcycle"])], []
    for step in range(25):
        torch.manual_seed(step)
        loss = model(batch)["loss_mlm"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert sum(history[-5:]) / 5 < 0.6 * history[0]


def test_another_tokenizer_is_refused(tiny, encoder: BertTextEncoder) -> None:
    with pytest.raises(TextEncoderError, match="30522 words and width 32"):
        tiny(
            text_encoder=encoder, mlm=MaskedLanguageModelling(head=MaskedLanguageHead(dim=LANG, vocab_size=99), masker=WordMasker())
        )
    with pytest.raises(TextEncoderError, match="no word embeddings"):
        tiny(mlm=modelling())
    with pytest.raises(TextEncoderError, match=r"\[MASK\]"):
        ordinary_ids(HashedTextEncoder(dim=LANG))


def test_all_losses_at_once(tiny, encoder: BertTextEncoder) -> None:
    from .test_contrast import contrast

    model = tiny(text_encoder=encoder, mlm=modelling(), contrast=contrast(), deformable=False).train()
    losses = model(hybrid())
    assert set(losses) == {"loss_alignment", "loss_box", "loss_centerness", "loss_inter", "loss_mlm"}
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
