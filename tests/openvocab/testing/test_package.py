"""The package's front door, and the command that writes data sets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import openvocab.testing
from openvocab.errors import DataError
from openvocab.testing import Tile, contact_sheet

REPO = Path(__file__).resolve().parents[3]


def test_every_public_name_is_there() -> None:
    for name in openvocab.testing.__all__:
        assert getattr(openvocab.testing, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'ShapeWorld'"):
        _ = openvocab.testing.ShapeWorld


def test_contact_sheet_shows_pictures_boxes_and_words() -> None:
    picture = np.full((20, 30, 3), 90, dtype=np.uint8)
    sheet = np.asarray(contact_sheet([Tile(picture, [(2, 3, 10, 12)], ["words"])] * 3, columns=2, scale=2, lines=1))
    assert (sheet[:40, :60] == 90).all(axis=2).sum() > 2000
    assert tuple(sheet[6, 4]) == (255, 0, 255) and tuple(sheet[23, 19]) == (255, 0, 255)
    assert (sheet[40:58, :60] < 100).all(axis=2).any(), "words stand below"
    with pytest.raises(DataError, match="at least one"):
        contact_sheet([])


def _run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPO / "tools" / "make_shapes.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_make_shapes_writes_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sys.path.insert(0, str(REPO / "tools"))
    try:
        from make_shapes import main
    finally:
        sys.path.pop(0)
    common = ["--num", "3", "--seed", "1"]
    options = ["--taxonomy", "shape", "--rule", "loose:1.5", "--size", "64"]
    assert main(["images", str(tmp_path / "s"), *common, *options]) == 0
    content = json.loads((tmp_path / "s" / "instances_train.json").read_text())
    assert len(content["images"]) == 3 and content["images"][0]["height"] == 64
    assert main(["conventions", str(tmp_path / "c"), *common, "--sets", "full", "upper", "--split", "val"]) == 0
    assert (tmp_path / "c" / "upper" / "instances_val.json").is_file()
    assert main(["clips", str(tmp_path / "clips.npz"), *common, "--frames", "4"]) == 0
    assert np.load(tmp_path / "clips.npz")["frames"].shape == (3, 4, 64, 64, 3)
    assert main(["sheet", str(tmp_path / "sheet.png"), *common]) == 0
    assert Image.open(tmp_path / "sheet.png").size[0] > 3 * 256
    assert str(tmp_path / "sheet.png") in capsys.readouterr().out


def test_make_shapes_says_in_a_sentence_what_is_wrong(tmp_path: Path) -> None:
    done = _run("images", str(tmp_path / "x"), "--taxonomy", "colour_shape")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "Did you mean 'color_shape'?" in done.stderr
