"""BERT: where it is found, what is refused, and that it is the model it says it is."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openvocab.errors import MissingDependencyError, TextEncoderError
from openvocab.testing.tiny import TINY_BERT
from openvocab.text import BertTextEncoder
from openvocab.text.bert_files import minilm_folder

TEXTS = ["cat", "a photo of two Red Blood Cells", "naïve café, 3-in-1!"]


@pytest.fixture(scope="module")
def minilm() -> BertTextEncoder:
    return BertTextEncoder(source="minilm")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small BERT saved as transformers saves it."""
    torch.manual_seed(3)
    model = BertTextEncoder(source=None, config=TINY_BERT).bert
    model.save_pretrained(tmp_path / "small")
    shutil.copy(minilm_folder() / "vocab.txt", tmp_path / "small")
    return tmp_path / "small"


def test_minilm_agrees_with_the_published_pipeline(minilm: BertTextEncoder) -> None:
    """The reference is transformers' own tokenizer and model with the pooling that the package's README shows."""
    from transformers import AutoModel, AutoTokenizer

    place = str(minilm_folder())
    tokenizer, model = AutoTokenizer.from_pretrained(place), AutoModel.from_pretrained(place).eval()
    inputs = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    tokens = minilm.tokenize(TEXTS)
    width = tokens.input_ids.shape[1]
    assert torch.equal(tokens.input_ids, inputs["input_ids"][:, :width])
    assert torch.allclose(
        minilm(tokens).hidden[tokens.attention_mask], hidden[inputs["attention_mask"].bool()], atol=1e-5
    )
    mask = inputs["attention_mask"][..., None].float()
    mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    assert torch.allclose(minilm.encode(TEXTS), mean, atol=1e-5)


def test_minilm_knows_what_is_alike(minilm: BertTextEncoder) -> None:
    vectors = minilm.encode(["cat", "dog", "car", "truck", "red blood cell"])
    alike = vectors @ vectors.t()
    assert alike[0, 1] > alike[0, 2] and alike[2, 3] > alike[2, 1] and alike[:4, 4].max() < 0.3
    assert minilm.dim == 384 and minilm.max_tokens == 256 and minilm.identity == "bert:minilm:53aa51172d14"


def test_the_tokenizer_cuts_and_pads_nothing_on_its_own(minilm: BertTextEncoder) -> None:
    long = " ".join(["word"] * 200)  # the file asks for 128
    assert minilm.tokenize([long]).input_ids.shape == (1, 202)
    assert minilm.tokenize(["cat"]).input_ids.shape == (1, 3)
    assert BertTextEncoder(source=None, config=TINY_BERT, max_tokens=9999).max_tokens == 256, "the model's positions"


def test_a_folder_gives_the_weights_it_holds(folder: Path) -> None:
    encoder = BertTextEncoder(source=str(folder))
    saved = load_file(folder / "model.safetensors")
    key = "embeddings.word_embeddings.weight"
    assert torch.equal(encoder.bert.state_dict()[key], saved[key])
    assert BertTextEncoder(source=folder).identity == encoder.identity
    moved = folder.rename(folder.parent / "elsewhere")
    assert BertTextEncoder(source=moved).identity == encoder.identity, "the place does not matter, the bytes do"
    saved[key][0, 0] += 1
    save_file(saved, moved / "model.safetensors", metadata={"format": "pt"})
    assert BertTextEncoder(source=moved).identity != encoder.identity


def test_tokenizer_json_and_vocab_txt_cut_alike(folder: Path) -> None:
    from_words = BertTextEncoder(source=folder)
    shutil.copy(minilm_folder() / "tokenizer.json", folder)
    from_json = BertTextEncoder(source=folder)
    for field in ("input_ids", "attention_mask", "offsets"):
        assert torch.equal(getattr(from_words.tokenize(TEXTS), field), getattr(from_json.tokenize(TEXTS), field))


