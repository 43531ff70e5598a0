"""Results of all processes on rank 0, through files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from detectron2.utils import comm

from openvocab.errors import EvaluationError
from openvocab.io import atomic_write

T = TypeVar("T")


def gather_by_files(
    save: Callable[[IO], None], load: Callable[[Mapping[str, np.ndarray]], T], folder: str | Path | None = None
) -> list[T] | None:
    """Collect what every process has on rank 0, one npz file a process; a collective call.

    Sent over the network instead, the predictions of a large set would be in memory several times on every process. The files lie
    in a new folder each time, so what a killed run left is never read, and it is removed whatever happens.

    Args:
        save: writes this process's part as npz into an open file.
        load: reads a part from the arrays of such a file.
        folder: where the files go for a moment; all processes must see it. By default the system's temporary folder.

    Returns:
        the parts in order of rank, on rank 0; None elsewhere.

    Raises:
        EvaluationError: on every process, if one of them could not write, or rank 0 cannot read the file of another.
    """
    place = comm.all_gather(_make(folder) if comm.is_main_process() else "")[0]
    try:
        _raise_first(comm.all_gather(_write(place, save)))
        parts, problem = _read(place, load) if comm.is_main_process() else (None, "")
        _raise_first(comm.all_gather(problem))
        return parts
    finally:
        if comm.is_main_process() and place:
            shutil.rmtree(place, ignore_errors=True)


def gather_rows(rows: np.ndarray, folder: str | Path | None = None, *, distributed: bool = True) -> np.ndarray | None:
    """Return the rows (N, C) int64 of all processes, sorted by their first two columns; None on ranks above 0.

    The first column says which sample a row is of. A sample that two processes saw is as the lower rank saw it.

    Args:
        rows: of this process.
        folder: as for `gather_by_files`.
        distributed: else these rows are all. With it a collective call.

    Raises:
        EvaluationError: as `gather_by_files`.
    """
    parts: list[np.ndarray] | None = [rows]
    if distributed and comm.get_world_size() > 1:
        parts = gather_by_files(lambda file: np.savez(file, rows=rows), lambda content: content["rows"], folder)
    if parts is None:
        return None
    kept, seen = [], np.zeros(0, dtype=np.int64)
    for part in parts:
        kept.append(part[~np.isin(part[:, 0], seen)])
        seen = np.union1d(seen, part[:, 0])
    found = np.concatenate(kept)
    return found[np.lexsort((found[:, 1], found[:, 0]))]


def _read(place: str, load: Callable[[Mapping[str, np.ndarray]], T]) -> tuple[list[T] | None, str]:
    """Read the parts of all ranks; return them, or what went wrong."""
    parts = []
    for rank in range(comm.get_world_size()):
        path = _shard(place, rank)
        try:
            with np.load(path, allow_pickle=False) as content:
                parts.append(load(dict(content)))
        except OSError as error:
            return None, f"rank 0 cannot read {error.filename or path}: set output_dir to a folder that all machines share"
        except Exception as error:  # zip errors have no common base; the other ranks must hear of it
            return None, f"rank 0 finds {path} damaged ({error}); is the disk full, or the folder not shared properly?"
    return parts, ""


def _make(folder: str | Path | None) -> str:
    """Make an empty folder; return its path, or "" if that cannot be done."""
    try:
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        return str(Path(tempfile.mkdtemp(prefix=".shards_", dir=folder)).resolve())
    except OSError:
        return ""


def _shard(place: str, rank: int) -> Path:
    return Path(place) / f"rank{rank}.npz"


def _write(place: str, save: Callable[[IO], None]) -> str:
    """Write this process's part; return what went wrong, or ""."""
    if not place:
        return "rank 0 cannot make a folder for the predictions: set output_dir to one that can be written"
    try:
        with atomic_write(_shard(place, comm.get_rank()), "wb") as file:
            save(file)
    except OSError as error:
        return f"rank {comm.get_rank()} cannot write its predictions to {place}: {error}"
    return ""


def _raise_first(problems: list[str]) -> None:
    for problem in problems:
        if problem:
            raise EvaluationError(problem)
