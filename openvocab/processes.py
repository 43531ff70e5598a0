"""Independent pieces of work in several processes of one machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from typing import TypeVar

from openvocab.errors import ConfigError

Unit, Found = TypeVar("Unit"), TypeVar("Found")
MOST = 61  # processes; more are refused on Windows


def in_processes(
    run: Callable[[Unit], Found], units: Sequence[Unit], *, jobs: int, begin: Callable[..., None], args: tuple = ()
) -> list[Found]:
    """Let `jobs` new processes take the next unit each; the first fault, Ctrl-C, or the end of this process ends them all at once.

    Args:
        run: what is done with a unit; a function of a module, as `begin` is.
        begin: called as `begin(*args)` in each process before its first unit.

    Returns:
        what `run` gave, in the order of the units.

    Raises:
        ConfigError: if a process was killed. What `run` raises comes as it is.
    """
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin, initargs=(begin, args))
    try:
        waiting = [pool.submit(run, unit) for unit in units]
        wait(waiting, return_when=FIRST_EXCEPTION)
        faults = [w.exception() for w in waiting if w.done() and w.exception() is not None]
        if faults:
            raise faults[0]
        return [w.result() for w in waiting]
    except BrokenProcessPool as error:
        raise ConfigError(f"one of {jobs} processes was killed, perhaps for lack of memory; use fewer of them") from error
    finally:
        processes = list((pool._processes or {}).values())  # shutdown forgets them, and waits for what they are at
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _begin(begin: Callable[..., None], args: tuple) -> None:
    """Begin a process, which ends with the one that started it, also if that was killed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin(*args)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)
