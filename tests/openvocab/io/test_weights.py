"""Weight files: read, refused, written."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from openvocab.config import zoo
from openvocab.errors import ConfigError, WeightsError
from openvocab.io import load_weights, save_weights

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "c": torch.ones(2, dtype=torch.bfloat16)}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


def test_safetensors_round_trip_with_metadata(tmp_path: Path) -> None:
    path = tmp_path / "new" / "w.safetensors"
    save_weights(path, TENSORS, {"note": "naïve 猫"})
    found = load_weights(path)
    assert_same(found.tensors, TENSORS)
    assert found.metadata == {"note": "naïve 猫"}
    assert_same(load_file(path), TENSORS)  # what the library itself reads


def test_shared_and_transposed_tensors_are_written(tmp_path: Path) -> None:
    tied = torch.randn(4, 3)
    tensors = {"in": tied, "out": tied, "turned": tied.t(), "part": tied[1:], "param": nn.Parameter(tied)}
    save_weights(tmp_path / "w.safetensors", tensors)
    assert_same(load_weights(tmp_path / "w.safetensors").tensors, {k: v.detach() for k, v in tensors.items()})


@pytest.mark.parametrize("wrap", [None, "model", "state_dict"])
def test_pth_is_unwrapped(tmp_path: Path, wrap: str | None) -> None:
    path = tmp_path / "w.pth"
    torch.save({wrap: TENSORS, "iteration": 3} if wrap else TENSORS, path)
    assert_same(load_weights(path).tensors, TENSORS)


def test_texts_of_a_checkpoint_become_metadata(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": TENSORS, "config": "a: 1", "vocabulary": {"names": ["cat"]}, "iteration": 3}, path)
    metadata = load_weights(path).metadata
    assert metadata["config"] == "a: 1" and json.loads(metadata["vocabulary"]) == {"names": ["cat"]}
    assert set(metadata) == {"config", "vocabulary"}


def test_pkl_needs_the_flag_and_arrays_become_tensors(tmp_path: Path) -> None:
    path = tmp_path / "zoo.pkl"
    array = np.arange(4, dtype=np.float32)[::-1]
    path.write_bytes(pickle.dumps({"model": {"a": array, "b": np.float64(2)}, "__author__": "somebody"}))
    with pytest.raises(WeightsError, match=r"zoo\.pkl is a pickle.*allow_pickle=True.*safetensors"):
        load_weights(path)
    found = load_weights(path, allow_pickle=True)
    assert found.tensors["a"].tolist() == [3, 2, 1, 0] and found.tensors["b"].item() == 2
    assert found.metadata == {"__author__": "somebody"}


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin"])
def test_torchscript_needs_the_flag(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    module = nn.Linear(2, 3)
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 2)), str(path))
    with pytest.raises(WeightsError, match="TorchScript archive.*allow_pickle=True"):
        load_weights(path)
    assert_same(load_weights(path, allow_pickle=True).tensors, {k: v.detach() for k, v in module.state_dict().items()})


def test_refusal_names_what_would_be_called(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": TENSORS, "best": np.float64(1.0)}, path)
    with pytest.raises(WeightsError, match=r"would call 'numpy.*scalar'.*allow_pickle=True.*tools/convert_weights"):
        load_weights(path)
    assert_same(load_weights(path, allow_pickle=True).tensors, TENSORS)


def test_missing_files_name_the_path_and_the_nearest(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "model_final.pth")
    with pytest.raises(WeightsError, match=r"no weight file .*model_fnal\.pth.*Did you mean 'model_final\.pth'"):
        load_weights(tmp_path / "model_fnal.pth")
    with pytest.raises(WeightsError, match="the folder .*nowhere does not exist"):
        load_weights(tmp_path / "nowhere" / "w.pth")
    with pytest.raises(WeightsError, match="is a folder"):
        load_weights(tmp_path)


def test_zoo_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(tmp_path / "w.safetensors", TENSORS)
    monkeypatch.setattr(zoo.ZooEntry, "weights_path", lambda self: tmp_path / "w.safetensors" if self.weights else None)
    assert_same(load_weights("zoo://default").tensors, TENSORS)
    with pytest.raises(WeightsError, match="'bridge' has no weight file of its own"):
        load_weights("zoo://bridge")
    with pytest.raises(ConfigError, match="Did you mean 'default'"):
        load_weights("zoo://defualt")


@pytest.mark.parametrize("url", ["https://host/w.pth", "detectron2://x.pkl", "s3://b/w.pth"])
def test_nothing_is_downloaded_by_loading(url: str) -> None:
    with pytest.raises(WeightsError, match=rf"fetch {url} with openvocab\.io\.download"):
        load_weights(url)


def header(text: bytes, *, size: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text) if size is None else size) + text + data


BAD_SAFETENSORS = {
    "empty": b"",
    "short": b"\x08\x00",
    "no json": header(b"not json"),
    "header longer than the file": header(b"{}", size=1000),
    "huge header": header(b"{}", size=2**63),
    "truncated data": header(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', data=b"\0" * 8),
    "overlap": header(
        b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
        data=b"\0" * 3,
    ),
    "shape does not fit": header(b'{"a":{"dtype":"F32","shape":[5],"data_offsets":[0,16]}}', data=b"\0" * 16),
    "unknown dtype": header(b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}', data=b"\0" * 4),
    "prose": b"# A readme\n\nNo weights here.\n",
    "gap": header(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}}', data=b"\0" * 5),
}


@pytest.mark.parametrize("content", BAD_SAFETENSORS.values(), ids=BAD_SAFETENSORS.keys())
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_damaged_files_are_a_sentence(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="w.(safetensors|pth) is (damaged|empty)|file .* is empty") as caught:
        load_weights(path)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    assert "weights_only" not in text, "torch's advice on its own argument is none for users of ours"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_or_cut_never_raises_anything_else(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    path = tmp_path / f"w{suffix}"
    save_weights(path, TENSORS) if suffix == ".safetensors" else torch.save({"model": TENSORS}, path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    for _ in range(data.draw(st.integers(0, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        load_weights(path)
    except WeightsError as error:
        assert path.name in str(error)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.ones(2), {"model": {}}, {1: torch.ones(1)}])
def test_files_without_tensors_by_name(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds (a|no) "):
        load_weights(tmp_path / "w.pth")


def test_arrays_that_are_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": np.array(["text"])}))
    with pytest.raises(WeightsError, match="no numbers"):
        load_weights(tmp_path / "w.pkl", allow_pickle=True)


def test_save_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="saved as .safetensors"):
        save_weights(tmp_path / "w.pth", TENSORS)
    with pytest.raises(WeightsError, match="no tensors"):
        save_weights(tmp_path / "w.safetensors", {})
    with pytest.raises(WeightsError, match="'n' is a int"):
        save_weights(tmp_path / "w.safetensors", TENSORS, {"n": 3})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []
