"""tools/pseudo_boxes.py: grounding data from captions; it goes on after a stop, and never leaves half a file."""

from __future__ import annotations

import base64
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import openvocab
from openvocab import Detections
from openvocab.data import DatasetMapper
from openvocab.data.grounding import load_odvg_records
from openvocab.errors import ConfigError, DataError, PromptError
from openvocab.testing import ShapesWorld, caption_of

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["a red car and two dogs", "quickly", "a cat", "a dog beside the very long wall"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pseudo_boxes_under_test", ROOT / "tools/pseudo_boxes.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Oracle:
    """Finds phrase i of a caption in the box (i, i, i + 10, i + 10), with a score of 0.9; refuses captions with "long"."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def batch(self, images, captions, *, batch_size):
        if any("long" in c.text for c in captions):
            raise PromptError("too long")
        self.asked += [c.text for c in captions]
        return [self._found(i.shape[:2], c) for i, c in zip(images, captions, strict=True)]

    @staticmethod
    def _found(size, caption) -> Detections:
        number = 0 if "cat" in caption.text else len(caption)
        boxes = [[i, i, i + 10, i + 10] for i in range(number)]
        names = list(caption.names)
        phrases = tuple(caption.phrases)
        return Detections(boxes, [0.9] * number, names[:number], size, vocabulary=names, caption=caption.text, phrases=phrases)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Oracle]:
    """A folder with five captions, the last of a broken picture; and the teacher that the tool will get."""
    for i in range(4):
        Image.fromarray(np.full((40, 60, 3), 40 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "4.png").write_text("no picture")
    lines = [f"{i}.png\t{text}\n" for i, text in enumerate([*TEXTS, "a broken window"])]
    (tmp_path / "c.tsv").write_text("".join(lines))
    oracle = Oracle()
    monkeypatch.setattr(openvocab, "load_predictor", lambda *_, **__: oracle)
    return tmp_path, oracle


def options(folder: Path, *more: object) -> list[str]:
    base = ["--images", folder, "--captions", folder / "c.tsv", "--output", folder / "out.jsonl", "--batch-size", 2]
    return [str(o) for o in (*base, *more)]


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


def test_rows_are_grounding_data(tool: ModuleType, world: tuple[Path, Oracle], capsys: pytest.CaptureFixture) -> None:
    folder, _ = world
    assert tool.main(options(folder)) == 0
    (row,) = rows(folder)
    assert (row["filename"], row["height"], row["width"]) == ("0.png", 40, 60)
    regions = row["grounding"]["regions"]
    assert [r["phrase"] for r in regions] == ["a red car", "two dogs"] and regions[1]["tokens_positive"] == [[14, 22]]
    assert regions[1]["bbox"] == [1.0, 1.0, 11.0, 11.0] and regions[1]["score"] == 0.9
    said = capsys.readouterr()
    assert "1 of 5 captions have boxes, 1 bad picture, 1 no box, 1 no noun phrase, 1 too long" in said.out
    assert "4.png is left out" in said.err and not (folder / "out.jsonl.partial").exists()

    (record,) = load_odvg_records(folder / "out.jsonl", folder, "pseudo")
    sample = DatasetMapper(is_train=True)(record)
    assert sample["caption"].names == ("a red car", "two dogs") and sample["instances"].gt_classes.tolist() == [0, 1]


def test_pictures_in_rows_stay_there(tool: ModuleType, world: tuple[Path, Oracle]) -> None:
    """GLIP's tsv files: the tool reads pictures from their rows, and so does training with what it wrote."""
    folder, _ = world
    content = base64.b64encode((folder / "1.png").read_bytes()).decode()
    (folder / "p.img.tsv").write_text(f"k\t{content}\n")
    (folder / "p.label.tsv").write_text("k\t" + json.dumps({"caption": TEXTS[0]}) + "\n")
    (folder / "p.yaml").write_text("img: p.img.tsv\nlabel: p.label.tsv\n")
    assert tool.main(options(folder, "--captions", folder / "p.yaml")) == 0
    (row,) = rows(folder)
    assert row["filename"] == "p.img.tsv@0" and len(row["grounding"]["regions"]) == 2
    (record,) = load_odvg_records(folder / "out.jsonl", folder, "pseudo")
    assert DatasetMapper(is_train=True)(record)["image"].unique().tolist() == [40]


def test_it_goes_on_where_it_was(tool: ModuleType, world: tuple[Path, Oracle], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, oracle = world
    assert tool.main(options(folder)) == 0
    whole = (folder / "out.jsonl").read_bytes()
    (folder / "out.jsonl").unlink()

    class Stop(Exception):
        pass

    annotate: Callable = tool.annotate

    def stopping(predictor, pictures, images, first, backend):
        if first == 2:
            raise Stop
        return annotate(predictor, pictures, images, first, backend)

    monkeypatch.setattr(tool, "annotate", stopping)
    with pytest.raises(Stop):
        tool.main(options(folder))
    partial = folder / "out.jsonl.partial"
    assert not (folder / "out.jsonl").exists() and len(partial.read_text().splitlines()) == 3
    partial.write_bytes(partial.read_bytes() + b'{"filename": "2.p')  # killed within a line
    monkeypatch.setattr(tool, "annotate", annotate)
    oracle.asked.clear()
    assert tool.main(options(folder)) == 0
    assert (folder / "out.jsonl").read_bytes() == whole and TEXTS[0] not in oracle.asked


def test_other_settings_do_not_go_on(tool: ModuleType, world: tuple[Path, Oracle]) -> None:
    folder, _ = world
    tool.PartialFile(folder / "out.jsonl", {"threshold": 0.1})
    with pytest.raises(DataError, match="other settings"):
        tool.main(options(folder))
    assert tool.main(options(folder, "--overwrite")) == 0
    with pytest.raises(DataError, match="is there already"):
        tool.main(options(folder))


def test_no_box_at_all(tool: ModuleType, world: tuple[Path, Oracle]) -> None:
    folder, _ = world
    (folder / "c.tsv").write_text("2.png\ta cat\n")
    assert tool.main(options(folder)) == 1 and rows(folder) == []


@pytest.mark.parametrize("bad", [("--threshold", 0), ("--batch-size", 0), ("--phrases", "magic"), ("--weight", "x", "--nothing")])
def test_bad_options(tool: ModuleType, world: tuple[Path, Oracle], bad: tuple) -> None:
    with pytest.raises(ConfigError):
        tool.main(options(world[0], *bad))


@pytest.mark.slow
def test_the_shipped_model_teaches(tmp_path: Path) -> None:
    """From the command line, with the default model and pictures of shapes; its boxes are poor, but they are boxes."""
    lines = []
    for i, scene in enumerate(ShapesWorld().scenes(3)):
        Image.fromarray(scene.image).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png\t{caption_of(scene).text}\n")
    (tmp_path / "c.tsv").write_text("".join(lines))
    command = [sys.executable, str(ROOT / "tools/pseudo_boxes.py"), *options(tmp_path, "--threshold", 0.02, "--device", "cpu")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    records = load_odvg_records(tmp_path / "out.jsonl", tmp_path, "pseudo")
    assert records and all(a["bbox"][2] > a["bbox"][0] for r in records for a in r["annotations"])
