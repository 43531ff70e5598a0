"""What benchmarks share: runs of several sides in turns, the most memory a process held, the machine."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

Run = Callable[[], object]


def seconds(run: Run) -> tuple[float, float]:
    """Time one run: by the clock, and of the processors."""
    start, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - cpu


def in_turns(sides: Mapping[str, Run], runs: int, reference: str = "reference") -> dict[str, dict]:
    """Time the sides in turns, the order reversed every other time; a row each, with ratios to the reference.

    `seconds` and `cpu_seconds` are medians; `time_ratio` is the median of the ratios of neighbours, and `cpu_ratio` that of
    processor seconds, which other programs on the machine disturb less.
    """
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for i in range(runs):
        for name in list(sides)[:: 1 if i % 2 else -1]:
            taken[name].append(seconds(sides[name]))
    return {name: row(times, taken[reference]) for name, times in taken.items()}


def row(times: list[tuple[float, float]], reference: list[tuple[float, float]]) -> dict:
    """Medians of (seconds, processor seconds), and of their ratios to those of the reference."""
    wall, cpu = ([a[k] / max(b[k], 1e-9) for a, b in zip(times, reference, strict=True)] for k in (0, 1))
    return {
        "seconds": statistics.median(t[0] for t in times),
        "cpu_seconds": statistics.median(t[1] for t in times),
        "time_ratio": statistics.median(wall),
        "cpu_ratio": statistics.median(cpu),
        "ratios_from_to": [round(min(wall), 4), round(max(wall), 4)],
    }


def peak_gb() -> float:
    """Most memory this process ever held, in GB (10^9 bytes).

    Linux counts in `ru_maxrss` what the parent held when it started this process; VmHWM is of this process alone.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def machine() -> str:
    """The processor's name, where the system tells it, the number of cores, and the load."""
    names = []
    if Path("/proc/cpuinfo").is_file():
        names = [x.partition(":")[2].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
    load = f", load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    return f"{(names or [platform.machine()])[0]}, {os.cpu_count()} cores{load}"
