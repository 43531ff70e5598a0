"""Run a function in several gloo processes, for tests of what ranks do together; it ends whatever the function does."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from openvocab.errors import OpenVocabError

_LAST_WORDS = 3.0  # seconds that the other ranks get after one has failed, for their own reports


class RankError(OpenVocabError, RuntimeError):
    """A rank raised, died or did not end in time; the message holds its traceback.

    Attributes:
        rank: which one; the first to fail.
    """

    def __init__(self, message: str, rank: int) -> None:
        super().__init__(message)
        self.rank = rank


def run_gloo(fn: Callable, *args: object, world_size: int = 2, timeout: float = 120.0, **kwargs: object) -> list:
    """Run `fn(*args, **kwargs)` in `world_size` fresh processes joined in a gloo group.

    In each of them `torch.distributed` is initialised, detectron2's local process group exists, torch uses one thread,
    and RANK, LOCAL_RANK and WORLD_SIZE are set.

    Args:
        fn: any function that cloudpickle takes: also a local one, or a lambda.
        args, kwargs: its arguments; picklable.
        world_size: number of processes.
        timeout: seconds, for everything, starting included; collectives have the same limit.

    Returns:
        what each rank returned, in order of rank; it must be picklable.

    Raises:
        RankError: if a rank raised (with that rank's traceback), ended by a signal or `os._exit`, or was still running
            at the time limit. All processes are gone by then.
    """
    import cloudpickle
    from torch.distributed import TCPStore

    # the store picks its own free port, so no other program can take it in between
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout))
    deadline = time.monotonic() + timeout
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="openvocab_gloo_") as folder:
        task = cloudpickle.dumps((fn, args, kwargs))
        processes = [
            context.Process(target=_rank_main, args=(rank, world_size, store.port, timeout, folder, task), daemon=True)
            for rank in range(world_size)
        ]
        try:
            for process in processes:
                process.start()
            _wait(processes, deadline)
            _raise_first(processes, Path(folder), timeout)
            return [pickle.loads((Path(folder) / f"{rank}.result").read_bytes()) for rank in range(world_size)]
        finally:
            _stop(processes)


def _wait(processes: list[BaseProcess], deadline: float) -> None:
    """Wait until all have ended, or one has failed and the others had their moment, or the time is over."""
    failed = False
    while time.monotonic() < deadline:
        running = [p for p in processes if p.exitcode is None]
        if not running:
            return
        if not failed and any(p.exitcode for p in processes):
            failed, deadline = True, min(deadline, time.monotonic() + _LAST_WORDS)
        wait([p.sentinel for p in running], timeout=max(0.0, min(0.5, deadline - time.monotonic())))


def _raise_first(processes: list[BaseProcess], folder: Path, timeout: float) -> None:
    """Raise for the rank that failed first: the errors of the others mostly follow from it."""
    reports = []
    for rank in range(len(processes)):
        path = folder / f"{rank}.error"
        if path.is_file():
            reports.append((*pickle.loads(path.read_bytes()), rank))
    died = [r for r, p in enumerate(processes) if p.exitcode and not (folder / f"{r}.error").is_file()]
    if died:
        code = processes[died[0]].exitcode
        raise RankError(f"rank {died[0]} ended with exit code {code} and left no traceback", died[0])
    if reports:
        _, text, rank = min(reports)
        raise RankError(f"rank {rank} of {len(processes)} failed:\n{text}", rank)
    late = [rank for rank, process in enumerate(processes) if process.exitcode is None]
    if late:
        raise RankError(f"rank {late[0]} was still running after {timeout:g} s (late: {late}); stopped", late[0])


def _stop(processes: list[BaseProcess]) -> None:
    """End what still runs, first politely."""
    started = [p for p in processes if p.pid is not None]
    for process in started:
        if process.exitcode is None:
            process.terminate()
    for process in started:
        process.join(1.0)
        if process.exitcode is None:
            process.kill()
            process.join()


def _rank_main(rank: int, world_size: int, port: int, timeout: float, folder: str, task: bytes) -> None:
    """One process: join the group, run the task, leave a result or a traceback in `folder`."""
    try:
        _join_group(rank, world_size, port, timeout)
        fn, args, kwargs = pickle.loads(task)
        _leave(Path(folder) / f"{rank}.result", pickle.dumps(fn(*args, **kwargs)))
        _leave_group()
        _end(0)  # all is said: the native threads of a busy machine sometimes abort an ordinary exit
    except BaseException:
        # first the report, then the end, which the other ranks notice; without waiting for a collective to return
        _leave(Path(folder) / f"{rank}.error", pickle.dumps((time.time(), traceback.format_exc())))
        _end(1)


def _end(code: int) -> None:
    """Leave without the interpreter's teardown."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _leave(path: Path, content: bytes) -> None:
    """Write a file in one step."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)


def _join_group(rank: int, world_size: int, port: int, timeout: float) -> None:
    settings = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "OMP_NUM_THREADS": 1}
    os.environ.update({k: str(v) for k, v in settings.items()})
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if loopback:  # works offline, and where the machine's own name has no address
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
    import torch
    import torch.distributed as dist
    from detectron2.utils import comm

    torch.set_num_threads(1)
    limit = timedelta(seconds=timeout)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=limit)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=limit)
    comm.create_local_process_group(world_size)


def _leave_group() -> None:
    """Leave together: nobody goes while others still talk to it."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
