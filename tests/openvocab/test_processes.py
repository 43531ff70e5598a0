"""Work in several processes: results in order, the first fault, and no process that outlives the one that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from openvocab.errors import ConfigError
from openvocab.processes import in_processes

ROOT = Path(__file__).resolve().parents[2]
WORK = """
import os, sys, time
from pathlib import Path
from openvocab.processes import in_processes

def begin(folder):
    (Path(folder) / str(os.getpid())).touch()

def run(unit):
    time.sleep(600)

if __name__ == "__main__":
    in_processes(run, [1, 2, 3], jobs=2, begin=begin, args=(sys.argv[1],))
"""


def _begin(factor: int) -> None:
    os.environ["OPENVOCAB_TEST_FACTOR"] = str(factor)


def _run(unit: int) -> int:
    if unit < 0:
        raise ConfigError(f"unit {unit}")
    return unit * int(os.environ["OPENVOCAB_TEST_FACTOR"])


@pytest.mark.slow
def test_results_in_order_and_the_first_fault() -> None:
    assert in_processes(_run, [3, 1, 2], jobs=2, begin=_begin, args=(10,)) == [30, 10, 20]
    with pytest.raises(ConfigError, match="unit -1"):
        in_processes(_run, [1, -1, 2], jobs=2, begin=_begin, args=(10,))


def _lives(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    try:
        return state.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """Killed, so that it cannot clean up: what runs in its processes would go on for hours."""
    script, seen = tmp_path / "work.py", tmp_path / "seen"
    script.write_text(WORK)
    seen.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(seen)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        deadline = time.monotonic() + 120
        while len(list(seen.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        children = [int(p.name) for p in seen.iterdir()]
        assert len(children) == 2 and all(map(_lives, children))
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
        deadline = time.monotonic() + 30
        while any(map(_lives, children)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(map(_lives, children))
    finally:
        parent.kill()
        for pid in (int(p.name) for p in seen.iterdir()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