def test_case_is_kept_where_the_folder_says_so(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    cased, uncased = BertTextEncoder(source=folder), BertTextEncoder(source=None, config=TINY_BERT)
    assert torch.equal(uncased.tokenize(["Cat"]).input_ids, uncased.tokenize(["cat"]).input_ids)
    assert not torch.equal(cased.tokenize(["Cat"]).input_ids, cased.tokenize(["cat"]).input_ids)


def test_weights_of_another_model_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = load_file(weights)
    short = {k: v for k, v in whole.items() if "layer.1.attention" not in k}
    save_file(short, weights, metadata={"format": "pt"})
    with pytest.raises(TextEncoderError, match=r"lack \d+ tensors of a BERT, such as encoder.layer.1.attention"):
        BertTextEncoder(source=folder)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(TextEncoderError, match="cannot be read"):
        BertTextEncoder(source=folder)
    weights.unlink()
    with pytest.raises(TextEncoderError, match="holds no weights"):
        BertTextEncoder(source=folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    with pytest.raises(TextEncoderError, match="type 'roberta', not a BERT"):
        BertTextEncoder(source=folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(TextEncoderError, match="config.json cannot be read"):
        BertTextEncoder(source=folder)


def test_a_tokenizer_that_does_not_belong_to_the_weights_is_refused(folder: Path) -> None:
    words = (folder / "vocab.txt").read_text().splitlines()
    for count, text in ((20000, "20000 entries and the model's table 30522"), (None, "31522 entries")):
        changed = words[:count] if count else [*words, *(f"zz{i}" for i in range(1000))]
        (folder / "vocab.txt").write_text("\n".join(changed))
        with pytest.raises(TextEncoderError, match=text):
            BertTextEncoder(source=folder)
    (folder / "vocab.txt").unlink()
    with pytest.raises(TextEncoderError, match="holds no tokenizer"):
        BertTextEncoder(source=folder)
    assert BertTextEncoder(source=folder, vocab_file=minilm_folder() / "vocab.txt").encode(["cat"]).shape == (1, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "/nowhere"}, "'/nowhere' is not a folder with a BERT"),
        ({"source": None}, "either a source"),
        ({"source": "minilm", "config": {}}, "either a source"),
        ({"source": None, "config": {"hidden_size": 30, "num_attention_heads": 7}}, "makes no BERT"),
        ({"source": None, "config": TINY_BERT, "pooling": "max"}, "pooling='max' is not one of mean, cls"),
        ({"source": None, "config": TINY_BERT, "max_tokens": 2}, "leaves no room"),
        ({"source": None, "config": TINY_BERT, "vocab_file": "/nowhere.txt"}, "no vocabulary file /nowhere.txt"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(TextEncoderError, match=message):
        BertTextEncoder(**options)


def test_bert_base_is_looked_for_and_never_downloaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENVOCAB_BERT", raising=False)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-home"))
    with pytest.raises(TextEncoderError, match="hf download google-bert/bert-base-uncased.*OPENVOCAB_BERT"):
        BertTextEncoder(source="bert-base")
    monkeypatch.setenv("OPENVOCAB_BERT", str(tmp_path / "typo"))
    with pytest.raises(TextEncoderError, match="OPENVOCAB_BERT='.*typo' is not a folder"):
        BertTextEncoder(source="bert-base")
    monkeypatch.setenv("OPENVOCAB_BERT", str(folder))
    named = BertTextEncoder(source="bert-base")
    monkeypatch.delenv("OPENVOCAB_BERT")
    place = tmp_path / "hub-home" / "hub" / "models--bert-base-uncased" / "snapshots" / "abc"
    shutil.copytree(folder, place)
    assert BertTextEncoder(source="bert-base").identity == named.identity


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openvocab.text.bert_files.MINILM_MODULE", "no_such_module_of_minilm")
    with pytest.raises(MissingDependencyError, match=r"openvocab-detectron2\[bert\]"):
        BertTextEncoder(source="minilm")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"'transformers'.*\[bert\]"):
        BertTextEncoder(source=None, config=TINY_BERT)


def test_pooling_by_the_first_token(folder: Path) -> None:
    encoder = BertTextEncoder(source=folder, pooling="cls")
    first = encoder(encoder.tokenize(TEXTS)).hidden[:, 0]
    assert torch.allclose(encoder.encode(TEXTS, normalize=False), first, atol=1e-5)
    assert encoder.identity != BertTextEncoder(source=folder).identity


def test_config_with_no_field_is_bert_base() -> None:
    with torch.device("meta"):
        encoder = BertTextEncoder(source=None, config={})
    assert encoder.dim == 768 and len(encoder.bert.encoder.layer) == 12
    assert sum(p.numel() for p in encoder.parameters()) == 108_891_648, "110 M without the pooler's 0.6 M"
