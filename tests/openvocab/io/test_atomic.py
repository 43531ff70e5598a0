"""Files that are whole or not there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from openvocab.io import atomic_write, sha256_file


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(("mode", "content"), [("wb", b"\x00\xff"), ("w", "naïve 猫\n")])
def test_writes_content_into_new_folders(tmp_path: Path, mode: str, content: str | bytes) -> None:
    path = tmp_path / "a" / "b" / "file"
    with atomic_write(path, mode) as file:
        file.write(content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert listing(path.parent) == ["file"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path, "w") as file:
        file.write("new, but only half")
        raise error
    assert path.read_text() == "old" and listing(tmp_path) == ["file"]


def test_the_file_is_not_visible_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as file:
        file.write(b"x" * 100_000)
        file.flush()
        assert not path.exists()
        assert [p.parent for p in tmp_path.iterdir()] == [tmp_path]  # beside it, so that the move is one step
    assert path.stat().st_size == 100_000


def test_content_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda *a: (events.append("replace"), replace(*a))[1])
    with atomic_write(tmp_path / "file") as file:
        file.write(b"1")
    assert events[:2] == ["fsync", "replace"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    plain, atomic = tmp_path / "plain", tmp_path / "atomic"
    plain.write_text("")
    with atomic_write(atomic, "w") as file:
        file.write("")
    assert atomic.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("mode", ["a", "r", "r+", "wb+", "x"])
def test_other_modes_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(ValueError, match="whole files"), atomic_write(tmp_path / "file", mode):
        pass
    assert listing(tmp_path) == []


def test_very_long_names_work(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 240)
    with atomic_write(path, "w") as file:
        file.write("x")
    assert path.read_text() == "x"


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_sha256(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()
