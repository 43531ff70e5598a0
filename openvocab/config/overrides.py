"""`key=value` overrides that refuse what does not exist."""

from __future__ import annotations

from collections.abc import Sequence

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from openvocab.errors import ConfigError, nearest

from .targets import check_target, check_targets


def _parse(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value '{text}' is not valid yaml: {error}") from error


def _step(node: object, part: str, path: str) -> object:
    if isinstance(node, ListConfig):
        if not part.isdigit() or int(part) >= len(node):
            raise ConfigError(f"'{path}': '{part}' is no index of a list of {len(node)}")
        return node[int(part)]
    if isinstance(node, DictConfig) and part in node:
        return node[part]
    keys = [str(k) for k in node] if isinstance(node, DictConfig) else []
    raise ConfigError(f"there is no config key '{path}': '{part}' is unknown.{nearest(part, keys)} Write +{path}=... to add it")


def _check_type(old: object, new: object, key: str) -> None:
    if old is None or new is None:
        return
    number = (int, float)
    if isinstance(old, bool) != isinstance(new, bool) or (isinstance(old, number) and not isinstance(new, number)):
        raise ConfigError(f"{key}={new!r}: a {type(old).__name__} is expected here, such as {old!r}")
    if isinstance(old, (DictConfig, ListConfig)) and not isinstance(new, (dict, list)):
        raise ConfigError(f"{key}={new!r}: this key holds a {'group of keys' if isinstance(old, DictConfig) else 'list'}")


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return `cfg`, changed in place by overrides such as "train.max_iter=100" or "+train.note=test".

    Values are yaml. A "_target_" must be one that `check_target` allows.

    Raises:
        ConfigError: for an unknown key (with the nearest names), a value of another type, or no "=".
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        add = key.startswith("+")
        key = key.lstrip("+").strip()
        if not equals or not key:
            raise ConfigError(f"'{text}' is no override; write key=value, such as train.max_iter=100")
        parsed = _parse(value)
        check_target(parsed) if key.split(".")[-1] == "_target_" else check_targets(parsed)
        *parents, last = key.split(".")
        node: object = cfg
        for part in parents:
            if add and isinstance(node, DictConfig) and part not in node:
                OmegaConf.update(node, part, {}, force_add=True)
            node = _step(node, part, key)
        if not add:
            _check_type(_step(node, last, key), parsed, key)
        if isinstance(node, ListConfig):
            node[int(last)] = parsed
        else:
            OmegaConf.update(node, last, parsed, force_add=add, merge=False)
    return cfg
