"""Results of all processes on rank 0, through files."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from detectron2.utils import comm

from openvocab.errors import EvaluationError
from openvocab.io import atomic_write


def gather_by_files(value: object, folder: str | Path | None = None) -> list | None:
    """Collect a value of every process on rank 0, one file a process; a collective call.

    Sent over the network instead, the predictions of a large set would be in memory several times on every process.

    Args:
        value: what json can hold.
        folder: where the files go for a moment; all processes must see it. By default the system's temporary folder.

    Returns:
        the values in order of rank, on rank 0; None elsewhere.

    Raises:
        EvaluationError: on every process, if one of them could not write, or rank 0 does not see the file of another.
    """
    place = comm.all_gather(_make(folder) if comm.is_main_process() else "")[0]
    try:
        _raise_first(comm.all_gather(_write(place, value)))
        parts, problem = _read(place) if comm.is_main_process() else (None, "")
        _raise_first(comm.all_gather(problem))
        return parts
    finally:
        if comm.is_main_process() and place:
            shutil.rmtree(place, ignore_errors=True)


def _read(place: str) -> tuple[list | None, str]:
    """Read the parts of all ranks; return them, or what went wrong."""
    parts = []
    for rank in range(comm.get_world_size()):
        try:
            parts.append(json.loads(_shard(place, rank).read_text(encoding="utf-8")))
        except OSError as error:
            return None, f"rank 0 cannot read {error.filename}: set output_dir to a folder that all machines share"
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
    return Path(place) / f"rank{rank}.json"


def _write(place: str, value: object) -> str:
    """Write this process's part; return what went wrong, or ""."""
    if not place:
        return "rank 0 cannot make a folder for the predictions: set output_dir to one that can be written"
    try:
        with atomic_write(_shard(place, comm.get_rank()), "w") as file:
            json.dump(value, file)
    except OSError as error:
        return f"rank {comm.get_rank()} cannot write its predictions to {place}: {error}"
    return ""


def _raise_first(problems: list[str]) -> None:
    for problem in problems:
        if problem:
            raise EvaluationError(problem)
