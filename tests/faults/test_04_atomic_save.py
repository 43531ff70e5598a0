"""Promise 4, the files' side: temp file in the same folder, flush and fsync, replace; a failure costs nothing.

The checkpoints' side, with the tag and the fallback, is in test_04_checkpoints.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from openvocab.evaluation import COCODetectionEvaluator
from openvocab.io import atomic, atomic_write, load_weights, save_weights
from tests.openvocab.evaluation.conftest import output


class FullDisk:
    """Pretends that the disk is full when content is forced out to it."""

    def __call__(self, handle: int) -> None:
        raise OSError(28, "No space left on device")


def test_a_full_disk_keeps_the_good_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.ones(1000)})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk())
        with pytest.raises(OSError, match="No space left"):
            save_weights(path, {"a": torch.zeros(1000)})
    assert torch.equal(load_weights(path).tensors["a"], torch.ones(1000)) and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w"
    path.write_text("old")
    monkeypatch.setattr("openvocab.io.atomic.open", lambda *a, **k: open("/dev/full", "wb"), raising=False)  # noqa: SIM115
    with pytest.raises(OSError, match="No space left"), atomic_write(path) as file:
        file.write(b"x" * 10)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_moved_into_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w"
    path.write_text("old")

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(PermissionError), atomic_write(path) as file:
            file.write(b"new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_text("old")
    script = f"""
        import os, runpy, signal  # the file alone: its package imports torch
        atomic_write = runpy.run_path({atomic.__file__!r})["atomic_write"]
        with atomic_write({str(path)!r}, "w") as file:
            file.write("half of the new")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -signal.SIGKILL and path.read_text() == "old"


def test_results_that_cannot_be_written_whole_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations, out = tmp_path / "a.json", tmp_path / "out"
    content = {
        "images": [{"id": 1, "width": 9, "height": 9}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [],
    }
    annotations.write_text(json.dumps(content))
    evaluator = COCODetectionEvaluator(annotations=annotations, output_dir=out)
    evaluator.process([{"image_id": 1}], [output([])])
    evaluator.evaluate()
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk())
        with pytest.raises(OSError, match="No space left"):
            evaluator.evaluate()
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
