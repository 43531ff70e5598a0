"""Stopping a run early without losing it: signals and a time limit."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType

from openvocab.errors import OpenVocabError


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal; its checkpoint is saved and the message says how to go on. Tools exit with 130."""


class LeftEarly(OpenVocabError):
    """A piece of work was left because the run is to stop."""


class StopRequest:
    """Notes that the run should stop at the next chance; used as a context, in which SIGTERM and Ctrl-C are only noted.

    A second Ctrl-C raises KeyboardInterrupt at once. Signals can only be caught in the main thread; elsewhere only the time
    limit works.

    Args:
        max_seconds: from entering the context; 0: no limit.
    """

    def __init__(self, *, max_seconds: float = 0.0) -> None:
        self.max_seconds, self.signal_name = max_seconds, ""
        self._start = time.monotonic()
        self._old: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        self._start = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._old = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name

    @property
    def out_of_time(self) -> bool:
        return self.max_seconds > 0 and time.monotonic() - self._start >= self.max_seconds

    @property
    def requested(self) -> bool:
        return bool(self.signal_name) or self.out_of_time

    def watch(self, loader: Iterable) -> Watched:
        """Return the loader; its iteration raises LeftEarly once a signal has come."""
        return Watched(loader, self)


class Watched:
    """See `StopRequest.watch`."""

    def __init__(self, loader: Iterable, stop: StopRequest) -> None:
        self._loader, self._stop = loader, stop

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator:
        for batch in self._loader:
            if self._stop.signal_name:
                raise LeftEarly(f"an evaluation was left because of {self._stop.signal_name}")
            yield batch
