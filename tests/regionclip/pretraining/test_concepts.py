"""Concept pools: what is counted, what is cut, and the files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from openvocab.errors import DataError
from openvocab.prompting import templates
from openvocab.text import HashedTextEncoder
from regionclip.pretraining.concepts import ConceptPool, build_pool, embed_concepts, nouns_of

CAPTIONS = [
    "Two small dogs and a cat sit on a red couch.",
    "a dog sleeps on the couch next to a birthday cake",
    "A man with a red umbrella walks three dogs on the beach",
    "the man cuts a large birthday cake",
    "A group of young people at a table.",
]


def test_heads_and_compounds() -> None:
    assert nouns_of(CAPTIONS[0]) == ["dogs", "cat", "couch"]
    assert nouns_of(CAPTIONS[3], form="head") == ["man", "cake"]
    assert nouns_of(CAPTIONS[3], form="compound") == ["man", "birthday cake"]
    assert nouns_of(CAPTIONS[3], form="both") == ["man", "cake", "birthday cake"]
    assert nouns_of(CAPTIONS[4]) == ["people", "table"]
    assert nouns_of("...") == []


def test_frequency_cut_and_plurals() -> None:
    pool = build_pool(CAPTIONS, min_count=2)
    assert dict(zip(pool.names, pool.counts, strict=True)) == {"dog": 3, "cake": 2, "couch": 2, "man": 2}
    assert pool.names[0] == "dog"
    assert "dogs" in build_pool(CAPTIONS, min_count=1, fold_plurals=False).names
    assert build_pool(["a bus", "a glass", "some grass", "the news"], min_count=1).names == ("bus", "glass", "grass", "news")
    assert pool.cut(3).names == ("dog",)
    with pytest.raises(DataError, match="'dog', has 3"):
        pool.cut(4)
    with pytest.raises(DataError, match="lower min_count"):
        build_pool(CAPTIONS, min_count=100)


def test_extra_names_stand_behind() -> None:
    pool = build_pool(CAPTIONS, min_count=2, extra=["Zebra", "DOG", "traffic  light"])
    assert pool.names[-2:] == ("zebra", "traffic light") and pool.counts[-2:] == (0, 0)
    assert build_pool([], min_count=1, extra=["a", "b"]).names == ("a", "b")


def test_files_have_the_official_form(tmp_path: Path) -> None:
    pool = build_pool(CAPTIONS, min_count=2)
    pool.save(tmp_path / "pool.txt")
    assert (tmp_path / "pool.txt").read_text().splitlines()[0] == "dog,3"
    assert ConceptPool.load(tmp_path / "pool.txt") == pool
    (tmp_path / "bare.txt").write_text("cat\nwine glass,12\n\n")
    assert ConceptPool.load(tmp_path / "bare.txt") == ConceptPool(("cat", "wine glass"), (0, 12))


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("cat,many\n", "line 1: 'cat,many'"), ("cat,1\ncat,2\n", "'cat' is in the pool twice"), (",3\n", "line 1")],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pool.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        ConceptPool.load(tmp_path / "pool.txt")


def test_missing_files_and_names_with_commas_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        ConceptPool.load(tmp_path / "no.txt")
    with pytest.raises(DataError, match="has a comma"):
        ConceptPool(("bow, arrow",), (1,)).save(tmp_path / "pool.txt")


def test_a_string_is_not_a_list_of_its_letters() -> None:
    for given in ({"captions": "a dog and a cat"}, {"captions": ["a dog"], "extra": "dog cat"}):
        with pytest.raises(DataError, match="is one string; give a list of them"):
            build_pool(**{"min_count": 1, **given})
    with pytest.raises(DataError, match="names='dog' is one string"):
        ConceptPool(("cat",), (1,)).extended("dog")


def test_embeddings_are_the_raw_mean_over_81_templates() -> None:
    encoder, pool = HashedTextEncoder(dim=16), ConceptPool(("cat", "wine glass"), (2, 1))
    frames = templates("clip81")
    assert len(frames) == 81
    expected = torch.stack([encoder.encode([f.format(n) for f in frames], normalize=False).mean(0) for n in pool.names])
    torch.testing.assert_close(embed_concepts(pool, encoder), expected)
    assert embed_concepts(ConceptPool(("cat",), (1,)), encoder).shape == (1, 16)
