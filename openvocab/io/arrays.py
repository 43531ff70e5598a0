"""Files of bare arrays, read without running anything from them: .npy, .npz, and .pth files that hold one tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openvocab.errors import WeightsError

from .weights import WeightFile, load_torch, load_weights

ALONE = "array"


def load_arrays(path: str | Path) -> WeightFile:
    """Read tensors by name from .npz, .safetensors or .pth; one that has no name (.npy, a bare tensor) is called "array".

    Texts of a .npz become the metadata.

    Raises:
        WeightsError: if the file is missing, damaged, holds no numbers, or would run code.
    """
    path = Path(path).expanduser()
    if path.suffix in (".npy", ".npz") and path.is_file():
        return _load_numpy(path)
    if path.suffix in (".pth", ".pt") and path.is_file():
        content = load_torch(path)
        if isinstance(content, Tensor):
            return WeightFile({ALONE: content.detach()})
    return load_weights(path)


def _load_numpy(path: Path) -> WeightFile:
    try:
        content = np.load(path, allow_pickle=False)
        arrays = {ALONE: content} if isinstance(content, np.ndarray) else {k: content[k] for k in content.files}
    except Exception as error:  # whatever the bytes make it raise
        raise WeightsError(f"{path} is damaged, or holds Python objects instead of numbers: {error}") from error
    texts = {k: str(v) for k, v in arrays.items() if v.dtype.kind == "U" and v.ndim == 0}
    try:
        tensors = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items() if k not in texts}
    except TypeError as error:
        raise WeightsError(f"{path} holds arrays that are no numbers: {error}") from error
    if not tensors:
        raise WeightsError(f"{path} holds no numbers")
    return WeightFile(tensors, texts)
