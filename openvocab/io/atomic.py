"""Files that are either whole or not there."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

BLOCK = 1 << 20


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file beside `path`; when the block ends well, flush it to disk and move it into place.

    If the block raises, or the disk is full, `path` keeps its old content and the temporary file is removed.

    Args:
        path: the file to be written; its folder is made if need be.
        mode: "wb" or "w" (UTF-8).

    Raises:
        ValueError: for another mode.
        OSError: if the folder or the file cannot be written.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"atomic_write writes whole files, mode 'wb' or 'w'; got '{mode}'")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name[:100]}.{secrets.token_hex(6)}.tmp"
    try:
        with open(temporary, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Put the new name on disk too, where the system can (POSIX)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some file systems cannot; the content is on disk already
    finally:
        os.close(handle)


def sha256_file(path: str | Path) -> str:
    """Return the sha256 of a file, in hex.

    Raises:
        OSError: if it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
