"""tools/demo.py from the command line, with a detector of coloured rectangles in a user's own config."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from openvocab.errors import ConfigError, InputError, OpenVocabError, PromptError, VocabularyError, WeightsError
from openvocab.io import save_weights
from tests.openvocab.colours import paint, write_config

ROOT = Path(__file__).resolve().parents[2]
RED, BLUE = (20, 30, 70, 90), (100, 10, 140, 60)


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_under_test", ROOT / "tools" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(demo: ModuleType, tmp_path: Path) -> Callable[..., int]:
    config = write_config(tmp_path)
    return lambda *args: demo.main(["--model", str(config), "--output", str(tmp_path / "out"), *map(str, args)])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(paint((120, 160), red=RED, blue=BLUE)).save(folder / "a.png")
    Image.fromarray(paint((120, 160), red=RED)).save(folder / "b.jpg")
    return folder


def test_a_picture(run: Callable, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("--input", pictures / "a.png", "--text", "red box. blue box.") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith(("red", "blue"))]
    assert [row[:3] for row in rows] == [["red", "box", "0.900"], ["blue", "box", "0.700"]]
    assert np.abs(np.array(rows[0][3:], dtype=float) - RED).max() < 3
    before, after = (np.asarray(Image.open(p)).astype(int) for p in (pictures / "a.png", tmp_path / "out" / "a.png"))
    assert after.shape == before.shape and (after != before).any()


def test_a_folder_as_json(run: Callable, pictures: Path, tmp_path: Path) -> None:
    assert run("--input", pictures, "--text", "red. blue.", "--json", "--top", 1) == 0
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [Path(r["file"]).name for r in content["results"]] == ["a.png", "b.jpg"] and content["threshold"] == 0.3
    assert [[d["name"] for d in r["detections"]] for r in content["results"]] == [["red"], ["red"]]
    assert all(Path(r["drawn"]).is_file() for r in content["results"])
    assert run("--input", pictures / "a.png", "--text", "red.", "--json", tmp_path / "own" / "x.json") == 0
    assert len(json.loads((tmp_path / "own" / "x.json").read_text())["results"]) == 1


def test_ways_to_say_what(run: Callable, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "names.txt").write_text("red\nblue\n")
    for words in (["--caption", "a red box by a blue box"], ["--vocabulary", tmp_path / "names.txt"]):
        assert run("--input", pictures / "a.png", *words) == 0
        out = capsys.readouterr().out
        assert "red" in out and "blue" in out and "0.700" in out
    assert run("--input", pictures / "a.png", "--vocabulary", "coco") == 0  # 80 names in several prompts of 64 tokens
    assert "nothing found" in capsys.readouterr().out
    assert run("--input", pictures / "a.png", "--text", "red. blue.", "--threshold", "0.8") == 0
    assert "blue" not in capsys.readouterr().out


def test_one_name_a_thing(run: Callable, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    for overlap, count in (("0.7", 1), ("1", 2)):
        assert run("--input", pictures / "b.jpg", "--text", "red. red box.", "--overlap", overlap) == 0
        assert sum(line.startswith("red") for line in capsys.readouterr().out.splitlines()) == count


def test_inputs_are_never_overwritten(run: Callable, pictures: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(paint((60, 60))).save(other / "a.png")
    before = {p: p.read_bytes() for p in (*pictures.iterdir(), other / "a.png")}
    assert run("--input", pictures, other, "--text", "red.", "--output", pictures) == 0
    assert all(p.read_bytes() == content for p, content in before.items())
    assert sorted(p.name for p in pictures.iterdir()) == ["a-2.png", "a-3.png", "a.png", "b-2.jpg", "b.jpg"]
    with pytest.raises(ConfigError, match="is one of the inputs"):
        run("--input", pictures / "a.png", "--text", "red.", "--json", pictures / "a.png")


def test_bad_files_in_a_folder(run: Callable, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    (pictures / "broken.jpg").write_bytes(b"not a picture")
    assert run("--input", pictures, "--text", "red.") == 0
    captured = capsys.readouterr()
    assert "warning:" in captured.err and "broken.jpg" in captured.err
    assert "2 of 3 files done, 1 could not be read" in captured.out
    for name in ("a.png", "b.jpg"):
        (pictures / name).write_bytes(b"")
    assert run("--input", pictures, "--text", "red.") == 1
    assert "0 of 3 files done, 3 could not be read" in capsys.readouterr().out


def test_samples(run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("skimage")
    assert run("--samples", "--json") == 0
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    prompts = {Path(r["file"]).stem: r["vocabulary"] for r in content["results"]}
    assert prompts["chelsea"] == ["cat"] and len(prompts) >= 4
    assert all(Path(r["drawn"]).is_file() and Path(r["file"]).is_file() for r in content["results"])


def test_a_video(run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("av")
    from openvocab.media import open_video, video_writer

    with video_writer(tmp_path / "clip.mp4", fps=10) as write:
        for i in range(6):
            write(paint((120, 160), red=(10 * i, 30, 10 * i + 50, 90)))
    assert run("--input", tmp_path / "clip.mp4", "--text", "red.") == 0
    content = json.loads((tmp_path / "out" / "clip.json").read_text())
    assert [f["frame"] for f in content["frames"]] == list(range(6)) and content["frames"][5]["seconds"] == 0.5
    for i, frame in enumerate(content["frames"]):
        assert abs(frame["detections"][0]["box"][0] - 10 * i) < 4
    with open_video(tmp_path / "out" / "clip.mp4") as (info, frames):
        assert len(list(frames)) == 6 and info.fps == 10
    assert "6 detections in 6 frames" in capsys.readouterr().out
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="bad.mp4"):
        run("--input", tmp_path / "bad.mp4", "--text", "red.")


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (["--text", ""], VocabularyError, "prompt is empty"),
        (["--text", " . "], VocabularyError, "prompt is empty"),
        (["--text", "word " * 600], VocabularyError, "the limit is"),
        (["--caption", "a cat and " * 600], PromptError, "tokens"),
        (["--caption", ""], PromptError, "caption is"),
        (["--caption"], WeightsError, "cannot write captions: they were trained for detection"),
        (["--question", "why?"], WeightsError, "cannot answer questions.*shapes_tasks.py"),
        (["--text", "red.", "--masks"], WeightsError, "cannot give masks: they were trained for detection.*shapes_masks.py"),
        (["--question", "why?", "--caption"], ConfigError, "not allowed with"),
        (["--vocabulary", "cocoo"], VocabularyError, "cocoo"),
        ([], VocabularyError, "say what to look for"),
        (["--text", "red.", "--threshold", "7"], ConfigError, "threshold 7"),
        (["--text", "red.", "--top", "0"], ConfigError, "top 0"),
        (["--text", "red.", "--device", "abacus"], ConfigError, "abacus"),
        (["--text", "red.", "--model", "defualt"], ConfigError, "Did you mean 'default'"),
        (["--text", "red.", "--weights", "absent.pth"], WeightsError, "absent.pth"),
        (["--text", "red.", "--vocabulary", "coco"], ConfigError, "not allowed with"),
        (["--text", "red.", "--wieghts", "x"], ConfigError, "wieghts"),
    ],
)
def test_bad_options(run: Callable, pictures: Path, args: list[str], error: type[OpenVocabError], message: str) -> None:
    with pytest.raises(error, match=message):
        run("--input", pictures / "a.png", *args)


def test_the_default_says_what_it_was_trained_for(demo: ModuleType) -> None:
    """Asked for each of the other tasks, the shipped weights name the one they know; asked for boxes, they are silent."""
    from openvocab import load_predictor

    default = load_predictor("default", device="cpu")
    questions = ((None, True, "give masks"), ("why?", False, "answer questions"), (demo.WRITE, False, "write captions"))
    for asked, masks, words in questions:
        with pytest.raises(WeightsError, match=f"^these weights cannot {words}: they were trained for detection. Train some with:"):
            demo.check_asked(default, asked, [], masks)
    demo.check_asked(default, None, [])


def test_bad_inputs(run: Callable, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "zero.jpg").write_bytes(b"")
    for path, message in (("empty", "holds no pictures"), ("absent.jpg", "no file or folder"), ("zero.jpg", "zero.jpg")):
        with pytest.raises(InputError, match=message):
            run("--input", tmp_path / path, "--text", "red.")
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        run("--input", pictures / "a.png", "--text", "red.", "--output", tmp_path / "zero.jpg")


@pytest.mark.slow
def test_as_a_command(pictures: Path, tmp_path: Path) -> None:
    """One sentence on standard error, exit code 2, no traceback; and a run that works."""
    config, weights = write_config(tmp_path), tmp_path / "other.safetensors"
    save_weights(weights, {"backbone.weight": torch.ones(3)})
    command = [sys.executable, "-W", "ignore", str(ROOT / "tools" / "demo.py"), "--model", str(config), "--text", "red."]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env.pop("OPENVOCAB_DEBUG", None)

    def call(*args: object) -> subprocess.CompletedProcess:
        return subprocess.run([*command, *map(str, args)], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    bad = call("--input", pictures / "a.png", "--weights", weights)
    assert bad.returncode == 2 and "Traceback" not in bad.stderr
    assert bad.stderr.splitlines()[-1].startswith("error: these weights are made for another architecture")
    good = call("--input", pictures / "a.png")
    assert good.returncode == 0 and "red" in good.stdout and (tmp_path / "output" / "demo" / "a.png").is_file()
