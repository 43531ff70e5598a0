"""Names looked up in files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from detection_hub.modeling import CategoryEmbeddings, TableTextEncoder
from openvocab.errors import TextEncoderError, VocabularyError
from openvocab.text import TextEmbeddings, build_text_encoder, save_text_embeddings
from openvocab.vocabulary import Vocabulary

SHARED = Path(os.environ.get("OPENVOCAB_SHARED_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


def table(names: list[str], seed: int = 0, dim: int = 8) -> TextEmbeddings:
    vectors = torch.randn(len(names), dim, generator=torch.Generator().manual_seed(seed)) * 9
    return TextEmbeddings(vectors, Vocabulary.from_names(names))


def test_names_are_found_whatever_their_capitals(tmp_path: Path) -> None:
    first, second = table(["Cat", "dog"]), table(["cat", "traffic_light"], 1)
    path = tmp_path / "second.safetensors"
    save_text_embeddings(path, second.vectors, vocabulary=second.vocabulary)
    encoder = build_text_encoder("TableTextEncoder", tables=[first, (str(path), second.vocabulary)])
    found = encoder.encode(["cat", "traffic light"])
    expected = torch.stack([first.vectors[0], second.vectors[1]])
    assert torch.allclose(found, torch.nn.functional.normalize(expected, dim=-1), atol=1e-6)
    rows = CategoryEmbeddings(text_encoder=encoder, templates=None, reference=["cat", "dog"])(Vocabulary.from_names(["DOG"]))
    assert rows.shape == (1, 8)


def test_what_a_table_refuses() -> None:
    encoder = TableTextEncoder(tables=[table(["cat", "dog"])])
    with pytest.raises(VocabularyError, match="no table has a vector of 'dogg'.*'dog'"):
        encoder.encode(["cat", "dogg"])
    for tables in ([], [TextEmbeddings(torch.ones(1, 8))], [table(["a"]), table(["b"], dim=4)]):
        with pytest.raises(TextEncoderError, match="know their names"):
            TableTextEncoder(tables=tables)
    with pytest.raises(TextEncoderError, match="not trained"):
        TableTextEncoder(tables=[table(["a"])], frozen=False)


def test_clips_names_differ_once_they_are_centred() -> None:
    """On CLIP's own vectors of COCO's names; on random ones in a cone where the file is not there."""
    path, words = SHARED / "text_embeddings" / "coco_clip_a+cname.npy", Vocabulary.builtin("coco")
    if path.is_file():
        encoder = TableTextEncoder(tables=[(str(path), words)])
    else:
        cone = table(list(words.names), dim=64)
        encoder = TableTextEncoder(tables=[TextEmbeddings(cone.vectors + 18.0, words)])
    raw = encoder.encode(words.names)
    rows = CategoryEmbeddings(text_encoder=encoder, templates=None)
    rows.fit([])
    others = ~torch.eye(80, dtype=torch.bool)
    assert float((raw @ raw.T)[others].mean()) > 0.7
    centred = rows(words)
    assert abs(float((centred @ centred.T)[others].mean())) < 0.05
