"""Captions without boxes, from the files people have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openvocab.data.captions import CaptionedPicture, read_captions
from openvocab.errors import DataError

WANTED = [CaptionedPicture("a.png", "a red car"), CaptionedPicture("b/c.png", "two dogs"), CaptionedPicture("a.png", "a car")]


def write(folder: Path, kind: str) -> Path:
    """The same three captions in each form."""
    if kind == "coco":
        images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b/c.png"}]
        rows = [{"image_id": 1 if w.file_name == "a.png" else 2, "caption": f" {w.caption}\n"} for w in WANTED]
        (folder / "c.json").write_text(json.dumps({"images": images, "annotations": rows}))
        return folder / "c.json"
    if kind == "tsv":
        (folder / "c.tsv").write_text("".join(f"{w.file_name}\t{w.caption}\tmore\n" for w in WANTED))
        return folder / "c.tsv"
    keys = ("filename", "image", "file_name")
    lines = [json.dumps({k: w.file_name, "caption": w.caption}) + "\n\n" for k, w in zip(keys, WANTED, strict=True)]
    (folder / "1.jsonl").write_text("".join(lines[:2]))
    (folder / "2.jsonl").write_text(lines[2])
    return folder


@pytest.mark.parametrize("kind", ["coco", "tsv", "jsonl"])
def test_all_forms_say_the_same(tmp_path: Path, kind: str) -> None:
    assert read_captions(write(tmp_path, kind), tmp_path) == WANTED


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.tsv", "a.png\n", "line 1: the file name 'a.png' and the caption None"),
        ("c.tsv", "../a.png\ta cat\n", "leaves the images folder"),
        ("c.jsonl", "{\n", "line 1 is no json"),
        ("c.jsonl", '{"caption": "a cat"}\n', "line 1: the file name None"),
        ("c.jsonl", "", "holds no captions"),
        ("c.json", '{"images": [], "annotations": [{"image_id": 3, "caption": "a"}]}', "caption number 0: the file name None"),
        ("c.csv", "a.png,a cat", "not from"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_captions(tmp_path / name, tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or folder"):
        read_captions(tmp_path / "x.tsv", tmp_path)
    with pytest.raises(DataError, match=r"no \.jsonl files"):
        read_captions(tmp_path, tmp_path)
