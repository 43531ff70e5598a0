"""Shards: pairs come out as they went in, and what is broken is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from openvocab.data.image import decode_image
from openvocab.errors import DataError
from regionclip.pretraining.shards import TarShards, TsvShards, expand

from .pairs import picture, tar_shards, tsv_shards, write_tar


def contents(shards) -> list[tuple[int, list[str]]]:
    found = []
    for shard in range(len(shards.names)):
        for place, _ in shards.scan(shard, None):
            record = shards.read(place)
            found.append((int(decode_image(record["content"], record["key"])[0, 0, 0]), record["captions"]))
    return found


def test_tars_give_every_pair(tmp_path: Path) -> None:
    shards = TarShards(tar_shards(tmp_path, 3, 4))
    assert contents(shards) == [(n, [f"picture number {n}"]) for n in range(12)]
    assert shards.read((1, 0))["key"] == "part-001.tar/dir/00004"


@pytest.mark.parametrize("index", [True, False])
def test_tsv_files_give_every_pair(tmp_path: Path, index: bool) -> None:
    shards = TsvShards(tsv_shards(tmp_path, 2, 5, index=index))
    assert contents(shards) == [(n, [f"picture number {n}", "a picture"]) for n in range(10)]


@pytest.mark.parametrize("kind", ["tar", "tsv", "tsv with index"])
def test_a_walk_goes_on_from_any_cursor(tmp_path: Path, kind: str) -> None:
    if kind == "tar":
        shards = TarShards(tar_shards(tmp_path, 1, 6))
    else:
        shards = TsvShards(tsv_shards(tmp_path, 1, 6, index=kind != "tsv"))
    whole = list(shards.scan(0, None))
    assert len(whole) == 6
    for i, (_, cursor) in enumerate(whole):
        assert [p for p, _ in shards.scan(0, cursor)] == [p for p, _ in whole[i + 1 :]]


def test_captions_in_json(tmp_path: Path) -> None:
    members = []
    for i, text in enumerate(['{"captions": ["a", "b  c"]}', '{"text": "d"}', '{"size": 3}']):
        members += [(f"{i}.jpg", picture(i)), (f"{i}.json", text.encode())]
    write_tar(tmp_path / "a.tar", [*members, ("9.seg.png", picture(9))])
    assert [c for _, c in contents(TarShards(tmp_path / "a.tar"))] == [["a", "b c"], ["d"], [], []]


def test_plain_texts_and_tags_in_tsv(tmp_path: Path) -> None:
    pattern = tsv_shards(tmp_path, 1, 3, index=False)
    (tmp_path / "train_text_0.tsv").write_text('k0\ta dog\nk1\t{"tags": "cat, dog"}\nk2\t42\n')
    assert [c for _, c in contents(TsvShards(pattern))] == [["a dog"], ["cat, dog"], ["42"]]


def test_patterns(tmp_path: Path) -> None:
    pattern = tar_shards(tmp_path, 3, 1)
    assert expand(pattern) == expand([tmp_path / "*.tar"]) and len(expand(pattern)) == 3
    with pytest.raises(DataError, match="part-007.tar"):
        expand(str(tmp_path / "part-{006..008}.tar").replace("006", "007"))
    with pytest.raises(DataError, match="no shard"):
        expand(str(tmp_path / "*.zip"))


def test_what_is_broken_is_named(tmp_path: Path) -> None:
    tars = TarShards([write_tar(tmp_path / "a.tar", [("1.txt", b"no picture"), ("2.png", picture(2)), ("2.txt", b"\xff\xfe")])])
    places = [p for p, _ in tars.scan(0, None)]
    for place, message in zip(places, ["'1' has no picture", "caption that cannot be read"], strict=True):
        with pytest.raises(DataError, match=message):
            tars.read(place)
    (tmp_path / "b.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match="b.tar is damaged"):
        list(TarShards(tmp_path / "b.tar").scan(0, None))
    pattern = tsv_shards(tmp_path, 1, 2, index=False)
    (tmp_path / "train_text_0.tsv").write_text("k1\ta\nk0\tb\n")
    shards = TsvShards(pattern)
    with pytest.raises(DataError, match="not in one order"):
        shards.read(next(shards.scan(0, None))[0])
    (tmp_path / "train_text_0.tsv").write_text("k0\ta\n")
    with pytest.raises(DataError, match="fewer rows"):
        list(shards.scan(0, None))
    with pytest.raises(DataError, match="neither 'image' nor 'img'"):
        TsvShards(write_tar(tmp_path / "pictures.tsv", []))


def test_a_tar_cut_short_gives_what_is_whole(tmp_path: Path) -> None:
    shards = TarShards(tar_shards(tmp_path, 1, 4))
    whole = [place for place, _ in shards.scan(0, None)]
    path = Path(shards.names[0])
    path.write_bytes(path.read_bytes()[: whole[2][1] + 700])  # inside the third sample
    found, walk = [], shards.scan(0, None)
    with pytest.raises(DataError, match="damaged"):
        while True:
            found.append(next(walk)[0])
    assert found == whole[:2]
