"""Embeddings of a vocabulary: what they are, and that none is ever stale."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from openvocab.errors import PromptError, TextEncoderError
from openvocab.io import save_weights
from openvocab.testing.tiny import TINY_BERT
from openvocab.text import (
    BertTextEncoder,
    EmbeddingCache,
    HashedTextEncoder,
    LanguageFeatures,
    TokenBatch,
    encode_vocabulary,
)
from openvocab.vocabulary import Vocabulary

WORDS = Vocabulary.from_names(["cat", "polar bear", "dog"], templates=["{}", "a photo of a {}."])


class Counting(HashedTextEncoder):
    """Counts its work."""

    calls = 0

    def forward(self, tokens: TokenBatch) -> LanguageFeatures:
        self.calls += 1
        return super().forward(tokens)


def test_templates_are_averaged_in_both_ways() -> None:
    encoder = HashedTextEncoder(dim=16)
    unit = encode_vocabulary(encoder, WORDS, cache=None)
    raw = encode_vocabulary(encoder, WORDS, cache=None, mode="mean_unnormalized")
    for i, name in enumerate(WORDS):
        texts = [name, f"a photo of a {name}."]
        assert torch.allclose(unit[i], F.normalize(encoder.encode(texts).mean(0), dim=0), atol=1e-6)
        assert torch.allclose(raw[i], encoder.encode(texts, normalize=False).mean(0), atol=1e-6)
    assert unit.shape == (3, 16) and torch.allclose(unit.norm(dim=1), torch.ones(3))
    assert not torch.allclose(raw.norm(dim=1), torch.ones(3), atol=1e-3)
    with pytest.raises(TextEncoderError, match="mode='sum' is not one of"):
        encode_vocabulary(encoder, WORDS, mode="sum")


def test_a_long_vocabulary_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = HashedTextEncoder(dim=16)
    whole = encode_vocabulary(encoder, WORDS, cache=None)
    monkeypatch.setattr("openvocab.text.cache.NAMES_AT_A_TIME", 2)
    sizes = []
    monkeypatch.setattr(encoder, "encode", lambda texts, **k: sizes.append(len(texts)) or type(encoder).encode(encoder, texts, **k))
    assert torch.allclose(encode_vocabulary(encoder, WORDS, cache=None), whole, atol=1e-6) and sizes == [4, 2]


def test_prompts_are_encoded_not_names() -> None:
    words = Vocabulary.from_names(["RBC"], prompts=["red blood cell"])
    encoder = HashedTextEncoder(dim=16)
    assert torch.allclose(encode_vocabulary(encoder, words), encoder.encode(["red blood cell"]))


def test_work_is_done_once(tmp_path: Path) -> None:
    encoder, cache = Counting(dim=16), EmbeddingCache(tmp_path)
    first = encode_vocabulary(encoder, WORDS, cache=cache)
    done = encoder.calls
    assert done > 0
    for again in (cache, EmbeddingCache(tmp_path)):
        assert torch.equal(encode_vocabulary(encoder, WORDS, cache=again), first)
    assert encoder.calls == done
    encode_vocabulary(encoder, WORDS, cache=cache, mode="mean_unnormalized")
    assert encoder.calls > done, "another mode is another thing"


def test_a_result_that_is_changed_does_not_change_the_cache() -> None:
    encoder, cache = HashedTextEncoder(dim=16), EmbeddingCache()
    first = encode_vocabulary(encoder, WORDS, cache=cache)
    kept = first.clone()
    first.zero_()
    second = encode_vocabulary(encoder, WORDS, cache=cache)
    assert torch.equal(second, kept)
    second.zero_()
    assert torch.equal(encode_vocabulary(encoder, WORDS, cache=cache), kept)


def _damage_shape(path: Path) -> None:
    save_weights(path, {"embeddings": torch.zeros(3, 5)})


def _damage_number(path: Path) -> None:
    save_weights(path, {"embeddings": torch.full((3, 16), float("nan"))})


def _damage_key(path: Path) -> None:
    save_weights(path, {"other": torch.zeros(3, 16)})


def _damage_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _damage_all(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_damage_shape, _damage_number, _damage_key, _damage_end, _damage_all])
def test_a_damaged_file_is_made_anew_with_a_warning(
    damage: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = HashedTextEncoder(dim=16)
    first = encode_vocabulary(encoder, WORDS, cache=EmbeddingCache(tmp_path))
    (path,) = tmp_path.iterdir()
    damage(path)
    with caplog.at_level(logging.WARNING, logger="openvocab"):
        again = encode_vocabulary(encoder, WORDS, cache=EmbeddingCache(tmp_path))
    assert torch.equal(again, first) and path.name in caplog.text and "made anew" in caplog.text
    caplog.clear()
    assert torch.equal(encode_vocabulary(encoder, WORDS, cache=EmbeddingCache(tmp_path)), first) and not caplog.text


def test_a_folder_that_cannot_be_written_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING, logger="openvocab"):
        rows = encode_vocabulary(HashedTextEncoder(dim=16), WORDS, cache=EmbeddingCache(tmp_path / "file" / "below"))
    assert rows.shape == (3, 16) and "not kept" in caplog.text


def embedded(encoder: BertTextEncoder, cache: EmbeddingCache) -> tuple[Tensor, Tensor]:
    return encode_vocabulary(encoder, WORDS, cache=cache), encode_vocabulary(encoder, WORDS, cache=None)


def test_an_encoder_in_training_is_never_stale() -> None:
    encoder, cache = BertTextEncoder(source=None, config=TINY_BERT, frozen=False), EmbeddingCache()
    first, _ = embedded(encoder, cache)
    with torch.no_grad():
        encoder.bert.embeddings.word_embeddings.weight.mul_(-1)
    second, true = embedded(encoder, cache)
    assert torch.allclose(second, true) and not torch.allclose(first, second)


def test_loaded_weights_are_never_stale() -> None:
    encoder, cache = BertTextEncoder(source=None, config=TINY_BERT), EmbeddingCache()
    first, _ = embedded(encoder, cache)
    encoder.load_state_dict(BertTextEncoder(source=None, config=TINY_BERT).state_dict())
    second, true = embedded(encoder, cache)
    assert torch.allclose(second, true) and not torch.allclose(first, second)


def test_memory_holds_the_last_used() -> None:
    cache = EmbeddingCache(kept=2)
    for key in "ab":
        cache.put(key, torch.ones(1, 1))
    cache.get("a")
    cache.put("c", torch.ones(1, 1))
    assert cache.get("b") is None and cache.get("a") is not None and cache.get("c") is not None


def test_the_usual_place_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    encode_vocabulary(HashedTextEncoder(dim=16), WORDS, cache=EmbeddingCache.on_disk())
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_a_name_that_is_too_long_is_named() -> None:
    with pytest.raises(PromptError, match="very very"):
        encode_vocabulary(HashedTextEncoder(dim=8, max_tokens=5), Vocabulary.from_names(["very very very long"]))
