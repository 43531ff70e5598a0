"""Weight files: read without running anything from them, and written whole."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openvocab.errors import WeightsError, nearest

from .atomic import atomic_write

_WRAPPERS = ("model", "state_dict")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


@dataclass
class WeightFile:
    """Tensors by name, on the CPU, and text that travelled with them."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


def load_weights(path: str | Path, *, allow_pickle: bool = False) -> WeightFile:
    """Read a .safetensors or .pth file; nothing in the file is run.

    Args:
        path: the file, or zoo://NAME for the packaged weights of a model. A checkpoint's tensors are looked for under
            "model" or "state_dict"; its texts, and a "vocabulary" (as json), become the metadata.
        allow_pickle: also read files that may run code while they load: .pkl, TorchScript archives, and pickles that
            hold other objects than tensors. Only for files you trust.

    Raises:
        WeightsError: if the file is missing or damaged, or would need `allow_pickle`, naming what would be called.
    """
    path = _local(str(path))
    if not path.is_file():
        raise WeightsError(_absent(path))
    if path.stat().st_size == 0:
        raise WeightsError(f"the weight file {path} is empty")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    script = _is_torchscript(path)
    if (path.suffix == ".pkl" or script) and not allow_pickle:
        kind = "a TorchScript archive" if script else "a pickle"
        raise WeightsError(f"{path} is {kind}, which can run code while it loads; {_way_out()}")
    if path.suffix == ".pkl" or script:
        return _unwrap(_load_code(path, script), path)
    return _unwrap(load_torch(path, allow_pickle), path)


def _local(source: str) -> Path:
    """Return the path that a path or zoo://NAME means; nothing is downloaded."""
    scheme, separator, name = source.partition("://")
    if not separator:
        return Path(source).expanduser()
    if scheme != "zoo":
        raise WeightsError(
            f"weights are read from files: fetch {source} with openvocab.io.download(url, sha256=...), pass the result"
        )
    from openvocab.config.zoo import find_model

    path = find_model(name).weights_path()
    if path is None:
        raise WeightsError(
            f"the model '{name}' has no weight file of its own; its weights come from installed packages"
        )
    return path


def _way_out() -> str:
    return "if you trust its source, pass allow_pickle=True, or convert it to safetensors with tools/convert_weights.py"


def _absent(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder, not a weight file"
    if not path.parent.is_dir():
        return f"there is no weight file {path}: the folder {path.parent} does not exist"
    return f"there is no weight file {path}.{nearest(path.name, [p.name for p in path.parent.iterdir()])}"


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__


def _load_safetensors(path: Path) -> WeightFile:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return WeightFile({k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata() or {}))
    except Exception as error:  # whatever the bytes make it raise
        raise WeightsError(f"{path} is damaged or no safetensors file: {_reason(error)}") from error


def load_torch(path: Path, allow_pickle: bool = False) -> object:
    """Return what `torch.save` wrote; nothing in the file is run unless the caller allows it.

    Raises:
        WeightsError: if the file is damaged, or would need `allow_pickle`, naming what would be called.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except Exception as error:  # a damaged pickle can raise anything
        unsafe = _GLOBAL.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if unsafe:
            raise WeightsError(
                f"{path} holds more than tensors: loading it would call '{unsafe[1]}'; {_way_out()}"
            ) from error
        # torch's own words are an essay on its defaults
        reason = "it is nothing that torch.save writes" if isinstance(error, pickle.UnpicklingError) else _reason(error)
        raise WeightsError(f"{path} is damaged or no weight file: {reason}") from error


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _load_code(path: Path, script: bool) -> object:
    try:
        if script:
            return torch.jit.load(str(path), map_location="cpu").state_dict()
        with open(path, "rb") as file:
            return pickle.load(file, encoding="latin1")  # noqa: S301  the caller allowed it
    except Exception as error:
        raise WeightsError(f"{path} cannot be read: {type(error).__name__}: {_reason(error)}") from error


def _unwrap(content: object, path: Path) -> WeightFile:
    metadata = _texts(content) if isinstance(content, Mapping) else {}
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not tensors by name")
    tensors = {k: v.detach() for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    arrays = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, (np.ndarray, np.number))}
    try:
        tensors |= {k: torch.as_tensor(np.array(v)) for k, v in arrays.items()}
    except TypeError as error:
        raise WeightsError(f"{path} holds arrays that are no numbers: {_reason(error)}") from error
    if not tensors:
        raise WeightsError(
            f"{path} holds no tensors by name; its keys are {', '.join(map(repr, list(content)[:5])) or 'none'}"
        )
    return WeightFile(tensors, metadata)


def _texts(content: Mapping) -> dict[str, str]:
    texts = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, str)}
    vocabulary = content.get("vocabulary")
    if isinstance(vocabulary, (dict, list)):
        try:
            texts["vocabulary"] = json.dumps(vocabulary)
        except (TypeError, ValueError):
            pass  # tensors under that name, say: no words
    return texts


def save_weights(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a .safetensors file, whole or not at all. Tensors that share memory are written each on its own.

    Raises:
        WeightsError: for another suffix, no tensors, or metadata that is not text.
        OSError: if the file cannot be written; an older file of that name stays as it is.
    """
    from safetensors.torch import save

    path, metadata = Path(path), dict(metadata or {})
    if path.suffix != ".safetensors":
        raise WeightsError(f"weights are saved as .safetensors, not as '{path.name}'")
    if not tensors:
        raise WeightsError(f"there are no tensors to write into {path}")
    wrong = [k for k, v in metadata.items() if not isinstance(k, str) or not isinstance(v, str)]
    if wrong:
        raise WeightsError(f"metadata must be text: '{wrong[0]}' is a {type(metadata[wrong[0]]).__name__}")
    with atomic_write(path) as file:
        file.write(save(_unshared(tensors), metadata))


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        memory = value.untyped_storage().data_ptr()
        own[name] = value.clone() if memory in seen else value
        seen.add(memory)
    return own
