"""Which objects a config that is data (yaml, an override, a checkpoint) may build."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from openvocab.errors import ConfigError

ALLOWED_PREFIXES = (
    "openvocab.", "glipv2.", "regionclip.", "detection_hub.", "projects.",
    "detectron2.modeling.", "detectron2.layers.", "detectron2.solver.", "detectron2.data.transforms.", "detectron2.evaluation.",
    "detectron2.structures.", "torch.nn.", "torch.optim.", "torchvision.ops.", "fvcore.common.param_scheduler.", "fvcore.nn.",
    "timm.models.", "timm.layers.", "timm.create_model",
)  # fmt: skip
FORBIDDEN_PREFIXES = ("openvocab.io.", "openvocab.config.", "openvocab.engine.launch", "openvocab.testing.", "torch.nn.utils.")


def _name_of(target: object) -> str:
    return f"{getattr(target, '__module__', None)}.{getattr(target, '__qualname__', getattr(target, '__name__', ''))}"


def _allowed(name: str) -> bool:
    return name.startswith(ALLOWED_PREFIXES) and not name.startswith(FORBIDDEN_PREFIXES)


def _locate(path: str) -> object:
    """Import the longest module prefix of `path` and walk the rest; modules on the way must stay inside the allowed packages."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            value: object = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(value, part) or part.startswith("__"):
                raise ConfigError(f"the target '{path}' does not exist: '{part}' is not there")
            value = getattr(value, part)
        return value
    raise ConfigError(f"the target '{path}' does not exist")


def check_target(target: object) -> None:
    """Refuse a `_target_` that is not one of the parts a config may build.

    Aliases do not help: the object is looked up and judged by the module and name where it is really defined, so that
    "openvocab.something.os.system" is refused as "posix.system".

    Raises:
        ConfigError: naming the target and what it resolves to.
    """
    if isinstance(target, str):
        if not _allowed(target):
            raise ConfigError(f"the target '{target}' is not allowed in a config that is data; use a .py config for your own code")
        found = _locate(target)
    else:
        found = target
    real = _name_of(found)
    if not callable(found) or isinstance(found, type(sys)) or not _allowed(real):
        raise ConfigError(f"the target '{target}' is not allowed in a config that is data: it resolves to '{real}'")


def check_targets(node: object) -> None:
    """Check every `_target_` in nested dicts and lists.

    Raises:
        ConfigError: for the first one that is not allowed.
    """
    if isinstance(node, Mapping):
        for key in node:
            value = node._get_node(key) if hasattr(node, "_get_node") else node[key]
            value = getattr(value, "_value", lambda v=value: v)() if key == "_target_" and hasattr(value, "_value") else node.get(key)
            check_target(value) if key == "_target_" else check_targets(value)
    elif isinstance(node, Sequence) and not isinstance(node, (str, bytes)):
        for value in node:
            check_targets(value)
