"""Vocabularies of the user's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openvocab.errors import VocabularyError
from openvocab.vocabulary import Vocabulary


def written(folder: Path, content: str | bytes, name: str = "names.txt") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def test_text(tmp_path: Path) -> None:
    text = "\ufeff# cells\r\nRBC: red blood cell\r\n\r\n  WBC :white blood cell # a comment\r\nC#\r\nbow_(weapon):\r\nСт. Бернар"
    v = Vocabulary.from_file(str(written(tmp_path, text)))
    assert v.names == ("RBC", "WBC", "C#", "bow_(weapon)", "Ст. Бернар")
    assert v.prompts == ("red blood cell", "white blood cell", "C#", "bow", "Ст. Бернар")


def test_json(tmp_path: Path) -> None:
    assert Vocabulary.from_file(written(tmp_path, '["cat", "dog"]', "a.json")).names == ("cat", "dog")
    v = Vocabulary.from_names(["RBC"], prompts=["red blood cell"], aliases=[["x"]], splits=["novel"], templates=["a {}"])
    assert Vocabulary.from_file(written(tmp_path, json.dumps(v.to_dict()), "b.JSON")) == v


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cat\ndog\n\ncat", r"names\.txt, line 4: 'cat' stands in line 1"),
        ("cat\nd\x00g", r"names\.txt, line 2: the name .* control characters"),
        ("cat\n" + "x" * 300, r"names\.txt, line 2: the name has 300 characters"),
        ("cat: " + "x" * 300, r"names\.txt, line 1: the prompt has 300 characters"),
        ("cat\n: a prompt without a name", r"names\.txt, line 2: the name is blank"),
        ("# nothing\n\n", r"names\.txt holds no names"),
        (b"\xe9t\xe9", r"names\.txt is no UTF-8 text"),
    ],
)
def test_text_errors_name_path_and_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.from_file(written(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["cat",\n"dog"', r"a\.json is no json: .* in line 2"),
        ('["cat", "cat"]', r"a\.json: the name 'cat' is there twice"),
        ('["cat", 3]', r"a\.json: name 1 is 3"),
        ('"cat"', r"a\.json: 'cat' is a string"),
        ("7", r"a\.json: names must be a list"),
        ("{}", r"a\.json: a vocabulary is a dict"),
        ('{"names": ["a"], "prompts": 3}', r"a\.json: prompts must be a list"),
        ("[" * 200_000, r"a\.json"),
    ],
)
def test_json_errors_name_the_path(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.from_file(written(tmp_path, content, "a.json"))


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(VocabularyError, match="no vocabulary file"):
            Vocabulary.from_file(path)


def test_a_picture_is_no_list_of_names(tmp_path: Path) -> None:
    path = written(tmp_path, b"")
    with path.open("wb") as file:
        file.truncate(10_000_001)
    with pytest.raises(VocabularyError, match="10000001 bytes"):
        Vocabulary.from_file(path)
