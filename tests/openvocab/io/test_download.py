"""Downloads, from this machine only."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from openvocab.errors import WeightsError
from openvocab.io import cache_dir, download

CONTENT = b"weights" * 50_000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if self.path == "/broken" else CONTENT)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source" / "w b.pth"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


def test_file_url(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "w.pth"
    assert download(source.as_uri(), target, sha256=SHA.upper()) == target
    assert target.read_bytes() == CONTENT and len(list(target.parent.iterdir())) == 1


def test_http(server: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert download(f"{server}/w.pth", tmp_path / "w.pth", sha256=SHA).read_bytes() == CONTENT
    assert "w.pth" in capsys.readouterr().err  # the bar
    download(f"{server}/w.pth", tmp_path / "again.pth", sha256=SHA, progress=False)
    assert capsys.readouterr().err == ""


def test_a_wrong_hash_leaves_nothing_and_keeps_the_old_file(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "w.pth"
    with pytest.raises(WeightsError, match=f"its sha256 is {SHA}, expected {'0' * 64}"):
        download(source.as_uri(), target, sha256="0" * 64)
    assert list(target.parent.iterdir()) == []
    target.write_text("old")
    with pytest.raises(WeightsError, match="is not the expected file"):
        download(source.as_uri(), target, sha256="0" * 64)
    assert target.read_text() == "old" and len(list(target.parent.iterdir())) == 1


def test_a_file_that_is_there_is_not_fetched_again(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "w.pth"
    target.write_bytes(CONTENT)
    source.unlink()
    assert download(source.as_uri(), target, sha256=SHA) == target


def test_a_damaged_file_is_replaced(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "w.pth"
    target.write_bytes(CONTENT[:10])
    assert download(source.as_uri(), target, sha256=SHA).read_bytes() == CONTENT


@pytest.mark.parametrize("sha", ["", "abc", SHA[:-1], SHA + "0", "g" * 64, None])
def test_the_hash_is_not_optional(source: Path, tmp_path: Path, sha: str) -> None:
    with pytest.raises(WeightsError, match="without its sha256"):
        download(source.as_uri(), tmp_path / "w.pth", sha256=sha)


@pytest.mark.parametrize("url", ["ftp://host/w", "data:,x", "/etc/hostname", "detectron2://x", "C:/x", ""])
def test_other_urls(tmp_path: Path, url: str) -> None:
    with pytest.raises(WeightsError, match="only http"):
        download(url, tmp_path / "w.pth", sha256=SHA)


@pytest.mark.parametrize("page", ["missing", "broken", "away"])
def test_failures_are_a_sentence_and_leave_nothing(server: str, tmp_path: Path, page: str) -> None:
    with pytest.raises(WeightsError, match=page):
        download(f"{server}/{page}", tmp_path / "w.pth", sha256=SHA, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_absent_sources(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nothing.pth"):
        download((tmp_path / "nothing.pth").as_uri(), tmp_path / "w.pth", sha256=SHA)
    with pytest.raises(WeightsError, match="file of this machine"):
        download("file://otherhost/w.pth", tmp_path / "w.pth", sha256=SHA)


def test_default_place(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    path = download(source.as_uri(), sha256=SHA)
    assert path == tmp_path / "cache" / "openvocab" / SHA[:16] / "w b.pth" and path.read_bytes() == CONTENT
    monkeypatch.delenv("FVCORE_CACHE")
    assert cache_dir() == Path.home() / ".torch" / "iopath_cache"
