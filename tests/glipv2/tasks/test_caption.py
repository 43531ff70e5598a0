"""Captions: no word and no part of the picture sees a later word; words see the picture; training, search, limits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from glipv2.modeling import MaskedLanguageHead, MaskedLanguageModelling, WordMasker
from glipv2.tasks import CaptionHead, SearchSettings
from glipv2.tasks.causal import as_tokens, read_pictures, read_words
from openvocab.errors import ConfigError, InputError, TextEncoderError
from openvocab.text import HashedTextEncoder, TokenBatch
from tests.glipv2.conftest import LANG, picture

from .conftest import build_detector, build_tasks, caption

TEXTS = ["a red circle on a plain background", "two stars"]


@torch.no_grad()
def logits_of(model: torch.nn.Module, tokens: TokenBatch, seeds: tuple[int, ...] = (0, 1)) -> torch.Tensor:
    pictures = read_pictures(model.detector, [picture(64, 96, s) for s in seeds])
    return model.heads["caption"].logits(model.detector, pictures, tokens)


def test_a_later_token_changes_no_earlier_logits() -> None:
    model = build_tasks().eval()
    tokens = model.text_encoder.tokenize(TEXTS)
    first = logits_of(model, tokens)
    for place in range(1, int(tokens.attention_mask[0].sum())):
        ids = tokens.input_ids.clone()
        ids[0, place] = (ids[0, place] + 3) % 40 + 5
        other = logits_of(model, TokenBatch(ids, tokens.attention_mask, tokens.offsets))
        assert torch.allclose(other[0, :place], first[0, :place], atol=1e-5)
        assert not torch.allclose(other[0, place], first[0, place], atol=1e-4)
        assert torch.allclose(other[1], first[1], atol=1e-5)


def test_words_see_their_own_picture() -> None:
    model = build_tasks().eval()
    tokens = model.text_encoder.tokenize(TEXTS)
    first, other = logits_of(model, tokens), logits_of(model, tokens, (2, 1))
    assert not torch.allclose(first[0], other[0], atol=1e-4) and torch.allclose(first[1], other[1], atol=1e-5)


def test_a_picture_is_read_once_and_serves_every_prefix() -> None:
    """What is read with the begin token alone is what the tower makes of the picture under the mask, for any text."""
    model = build_tasks().eval()
    with torch.no_grad():
        reading = read_pictures(model.detector, [picture(64, 96), picture(64, 96, 1)])
        tokens = model.text_encoder.tokenize(TEXTS)
        whole = read_words(model.detector, reading, tokens)
        trunk = model.detector.run_trunk([picture(64, 96), picture(64, 96, 1)])
        hidden, begin = model.text_encoder.forward_causal(tokens).hidden, torch.zeros_like(tokens.attention_mask)
        begin[:, 0], length = True, tokens.input_ids.shape[1]
        before = tokens.attention_mask[:, None] & torch.ones(length, length, dtype=torch.bool).tril()
        features = list(trunk.features)
        for block in model.detector.head.blocks:  # both sides together, as in detection
            fused, hidden = block.fusion(features, hidden, begin, trunk.valid)
            hidden, features = block.language(hidden, before), block.dynamic(fused, trunk.valid)
        assert torch.allclose(whole, hidden, atol=1e-5)
        for stop in (1, 3, 5):
            part = read_words(model.detector, reading, as_tokens(tokens.input_ids[:, :stop]))
            assert torch.allclose(part[0], whole[0, :stop], atol=1e-5)
        again = read_words(model.detector, reading.of([1, 0, 1]), as_tokens(tokens.input_ids[[1, 0, 1], :3]))
        assert torch.allclose(again[[1, 0]], whole[:, :3], atol=1e-5) and torch.allclose(again[2], again[0], atol=1e-5)


def test_teacher_forcing_is_the_cross_entropy_of_each_next_token() -> None:
    model = build_tasks().train()
    samples = [caption(TEXTS[0]), caption(TEXTS[1], 1)]
    head = model.heads["caption"]
    head.label_smoothing = 0.0
    loss = head.loss(model.detector, samples).detach()
    total, count = 0.0, 0
    for x in samples:
        ids = model.text_encoder.tokenize([x["sentence"]]).input_ids
        reading = read_pictures(model.detector, [x["image"]])
        logits = head.logits(model.detector, reading, as_tokens(ids[:, :-1]))[0].detach()
        total, count = total + F.cross_entropy(logits, ids[0, 1:], reduction="sum"), count + ids.shape[1] - 1
    assert float(loss) == pytest.approx(float(total) / count, rel=1e-4)


@pytest.mark.slow
def test_a_few_steps_learn_a_sentence_that_is_then_written() -> None:
    model = build_tasks().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    samples = [caption("a red circle", 0), caption("two stars", 1)]
    model.heads["caption"].label_smoothing = 0.0
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.heads["caption"].loss(model.detector, samples)
        loss.backward()
        optimizer.step()
    assert loss < 0.2
    with torch.no_grad():
        for beams in (1, 3):
            model.heads["caption"].search = SearchSettings(beams=beams, max_length=6)
            outputs = model.eval()([{k: v for k, v in x.items() if k != "sentence"} for x in samples])
            assert [o["caption"] for o in outputs] == ["a red circle", "two stars"]
            assert all(0.5 < o["score"] <= 1 for o in outputs)


def test_limits_of_length_hold_and_the_score_is_a_mean() -> None:
    model = build_tasks().eval()
    with torch.no_grad():
        for least, most in ((1, 1), (4, 6)):
            model.heads["caption"].search = SearchSettings(beams=2, min_length=least, max_length=most, length_penalty=2.0)
            (output,) = model([{"task": "caption", "image": picture(64, 96)}])
            assert least <= len(model.text_encoder.split([output["caption"]])[0].ids) - 2 <= most
            assert math.exp(-6) < output["score"] < 1, "about one in as many as there are words"


def test_the_head_for_hidden_words_may_be_the_detectors() -> None:
    words = MaskedLanguageHead(dim=LANG, vocab_size=len(build_detector().text_encoder.word_embeddings))
    detector = build_detector(mlm=MaskedLanguageModelling(head=words, masker=WordMasker()))
    shared = CaptionHead(search=SearchSettings(max_length=6))
    shared.check(detector)
    assert list(shared.parameters()) == [] and shared.loss(detector, [caption()]).requires_grad


def test_what_cannot_write_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no mlm"):
        CaptionHead(search=SearchSettings(max_length=6)).check(build_detector())
    with pytest.raises(ConfigError, match="max_length=63"):
        CaptionHead(words=build_tasks().heads["caption"].words, search=SearchSettings(max_length=63)).check(build_detector())
    bare = build_detector()
    for block in bare.head.blocks:
        block.fusion = None
    with pytest.raises(ConfigError, match="fuses nothing"):
        CaptionHead(words=MaskedLanguageHead(dim=LANG, vocab_size=9)).check(bare)
    with pytest.raises(TextEncoderError, match="belong"):
        CaptionHead(words=MaskedLanguageHead(dim=LANG, vocab_size=9), search=SearchSettings(max_length=6)).check(build_detector())
    with pytest.raises(TextEncoderError):
        CaptionHead(words=MaskedLanguageHead(dim=LANG, vocab_size=9)).check(
            build_detector(text_encoder=HashedTextEncoder(dim=LANG, max_tokens=64))
        )
    with pytest.raises(InputError, match="'sentence'"):
        build_tasks().train()([{"task": "caption", "image": picture(64, 96)}])
