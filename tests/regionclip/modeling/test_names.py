"""Vectors of names: from a table, a file, an encoder; kept, and forgotten when they must be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from openvocab import Vocabulary
from openvocab.errors import ConfigError, TextEncoderError, VocabularyError, WeightsError
from openvocab.testing import tiny_clip
from openvocab.text import CLIPTextEncoder, HashedTextEncoder, TextEmbeddings, embed_names, save_text_embeddings
from regionclip.modeling import EmbeddingFile, NameVectors

from .tiny import DIM, vectors

WORDS = Vocabulary.from_names(["cat", "dog", "hot dog", "bow_(weapon)"])


def table(tmp_path: Path, plain: bool = False) -> Path:
    path = tmp_path / ("words_cls_emb.pth" if plain else "words.npz")
    save_text_embeddings(path, vectors(len(WORDS)), vocabulary=WORDS, plain=plain)
    return path


def test_a_table_gives_rows_in_the_order_asked_for(tmp_path: Path) -> None:
    names = NameVectors(table=table(tmp_path))
    assert torch.equal(names(Vocabulary.from_names(["hot dog", "cat"])), vectors(len(WORDS))[[2, 0]])
    assert names(Vocabulary.from_names(["dog"])).shape == (1, DIM)


def test_a_file_that_is_read_when_needed(tmp_path: Path) -> None:
    lazy = EmbeddingFile(tmp_path / "words_cls_emb.pth", ["cat", "dog", "hot dog", "bow_(weapon)"])
    names = NameVectors(table=lazy)
    with pytest.raises(WeightsError, match="words_cls_emb.pth"):
        names(WORDS)
    path = table(tmp_path, plain=True)
    assert torch.equal(names(WORDS), vectors(len(WORDS)))
    path.unlink()
    assert len(names(Vocabulary.from_names(["dog"]))) == 1, "once"
    assert EmbeddingFile(path, "coco_ovd_65")._names == Vocabulary.builtin("coco_ovd_65")


def test_an_encoder_by_the_recipe() -> None:
    encoder = HashedTextEncoder(dim=DIM)
    for recipe in ("own", "regionclip"):
        found = NameVectors(text_encoder=encoder, recipe=recipe)(WORDS)
        assert torch.equal(found, embed_names(encoder, WORDS, recipe)[0]) and not found.requires_grad
    assert NameVectors(text_encoder=encoder, recipe="own")(Vocabulary.from_names(["cat"])).shape == (1, DIM)


def test_the_table_comes_first_and_the_encoder_knows_the_rest(tmp_path: Path) -> None:
    encoder = HashedTextEncoder(dim=DIM)
    names = NameVectors(text_encoder=encoder, recipe="own", table=table(tmp_path))
    assert torch.equal(names(WORDS), vectors(len(WORDS)))
    other = Vocabulary.from_names(["cat", "zebra"])
    assert torch.equal(names(other), embed_names(encoder, other, "own")[0]), "a vocabulary is of one source"


def test_kept_until_forgotten() -> None:
    names = NameVectors(text_encoder=HashedTextEncoder(dim=DIM), recipe="own")
    first = names(WORDS)
    assert names(WORDS) is first
    names.forget()
    again = names(WORDS)
    assert again is not first and torch.equal(again, first)
    for i in range(40):
        names(Vocabulary.from_names([f"thing {i}"]))
    assert names(WORDS) is not again, "the last ones only"


def test_no_way_to_the_vectors(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="no way to the vectors of 4 names .cat, dog, hot dog, .*text_encoder or text_emb"):
        NameVectors()(WORDS)
    with pytest.raises(VocabularyError, match="embeddings of 4 names only, and no text encoder .*'zebra'"):
        NameVectors(table=table(tmp_path))(Vocabulary.from_names(["zebra"]))
    with pytest.raises(VocabularyError, match="does not know its names"):
        NameVectors(table=TextEmbeddings(vectors()))(WORDS)


def test_a_text_tower_without_weights() -> None:
    pytest.importorskip("open_clip")
    encoder = CLIPTextEncoder(model=tiny_clip())
    with pytest.raises(ConfigError, match="random weights, so that its vectors mean nothing: .*pretrained"):
        NameVectors(text_encoder=encoder)(WORDS)
    encoder.identity = "clip:openvocab-tiny-clip:of a file"
    with pytest.raises(TextEncoderError, match="has plain GELU, but OpenAI's and RegionCLIP's weights"):
        NameVectors(text_encoder=encoder)(WORDS)
    assert NameVectors(text_encoder=encoder, recipe="own")(WORDS).shape == (4, encoder.dim)
