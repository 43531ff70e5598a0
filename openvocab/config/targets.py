"""Which objects a config that is data (yaml, an override, a checkpoint) may build.

Python configs are code and trusted like any program one runs. All else may come from strangers, so that each `_target_`
in it is looked up and judged by the module and name where the object is really defined: an alias such as
"openvocab.x.os.system" is "posix.system" and refused. The list names what builds models and their parts; nothing in it
loads pickles, starts programs, evaluates text, or calls what it finds by name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from openvocab.errors import ConfigError

PROJECTS = ("bevt", "clip_td", "florence", "mad", "put", "rmoe", "visual_clues")
# where an object may really be defined
ALLOWED_PREFIXES = (
    *(f"openvocab.{p}." for p in ("bridge", "data", "evaluation", "modeling", "prompting", "text", "vocabulary")),
    "openvocab.engine.optim.", "openvocab.testing.tiny.TinyBackbone",
    "glipv2.", "regionclip.", "detection_hub.", *(f"projects.{p}." for p in PROJECTS),
    *(f"detectron2.{p}." for p in ("modeling", "layers", "solver", "structures", "evaluation")),
    *(f"detectron2.data.{p}." for p in ("transforms", "samplers", "dataset_mapper")),
    "torch.nn.modules.", "torch.nn.functional.", "torch.nn.init.", "torch.optim.", "torchvision.ops.",
    "fvcore.nn.", "fvcore.transforms.", "fvcore.common.param_scheduler.",
    "timm.layers.", "timm.models._factory.create_model",
)  # fmt: skip
# other names under which those are known; a module outside both lists is not even imported
ALIAS_PREFIXES = ("openvocab.engine.", "detectron2.data.", "torch.nn.", "timm.create_model", "timm.models.create_model")
MAX_DEPTH, MAX_NODES = 100, 200_000
_WHERE = "in a config that is data; use a .py config for your own code"


class Unresolved:
    """A value that refers to something that is not there."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unresolved) and other.reason == self.reason

    def __repr__(self) -> str:
        return f"unresolved ({self.reason})"


def allowed(name: str) -> bool:
    """Say whether an object really defined as `name` ("module.qualname") may be built."""
    exact = tuple(p for p in ALLOWED_PREFIXES if not p.endswith("."))
    return name in exact or name.startswith(tuple(p for p in ALLOWED_PREFIXES if p.endswith(".")))


def real_name(target: object) -> str:
    """Return "module.qualname" of a class or function; "" for other objects."""
    if not (isinstance(target, type) or inspect.isroutine(target) or isinstance(target, functools._lru_cache_wrapper)):
        return ""
    return f"{getattr(target, '__module__', None)}.{getattr(target, '__qualname__', '')}"


def locate(path: str) -> object:
    """Return the object at a dotted path: the longest part that is a module is imported, the rest looked up in it.

    Raises:
        ConfigError: if it does not exist, or its module cannot be imported.
    """
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        try:
            found: object = import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
                continue
            raise ConfigError(
                f"the target '{path}' needs the package '{error.name}', which is not installed"
            ) from error
        except (ImportError, ValueError) as error:
            raise ConfigError(f"the target '{path}' cannot be imported: {error}") from error
        for part in parts[cut:]:
            found = getattr(found, part, None)
            if found is None:
                raise ConfigError(f"the target '{path}' does not exist: there is no '{part}'")
        return found
    raise ConfigError(f"the target '{path}' does not exist: there is no module '{parts[0]}'")


def resolve_target(target: str) -> object:
    """Return what a `_target_` of a config that is data names.

    Raises:
        ConfigError: if it does not exist or is not allowed, naming what it resolves to.
    """
    parts = target.split(".") if isinstance(target, str) else []
    prefixes = (*ALLOWED_PREFIXES, *ALIAS_PREFIXES)
    if len(parts) < 2 or not all(p.isidentifier() and not p.startswith("_") for p in _public(parts)):
        raise ConfigError(f"the target {target!r:.200} is not allowed {_WHERE}")
    if not target.startswith(prefixes):
        raise ConfigError(f"the target '{target}' is not allowed {_WHERE}")
    found = locate(target)
    if not callable(found) or not allowed(real_name(found)):
        what = (
            f"it is '{real_name(found)}'"
            if real_name(found)
            else f"it is a {type(found).__name__}, no class or function"
        )
        raise ConfigError(f"the target '{target}' is not allowed {_WHERE}: {what}")
    return found


def _public(parts: list[str]) -> list[str]:
    """Parts that must not begin with "_"; timm's own spelling of create_model is the exception."""
    return ["x"] if ".".join(parts) == "timm.models._factory.create_model" else parts


def check_target(target: object, path: str = "") -> None:
    """Refuse a `_target_` that is not one of the parts a config may build.

    Args:
        target: a dotted name, or the class or function itself.
        path: the config key that holds it, for the message.

    Raises:
        ConfigError: naming the target and what it resolves to.
    """
    where = f"{path}: " if path else ""
    if isinstance(target, str):
        try:
            resolve_target(target)
        except ConfigError as error:
            raise ConfigError(f"{where}{error}") from error
    elif isinstance(target, Unresolved):
        raise ConfigError(f"{where}{target.reason}")
    elif not callable(target) or not allowed(real_name(target)):
        raise ConfigError(f"{where}the target '{real_name(target) or repr(target)[:100]}' is not allowed {_WHERE}")


def check_targets(node: object) -> None:
    """Check every `_target_` in nested dicts and lists, after following all references (`${...}`).

    Raises:
        ConfigError: for the first one that is not allowed, a reference that leads nowhere, or one that is endless.
    """
    for path, target in find_targets(node):
        check_target(target, path)


def find_targets(node: object) -> Iterator[tuple[str, object]]:
    """Yield (path, value) of every `_target_`, and (path, `Unresolved`) of every reference that leads nowhere.

    Raises:
        ConfigError: if the references never end.
    """
    left = [MAX_NODES]
    yield from _walk(node, "", 0, left)


def _walk(node: object, path: str, depth: int, left: list[int]) -> Iterator[tuple[str, object]]:
    left[0] -= 1
    if depth > MAX_DEPTH or left[0] < 0:
        raise ConfigError(f"the config is too large, or refers to itself, at '{path[:80]}'")
    for key, value in children(node):
        where = f"{path}.{key}" if path else str(key)
        if key == "_target_" or isinstance(value, Unresolved):
            yield where, value
        yield from _walk(value, where, depth + 1, left)


def children(node: object) -> Iterator[tuple[object, object]]:
    """Yield (key, value) of a dict or list: no missing values, and `Unresolved` for references that lead nowhere."""
    if isinstance(node, (DictConfig, ListConfig)):
        if node._is_none() or node._is_missing():
            return
        for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
            try:
                yield key, node[key]
            except MissingMandatoryValue:
                continue
            except (OmegaConfBaseException, RecursionError, ValueError) as error:
                yield key, Unresolved(" ".join(str(error).split())[:200])
    elif isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, (list, tuple)):
        yield from enumerate(node)
