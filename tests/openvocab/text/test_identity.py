"""An encoder's identity follows its weights."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from openvocab.errors import WeightsError
from openvocab.testing.tiny import TINY_BERT
from openvocab.text import BertTextEncoder, HashedTextEncoder
from openvocab.text.identity import check_encoder, file_digest, weights_checksum


@pytest.fixture
def encoder() -> BertTextEncoder:
    return BertTextEncoder(source=None, config=TINY_BERT)


def changed(encoder: nn.Module) -> dict:
    return {k: v + 0.5 if v.is_floating_point() else v for k, v in encoder.state_dict().items()}


def test_other_weights_loaded_give_another_identity_and_the_old_ones_give_it_back(encoder: BertTextEncoder) -> None:
    before, weights = encoder.identity, copy.deepcopy(encoder.state_dict())
    encoder.load_state_dict(changed(encoder))
    after = encoder.identity
    assert after != before and after.startswith(before)
    encoder.load_state_dict(weights)
    assert encoder.identity == before


def test_a_load_through_a_detector_counts_too(encoder: BertTextEncoder) -> None:
    model, before = nn.ModuleDict({"text": encoder}), encoder.identity
    model.load_state_dict(model.state_dict())
    assert encoder.identity == before, "the same weights"
    model.load_state_dict({f"text.{k}": v for k, v in changed(encoder).items()})
    assert encoder.identity != before


def test_a_copy_goes_its_own_way(encoder: BertTextEncoder) -> None:
    twin, before = copy.deepcopy(encoder), encoder.identity
    twin.load_state_dict(changed(twin))
    assert twin.identity != before and encoder.identity == before


def test_random_weights_are_told_apart(encoder: BertTextEncoder) -> None:
    other = BertTextEncoder(source=None, config=TINY_BERT)
    assert other.identity != encoder.identity
    other.load_state_dict(encoder.state_dict())
    assert weights_checksum(other) == weights_checksum(encoder)


def test_hashed_encoders_differ_by_width_and_seed_alone() -> None:
    assert HashedTextEncoder(dim=8).identity == HashedTextEncoder(dim=8, max_tokens=9).identity
    assert len({HashedTextEncoder(dim=d, seed=s).identity for d in (8, 9) for s in (0, 1)}) == 4


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]
)
def test_the_checksum_sees_one_changed_bit(dtype: torch.dtype) -> None:
    module = nn.Module()
    module.register_parameter("a", nn.Parameter(torch.zeros(3, 2).to(dtype), requires_grad=False))
    before = weights_checksum(module)
    assert before == weights_checksum(copy.deepcopy(module)) and len(before) == 12
    module.a[2, 1] = 1
    assert weights_checksum(module) != before


def test_a_file_is_read_again_once_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = file_digest(path)
    path.write_bytes(b"two")
    os.utime(path, (1, 1))
    assert file_digest(path) != first and len(first) == 12


def test_weights_of_another_tokenizer_are_refused(encoder: BertTextEncoder) -> None:
    model, outer, plain = nn.Module(), nn.Module(), nn.Linear(1, 1)
    model.text_encoder, outer.detector = encoder, model
    for detector in (model, outer):
        with pytest.raises(WeightsError, match="w.pth was trained with the text encoder 'bert:other', this model has 'bert:random"):
            check_encoder(detector, {"text_encoder": "bert:other"}, "w.pth")
        check_encoder(detector, {"text_encoder": encoder.identity}, "w.pth")
        check_encoder(detector, {}, "w.pth")
        own = ["text_encoder.bert.embeddings.word_embeddings.weight"]
        check_encoder(detector, {"text_encoder": "bert:other", "tokenizer": encoder.tokenizer_id}, "w.pth", own)
        with pytest.raises(WeightsError, match="with the tokenizer 'bert:other'"):
            check_encoder(detector, {"text_encoder": encoder.identity, "tokenizer": "bert:other"}, "w.pth", own)
    check_encoder(plain, {"text_encoder": "bert:other", "tokenizer": "bert:other"}, "w.pth")
