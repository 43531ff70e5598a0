"""Promise 1: loading weights never executes code unless the user passes an explicit flag; sha256 is checked first."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from openvocab.engine import train
from openvocab.errors import WeightsError
from openvocab.io import download, load_weights
from openvocab.modeling import efficientnet_lite
from tests.faults.traps import Trap
from tests.openvocab.engine.toys import toy_config

TENSORS = {"w": torch.ones(2)}


def zipped(path: Path, trap: Trap) -> None:
    torch.save({"model": TENSORS, "extra": trap}, path)


def inside_the_model(path: Path, trap: Trap) -> None:
    torch.save({"model": {**TENSORS, "evil": trap}}, path)


def legacy(path: Path, trap: Trap) -> None:
    torch.save({"model": TENSORS, "extra": trap}, path, _use_new_zipfile_serialization=False)


def plain_pickle(path: Path, trap: Trap) -> None:
    path.write_bytes(pickle.dumps({"w": trap}))


def old_pickle(path: Path, trap: Trap) -> None:
    path.write_bytes(pickle.dumps({"w": trap}, protocol=2))


def replaced_in_the_archive(path: Path, trap: Trap) -> None:
    """A good archive whose data.pkl somebody exchanged."""
    buffer = io.BytesIO()
    torch.save(TENSORS, buffer)
    with zipfile.ZipFile(buffer) as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, pickle.dumps(trap, protocol=2) if name.endswith("data.pkl") else good.read(name))


MAKERS = [zipped, inside_the_model, legacy, plain_pickle, old_pickle, replaced_in_the_archive]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it_ran"


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pkl", ".safetensors", ".ckpt", ""])
@pytest.mark.parametrize("make", MAKERS)
def test_no_file_runs_code(tmp_path: Path, mark: Path, make: Callable, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    make(path, Trap(mark))
    with pytest.raises(WeightsError, match="weights"):
        load_weights(path)
    assert not mark.exists()


@pytest.mark.parametrize("make", [zipped, legacy, plain_pickle])
def test_the_trap_works(tmp_path: Path, mark: Path, make: Callable) -> None:
    """With the explicit flag it does run: so the tests above show something."""
    path = tmp_path / ("w.pkl" if make is plain_pickle else "w.pth")
    make(path, Trap(mark))
    try:
        load_weights(path, allow_pickle=True)
    except WeightsError:
        pass  # what os.system returns is no tensor
    assert mark.exists()


def test_the_refusal_names_the_call_and_the_way_out(tmp_path: Path, mark: Path) -> None:
    zipped(tmp_path / "w.pth", Trap(mark))
    with pytest.raises(WeightsError) as caught:
        load_weights(tmp_path / "w.pth")
    text = str(caught.value)
    assert "posix.system" in text and "allow_pickle=True" in text and "safetensors" in text and "\n" not in text


def test_torchscript_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.pth"
    torch.jit.save(torch.jit.trace(nn.Linear(1, 1), torch.zeros(1, 1)), str(path))
    calls: list[object] = []
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: calls.append(a))
    with pytest.raises(WeightsError, match="TorchScript"):
        load_weights(path)
    assert calls == []


@pytest.mark.parametrize("make", [zipped, plain_pickle])
def test_training_from_such_a_file_runs_nothing(tmp_path: Path, mark: Path, make: Callable) -> None:
    make(tmp_path / "w.pth", Trap(mark))
    with pytest.raises(WeightsError):
        train(toy_config(tmp_path / "out", init_checkpoint=str(tmp_path / "w.pth")))
    assert not mark.exists()


def test_a_hash_is_checked_before_the_file_can_be_used(tmp_path: Path, mark: Path) -> None:
    source, target = tmp_path / "source.pth", tmp_path / "target.pth"
    torch.save(TENSORS, source)
    expected = hashlib.sha256(source.read_bytes()).hexdigest()
    zipped(source, Trap(mark))
    with pytest.raises(WeightsError, match="is not the expected file"):
        download(source.as_uri(), target, sha256=expected)
    assert not target.exists() and not mark.exists()


def test_weights_of_packages_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(efficientnet_lite.SHA256, "efficientnet_lite0", "0" * 64)
    with pytest.raises(WeightsError, match="sha256 differs"):
        efficientnet_lite.lite_state_dict("efficientnet_lite0")
