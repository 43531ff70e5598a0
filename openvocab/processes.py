"""Independent pieces of work in several processes of one machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from openvocab.errors import ConfigError

Unit, Found = TypeVar("Unit"), TypeVar("Found")
MOST = 61  # processes; more are refused on Windows


def in_processes(
    run: Callable[[Unit], Found], units: Sequence[Unit], *, jobs: int, begin: Callable[..., None], args: tuple = ()
) -> list[Found]:
    """Let `jobs` new processes take the next unit each; the first fault, or Ctrl-C, ends them all at once.

    Args:
        run: what is done with a unit; a function of a module, as `begin` is.
        begin: called as `begin(*args)` in each process before its first unit.

    Returns:
        what `run` gave, in the order of the units.

    Raises:
        ConfigError: if a process was killed. What `run` raises comes as it is.
    """
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=begin, initargs=args)
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
