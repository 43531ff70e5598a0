"""Budgets of data and the model's text encoder count the same tokens, or the run does not begin."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf
from torch import nn

from openvocab.data import TokenBudget, TokenPromptSampler
from openvocab.engine import train
from openvocab.engine.budgets import check_budgets
from openvocab.errors import ConfigError
from openvocab.testing import TINY_BERT
from openvocab.text import BertTextEncoder, HashedTextEncoder

from .toys import ToyDetector, toy_config

ENCODER = BertTextEncoder(source=None, config={**TINY_BERT, "num_hidden_layers": 1}, max_tokens=64)


@pytest.fixture
def other_words(tmp_path: Path) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    return tmp_path / "vocab.txt"


class WithEncoder(ToyDetector):
    """A toy that also has a text encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = ENCODER


def loader(**budget: object) -> OmegaConf:
    """A config whose budget lies as deep as in configs/glipv2/pretrain."""
    prompt = L(TokenPromptSampler)(budget=L(TokenBudget)(**budget))
    return OmegaConf.create({"train": {"sources": [{"mapper": {"prompt": prompt}}]}}, flags={"allow_objects": True})


@pytest.mark.parametrize("wrapped", [False, True])
def test_equal_budgets_pass(wrapped: bool) -> None:
    model = SimpleNamespace(text_encoder=ENCODER)
    check_budgets(loader(max_tokens=64), SimpleNamespace(detector=model) if wrapped else model)


def test_another_tokenizer_is_named(other_words: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataloader\.train\.sources\.0\.mapper\.prompt\.budget counts tokens of 'bert:\w{12}'"):
        check_budgets(loader(vocab_file=str(other_words), max_tokens=64), SimpleNamespace(text_encoder=ENCODER))


def test_more_tokens_than_the_encoder_reads() -> None:
    with pytest.raises(ConfigError, match=r"budget\.max_tokens=65, but the text encoder reads 64 at most"):
        check_budgets(loader(max_tokens=65), SimpleNamespace(text_encoder=ENCODER))


def test_of_encoders_without_a_list_of_tokens_only_the_length_counts(other_words: Path) -> None:
    encoder = HashedTextEncoder()
    assert not encoder.tokenizer_id
    check_budgets(loader(vocab_file=str(other_words), max_tokens=encoder.max_tokens), SimpleNamespace(text_encoder=encoder))
    with pytest.raises(ConfigError, match="reads"):
        check_budgets(loader(max_tokens=encoder.max_tokens + 1), SimpleNamespace(text_encoder=encoder))
    check_budgets(loader(vocab_file=str(other_words)), nn.Linear(1, 1))


def test_names_with_dots_and_parts_still_missing_are_walked_over() -> None:
    node = OmegaConf.create({"a.b": {"c": "???"}, "d": None, "e": [loader(max_tokens=65)]}, flags={"allow_objects": True})
    with pytest.raises(ConfigError, match=r"dataloader\.e\.0\.train\.sources\.0\.mapper\.prompt\.budget\.max_tokens=65"):
        check_budgets(node, SimpleNamespace(text_encoder=ENCODER))


def test_a_run_does_not_begin_with_them(tmp_path: Path) -> None:
    cfg = toy_config(tmp_path)
    cfg.model = L(WithEncoder)()
    cfg.dataloader.budget = L(TokenBudget)(max_tokens=65)
    with pytest.raises(ConfigError, match="dataloader.budget.max_tokens=65"):
        train(cfg)
