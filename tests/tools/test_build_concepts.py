"""tools/build_concepts.py: from captions in each form to a concept file that the other tools read."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from openvocab.errors import ConfigError, DataError
from regionclip.pretraining import ConceptPool

from ..regionclip.pretraining.pairs import picture, write_tar

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "build_concepts.py"
CAPTIONS = ["a dog beside two dogs", "the dog eats a birthday cake", "a cake"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_concepts_under_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def pool_of(path: Path) -> dict[str, int]:
    found = ConceptPool.load(path)
    return dict(zip(found.names, found.counts, strict=True))


def source_of(kind: str, folder: Path) -> str:
    """The same captions as a COCO json, as lines, or as a shard with a damaged sample."""
    if kind == "json":
        rows = [{"image_id": i, "id": i, "caption": c} for i, c in enumerate(CAPTIONS)]
        content = {"images": [{"id": i, "file_name": f"{i}.jpg", "height": 4, "width": 4} for i in range(3)], "annotations": rows}
        (folder / "c.json").write_text(json.dumps(content))
    elif kind == "txt":
        (folder / "c.txt").write_text("\n\n".join(CAPTIONS))
    else:
        members = [(f"{i}.{s}", c) for i, t in enumerate(CAPTIONS) for s, c in (("png", picture(i)), ("txt", t.encode()))]
        write_tar(folder / "c.tar", [*members, ("9.txt", b"no picture here")])
    return str(folder / f"c.{kind}")


@pytest.mark.parametrize("kind", ["json", "txt", "tar"])
def test_every_form_of_captions_gives_the_same_pool(
    tool: ModuleType, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    target = tmp_path / "nouns.txt"
    assert tool.main([source_of(kind, tmp_path), "--min-count", "2", str(target)]) == 0
    assert pool_of(target) == {"dog": 3, "cake": 2}
    said = capsys.readouterr()
    assert "2 concepts (dog 3, cake 2)" in said.out
    assert ("1 samples are left out" in said.err) == (kind == "tar")


def test_forms_plurals_and_extra_names(tool: ModuleType, tmp_path: Path) -> None:
    target, source = tmp_path / "nouns.txt", source_of("txt", tmp_path)
    tool.main([source, "--min-count", "1", "--form", "both", "--keep-plurals", str(target)])
    assert pool_of(target) == {"cake": 2, "dog": 2, "birthday cake": 1, "dogs": 1}
    (tmp_path / "names.txt").write_text("dog\nzebra\n")
    tool.main([source, "--min-count", "2", "--extra", str(tmp_path / "names.txt"), str(target)])
    assert pool_of(target) == {"dog": 3, "cake": 2, "zebra": 0}


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["none.txt", "out.txt"], DataError, "none.txt cannot be read"),
        (["no_such_set", "out.txt"], DataError, "no_such_set"),
        (["none.txt", "out.txt", "--min-count", "0"], ConfigError, "--min-count 0"),
        (["none.txt", "out.txt", "--form", "verbs"], ConfigError, "verbs"),
    ],
)
def test_bad_words(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], error: type[Exception], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        tool.main(words)
    assert not (tmp_path / "out.txt").exists()


def test_too_rare_nouns_say_so(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no noun occurs 100 times"):
        tool.main([source_of("txt", tmp_path), str(tmp_path / "out.txt")])
