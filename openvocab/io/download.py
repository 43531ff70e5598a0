"""Files from elsewhere, only by an explicit call and only with a known sha256."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from openvocab.errors import WeightsError

from .atomic import BLOCK, atomic_write, sha256_file

logger = logging.getLogger(__name__)
TIMEOUT_SECONDS = 30


def cache_dir() -> Path:
    """Return $FVCORE_CACHE, or detectron2's default ~/.torch/iopath_cache."""
    return Path(os.environ.get("FVCORE_CACHE") or "~/.torch/iopath_cache").expanduser()


def download(url: str, path: str | Path | None = None, *, sha256: str, progress: bool = True) -> Path:
    """Fetch a file, unless it is there already, and check it before anyone can see it.

    Args:
        url: http://, https:// or file://.
        path: where to put it; by default below `cache_dir()`.
        sha256: of the whole file, 64 hex digits.
        progress: show a bar.

    Returns:
        where the file is.

    Raises:
        WeightsError: for another kind of URL, no proper sha256, a file that cannot be fetched, or one with another
            sha256 (it is removed; an older file at `path` stays).
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "file"):
        raise WeightsError(f"cannot download '{url}': only http://, https:// and file:// are known")
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise WeightsError(f"cannot download '{url}' without its sha256 (64 hex digits); got {sha256!r:.80}")
    sha256 = sha256.lower()
    name = Path(unquote(parts.path)).name or "download"
    path = Path(path).expanduser() if path is not None else cache_dir() / "openvocab" / sha256[:16] / name
    if path.is_file():
        if sha256_file(path) == sha256:
            return path
        logger.warning("%s is there with another sha256; it is downloaded anew", path)
    try:
        with _open(url) as (source, size), atomic_write(path) as target:
            found = _copy(source, target, size, name, progress)
            if found != sha256:
                raise WeightsError(f"{url} is not the expected file: its sha256 is {found}, expected {sha256}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"cannot download {url} to {path}: {getattr(error, 'reason', None) or error}") from error
    return path


@contextmanager
def _open(url: str) -> Iterator[tuple[IO[bytes], int | None]]:
    """Open a URL; give the stream and its size in bytes, if known."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise WeightsError(f"cannot download '{url}': file:// means a file of this machine, write file:///path")
        path = Path(urllib.request.url2pathname(parts.path))
        with open(path, "rb") as file:
            yield file, path.stat().st_size
        return
    # urllib follows redirects to http, https and ftp only, never to a local file
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as reply:
        length = reply.headers.get("Content-Length", "")
        yield reply, int(length) if length.isdigit() else None


def _copy(source: IO[bytes], target: IO[bytes], size: int | None, name: str, progress: bool) -> str:
    """Copy and return the sha256."""
    from tqdm import tqdm

    digest, total = hashlib.sha256(), 0
    with tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=not progress) as bar:
        while block := source.read(BLOCK):
            target.write(block)
            digest.update(block)
            total += len(block)
            bar.update(len(block))
    if size is not None and total != size:
        raise WeightsError(f"{name} broke off after {total} of {size} bytes; try again")
    return digest.hexdigest()
