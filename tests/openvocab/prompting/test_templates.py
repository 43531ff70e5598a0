"""Prompt templates."""

from __future__ import annotations

import sys

import pytest

from openvocab.errors import MissingDependencyError, PromptError
from openvocab.prompting import templates
from openvocab.vocabulary import Vocabulary


@pytest.mark.parametrize(("name", "count"), [("plain", 1), ("photo", 1), ("simple7", 7), ("clip80", 80), ("clip81", 81)])
def test_counts(name: str, count: int) -> None:
    if name.startswith("clip"):
        pytest.importorskip("open_clip")
    frames = templates(name)
    assert len(set(frames)) == count
    assert Vocabulary.from_names(["cat"], templates=frames).templates == frames, "each holds {} once"


def test_clip81_is_the_bare_name_and_clips_80() -> None:
    pytest.importorskip("open_clip")
    frames = templates("clip81")
    assert frames[0] == "{}." and frames[1] == "a bad photo of a {}." and "a tattoo of the {}." in frames
    assert templates("clip80") == frames[1:]


def test_unknown() -> None:
    for bad in ("clip82", ["plain"]):
        with pytest.raises(PromptError, match="there are no templates"):
            templates(bad)
    with pytest.raises(PromptError, match="Did you mean 'clip8[01]'"):
        templates("clip82")


def test_without_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip.zero_shot_metadata", None)
    with pytest.raises(MissingDependencyError, match=r"openvocab-detectron2\[clip\]"):
        templates("clip81")
