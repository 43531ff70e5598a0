"""Weight files: read without running anything from them, written whole, loaded with a count of what fitted."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from openvocab.errors import WeightsError

from .atomic import atomic_write

_WRAPPERS = ("model", "state_dict")


@dataclass
class WeightFile:
    """Tensors by name, and text that travelled with them."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class LoadReport:
    """What a load did: names that were matched, missing in the file, unexpected in it, or of another shape."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors matched"]
        for what in ("missing", "unexpected", "mismatched"):
            names = getattr(self, what)
            if names:
                shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                parts.append(f"{len(names)} {what} ({shown})")
        return "; ".join(parts)


def load_weights(path: str | Path, *, allow_pickle: bool = False) -> WeightFile:
    """Read a .safetensors or .pth file.

    Args:
        path: the file. A checkpoint's tensors are looked for under "model" or "state_dict".
        allow_pickle: also read files that may run code while they load: .pkl, TorchScript archives and pickles with other
            objects than tensors. Only for files you trust.

    Raises:
        WeightsError: if the file is missing, damaged, or would need `allow_pickle`.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no weight file {path}")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    if path.suffix == ".pkl" or _is_torchscript(path):
        if not allow_pickle:
            raise WeightsError(f"{path} can run code while it loads; pass allow_pickle=True only if you trust where it came from")
        return WeightFile(_tensors(_load_code(path), path))
    try:
        return WeightFile(_tensors(torch.load(path, map_location="cpu", weights_only=not allow_pickle), path))
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors ({str(error).splitlines()[0][:200]}); if you trust it, load it with allow_pickle=True "
            "or turn it into safetensors with tools/convert_weights.py"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged or no weight file: {str(error).splitlines()[0] if str(error) else 'empty'}") from error


def _load_safetensors(path: Path) -> WeightFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return WeightFile({k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged or no safetensors file: {error}") from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _load_code(path: Path) -> object:
    try:
        if path.suffix == ".pkl":
            with open(path, "rb") as file:
                return pickle.load(file, encoding="latin1")  # noqa: S301  the caller allowed it
        return torch.jit.load(str(path), map_location="cpu").state_dict()
    except Exception as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not tensors by name")
    tensors = {k: torch.as_tensor(v) for k, v in content.items() if isinstance(v, Tensor) or hasattr(v, "__array__")}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors")
    return tensors


def save_weights(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a .safetensors file, whole or not at all."""
    from safetensors.torch import save

    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, dict(metadata or {}))
    with atomic_write(path) as file:
        file.write(data)


def load_into(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    min_matched: int = 1,
    strict: bool = False,
    prefix: str = "",
    allow_nonfinite: bool = False,
) -> LoadReport:
    """Copy tensors into a module by exact name; all else of the module keeps its values.

    Nothing goes through a partial `load_state_dict`, on which detectron2's FrozenBatchNorm2d resets its statistics.

    Args:
        module: where to.
        tensors: from `load_weights`.
        min_matched: fewer matches than this are an error.
        strict: anything missing, unexpected or mismatched is an error.
        prefix: taken off the names in `tensors`; names without it are unexpected.
        allow_nonfinite: accept NaN and infinity.

    Raises:
        WeightsError: as above, with the counts.
    """
    own = module.state_dict()
    given = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    fitting = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    report = LoadReport(
        matched=sorted(fitting),
        missing=sorted(set(own) - set(given)),
        unexpected=sorted((set(given) - set(own)) | {k for k in tensors if not k.startswith(prefix)}),
        mismatched=sorted(set(given) & set(own) - set(fitting)),
    )
    if len(report.matched) < min_matched or (strict and (report.missing or report.unexpected or report.mismatched)):
        raise WeightsError(f"these weights are made for another architecture: {report}")
    if not allow_nonfinite:
        bad = [k for k, v in fitting.items() if v.is_floating_point() and not torch.isfinite(v).all()]
        if bad:
            raise WeightsError(f"{len(bad)} tensors hold NaN or infinity, such as {bad[0]}")
    module.load_state_dict({**own, **{k: v.to(own[k].dtype) for k, v in fitting.items()}})
    return report
