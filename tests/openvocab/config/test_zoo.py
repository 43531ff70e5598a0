"""Models by name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from openvocab.config import ZOO, ZooEntry, find_config, find_model, zoo
from openvocab.errors import ConfigError, WeightsError
from openvocab.io import sha256_file
from openvocab.vocabulary import Vocabulary


def test_names() -> None:
    assert find_model("default") is find_model("zoo://default") is ZOO["default"]
    assert find_model("bridge").weights_path() is None
    with pytest.raises(ConfigError, match="no model 'defualt'. Did you mean 'default'.*Known: default, bridge"):
        find_model("defualt")


@pytest.mark.parametrize("name", ZOO)
def test_entries_are_complete_and_true(name: str) -> None:
    entry = ZOO[name]
    assert entry.licence and entry.note and (entry.config or entry.weights is None)
    if entry.config:
        assert find_config(entry.config).is_file()
    if entry.vocabulary:
        assert len(Vocabulary.builtin(entry.vocabulary)) > 0
    if entry.weights:
        path = Path(zoo.__file__).parents[1] / "weights" / entry.weights
        if path.is_file():
            assert entry.weights_path() == path and sha256_file(path) == entry.sha256
        else:
            with pytest.raises(WeightsError, match="are missing; reinstall"):
                entry.weights_path()


def test_weights_are_checked_before_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "__file__", str(tmp_path / "openvocab" / "config" / "zoo.py"))
    path = tmp_path / "openvocab" / "weights" / "w.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    good = ZooEntry(config="x", weights="w.safetensors", sha256=hashlib.sha256(b"weights").hexdigest())
    assert good.weights_path() == path
    path.write_bytes(b"weightz")
    with pytest.raises(WeightsError, match="is damaged: its sha256 is not"):
        good.weights_path()
    path.unlink()
    with pytest.raises(WeightsError, match="missing"):
        good.weights_path()
