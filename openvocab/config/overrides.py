"""`key=value` overrides that refuse what does not exist."""

from __future__ import annotations

import re
from collections.abc import Sequence

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from openvocab.errors import ConfigError, nearest

from .plain_yaml import parse_yaml
from .targets import check_target, find_targets

_FORM = re.compile(r"(?P<sign>\+\+|\+|~)?(?P<key>[^=+~\s][^=\s]*)(?:=(?P<value>.*))?", re.DOTALL)


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Change a config in place, and return it.

    ============ =========================================================================
    a.b=1        changes a key that exists to a value of the same kind
    a.0.b=1      the same in a list (also a[0].b=1)
    +a.new=1     adds a key (groups on the way too; +a.3=1 appends to a list of three)
    ++a.b=1      sets a key whether it exists or not, to a value of any kind
    ~a.b         removes a key
    ============ =========================================================================

    Values are yaml: 1e-4, true, null, [1, 2], {k: v}. A key that holds a text takes the value as it is written. A dict
    given for a group changes the keys it names; one with `_target_` takes the group's place.

    Raises:
        ConfigError: for an unknown key (with the nearest names), a value of another kind, something that is no
            override, or a `_target_` that `check_target` refuses.
    """
    if isinstance(overrides, str):
        raise ConfigError(f"overrides must be a list of key=value, not the text '{overrides}'")
    before = dict(find_targets(cfg)) if overrides else {}
    for text in overrides:
        try:
            _apply(cfg, str(text).strip())
        except OmegaConfBaseException as error:
            raise ConfigError(f"'{text}': {' '.join(str(error).split())[:200]}") from error
    if overrides:
        for path, target in find_targets(cfg):
            if path not in before or before[path] != target:
                check_target(target, path)
    return cfg


def _apply(cfg: DictConfig, text: str) -> None:
    match = _FORM.fullmatch(text)
    if match is None or (match["value"] is None) != (match["sign"] == "~"):
        raise ConfigError(
            f"'{text}' is no override; write key=value such as train.max_iter=100, +key=value to add, ~key to remove"
        )
    key, sign = match["key"], match["sign"] or ""
    parts = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
    node, last = _walk(cfg, parts, key, add="+" in sign)
    if sign == "~":
        del node[_own_key(node, last)]
    elif sign == "+":
        _add(node, last, parse_yaml(match["value"], f"'{text}'"), key)
    elif sign == "++":
        _set(node, last, parse_yaml(match["value"], f"'{text}'"))
    else:
        _change(node, last, match["value"], key)


def _walk(cfg: DictConfig, parts: list[str], key: str, *, add: bool) -> tuple[DictConfig | ListConfig, str]:
    """Go down to the group that holds the last part of a key; return it and that last part."""
    node: object = cfg
    while True:
        taken = _known_length(node, parts)
        if taken == len(parts) or (taken == 0 and len(parts) == 1 and add):
            return node, ".".join(parts)
        if taken == 0 and add and isinstance(node, DictConfig):
            node[parts[0]] = {}
            taken = 1
        elif taken == 0:
            _find(node, parts, key)
        node, parts = node[_own_key(node, ".".join(parts[:taken]))], parts[taken:]
        if not isinstance(node, (DictConfig, ListConfig)):
            what = "null" if node is None else f"the value {str(node)[:40]!r}"
            raise ConfigError(
                f"'{key}': there is no '{parts[0]}', because what should hold it is {what}, not a group of keys"
            )


def _known_length(node: DictConfig | ListConfig, parts: list[str]) -> int:
    """How many parts, joined with dots, make a key of this group (keys may hold dots); 0 if none does."""
    if isinstance(node, ListConfig):
        return int(parts[0].isdecimal() and int(parts[0]) < len(node))
    known = {str(k) for k in node}
    return next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in known), 0)


def _own_key(node: DictConfig | ListConfig, name: str) -> object:
    return int(name) if isinstance(node, ListConfig) else next(k for k in node if str(k) == name)


def _find(node: DictConfig | ListConfig, parts: list[str], key: str) -> None:
    """Raise a ConfigError that names the nearest keys, unless `parts` is a key of the group."""
    if _known_length(node, parts):
        return
    if isinstance(node, ListConfig):
        raise ConfigError(f"'{key}': '{parts[0]}' is no index of a list of {len(node)}")
    keys = [str(k) for k in node]
    same = [k for k in keys if k.casefold() == parts[0].casefold()]
    hint = nearest(parts[0], keys) or _elsewhere(node, parts[-1]) or (f" Did you mean '{same[0]}'?" if same else "")
    hint = hint or f" Known here: {', '.join(keys[:12])}{', ...' if len(keys) > 12 else ''}."
    raise ConfigError(f"there is no config key '{key}': '{parts[0]}' is unknown.{hint} Write +{key}=... to add it.")


def _elsewhere(node: DictConfig, name: str) -> str:
    """Say where a key of that name is, if it is in a group further down."""
    found = [f"{k}.{name}" for k in node if _is_group(node, k) and name in node[k]]
    return f" Did you mean '{found[0]}'?" if found else ""


def _is_group(node: DictConfig, key: object) -> bool:
    child = node._get_node(key)
    return isinstance(child, DictConfig) and isinstance(child._value(), dict)


def _add(node: DictConfig | ListConfig, last: str, value: object, key: str) -> None:
    if isinstance(node, ListConfig):
        if not last.isdecimal() or int(last) != len(node):
            raise ConfigError(f"'+{key}': a list of {len(node)} can only be added to at {len(node)}")
        node.append(value)
    elif last in {str(k) for k in node}:
        raise ConfigError(f"'+{key}' would add a key that exists; write {key}=... to change it")
    else:
        node[last] = value


def _set(node: DictConfig | ListConfig, last: str, value: object) -> None:
    if isinstance(node, ListConfig) and not _known_length(node, [last]):
        _add(node, last, value, last)
    else:
        node[_own_key(node, last) if _known_length(node, [last]) else last] = value


def _change(node: DictConfig | ListConfig, last: str, text: str, key: str) -> None:
    own = _own_key(node, last)
    value = parse_yaml(text, f"'{key}={text}'")
    if own == "_target_" or "${" in text or OmegaConf.is_missing(node, own) or OmegaConf.is_interpolation(node, own):
        node[own] = value
        return
    old = node[own]
    if isinstance(old, DictConfig) and isinstance(value, dict) and "_target_" not in value:
        _merge(old, value, key)
    else:
        node[own] = _fitting(old, value, text, key)


def _merge(group: DictConfig, values: dict, key: str) -> None:
    for name, value in values.items():
        path = f"{key}.{name}"
        _find(group, [str(name)], path)
        own = _own_key(group, str(name))
        if isinstance(value, dict) and isinstance(group[own], DictConfig) and "_target_" not in value:
            _merge(group[own], value, path)
        elif own == "_target_" or OmegaConf.is_missing(group, own):
            group[own] = value
        else:
            group[own] = _fitting(group[own], value, str(value), path)


def _fitting(old: object, value: object, text: str, key: str) -> object:
    """Return the value as the kind that the key had.

    Raises:
        ConfigError: if it is of another kind.
    """
    if old is None or value is None and not (isinstance(old, str) and not text.strip()):
        return value
    if isinstance(old, str):
        fits, value = not isinstance(value, (dict, list)), value if isinstance(value, str) else text.strip()
    elif isinstance(old, bool):
        fits = isinstance(value, bool)
    elif isinstance(old, (int, float)):
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        if fits and isinstance(old, int) and isinstance(value, float) and value.is_integer():
            value = int(value)  # 1e3
    elif isinstance(old, DictConfig):
        fits = isinstance(value, dict)
    elif isinstance(old, ListConfig):
        fits = isinstance(value, list)
    else:
        fits = True
    if not fits:
        raise ConfigError(
            f"{key}={text}: {_kind(old)} is expected here, such as {_example(old)}; ++{key}=... sets any value"
        )
    return value


def _kind(old: object) -> str:
    names = ((bool, "true or false"), (int, "a number"), (float, "a number"), (str, "a text"), (ListConfig, "a list"))
    return next((name for kind, name in names if isinstance(old, kind)), "a group of keys")


def _example(old: object) -> str:
    if isinstance(old, bool):
        return str(old).lower()
    if isinstance(old, ListConfig):
        return "[1, 2]"
    return "{key: value}" if isinstance(old, DictConfig) else repr(old)[:60]
