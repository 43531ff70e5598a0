"""Parts of processes as files, in one process; several are in test_distributed.py."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
import pytest

from openvocab.errors import EvaluationError
from openvocab.evaluation.gather import gather_by_files


def save(file: IO) -> None:
    np.savez(file, a=np.arange(3))


def test_what_is_saved_comes_back_and_no_file_stays(tmp_path: Path) -> None:
    assert gather_by_files(save, lambda c: c["a"].tolist(), tmp_path / "new") == [[0, 1, 2]]
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("content", [b"PK\x03\x04 half a file", b"", b"no zip at all"])
def test_a_damaged_part_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(EvaluationError, match=r"rank 0 finds .*rank0.npz damaged .*is the disk full"):
        gather_by_files(lambda file: file.write(content), lambda c: c["a"], tmp_path)
    with pytest.raises(EvaluationError, match="damaged"):
        gather_by_files(save, lambda c: c["missing"], tmp_path)
    assert list(tmp_path.iterdir()) == []
