"""From a config to the objects it describes."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping

from omegaconf import DictConfig, ListConfig, OmegaConf

from openvocab.errors import ConfigError, nearest

from .targets import check_target, find_targets, locate, real_name, resolve_target

TRUSTED = "openvocab_trusted"  # flag of configs that were read from python code


def mark_trusted(cfg: DictConfig) -> DictConfig:
    """Note that a config is code of the user's own: its targets need no allow-list (overrides are still checked)."""
    cfg._set_flag(TRUSTED, True)
    return cfg


def _is_trusted(node: object) -> bool:
    return isinstance(node, (DictConfig, ListConfig)) and bool(node._get_flag(TRUSTED))


def instantiate(node: object, *, trusted: bool = False) -> object:
    """Build what a config node describes, as detectron2's `instantiate` does: `_target_` is called with all other keys.

    A `_target_` that is a class or function can only come from python code and is called. One that is a name is looked
    up, and must be one that `check_targets` allows, unless the config was loaded from a .py file.

    Args:
        node: dict, list or config; other values are returned as they are.
        trusted: call names outside the allow-list too.

    Raises:
        ConfigError: for a target that does not exist, is not allowed, or does not take one of its arguments.
    """
    if not (trusted or _is_trusted(node)):
        for path, target in find_targets(node):
            if not callable(target):
                check_target(target, path)
    return _build(node, trusted)


def _build(node: object, trusted: bool) -> object:
    if isinstance(node, ListConfig):
        return ListConfig([_build(x, trusted) for x in node], flags={"allow_objects": True})
    if isinstance(node, list):
        return [_build(x, trusted) for x in node]
    if isinstance(node, DictConfig) and dataclasses.is_dataclass(node._metadata.object_type):
        return OmegaConf.to_object(node)
    if not isinstance(node, Mapping) or "_target_" not in node:
        return node
    trusted = trusted or _is_trusted(node)
    arguments = {k: _build(v, trusted) for k, v in node.items()}
    target = arguments.pop("_target_")
    if isinstance(target, str):
        target = locate(target) if trusted else resolve_target(target)
    if not callable(target):
        raise ConfigError(f"the target {target!r:.100} is a {type(target).__name__}, which cannot be called")
    return _call(target, arguments)


def _call(target: object, arguments: dict) -> object:
    try:
        return target(**arguments)
    except TypeError as error:
        problem = _misfit(target, arguments)
        if problem:
            raise ConfigError(problem) from error
        raise


def _misfit(target: object, arguments: dict) -> str:
    """Say which argument a target does not take or lacks; "" if its signature fits."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(**arguments)
        return ""
    except TypeError as error:
        name = real_name(target) or type(target).__name__
        unknown = [k for k in arguments if k not in signature.parameters]
        if unknown:
            return f"{name} does not take the argument '{unknown[0]}'.{nearest(unknown[0], signature.parameters)}"
        return f"{name} cannot be called with {', '.join(arguments) or 'no arguments'}: {error}"
