"""Yaml as plain data: no python objects, and none of yaml 1.1's surprises."""

from __future__ import annotations

import re
from collections.abc import Hashable

import yaml

from openvocab.errors import ConfigError

MAX_NODES, MAX_DEPTH = 200_000, 100
_NUMBER = r"(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d[\d_]*(?=[eE]))(?:[eE][-+]?\d+)?"
_FLOAT = re.compile(rf"^[-+]?(?:{_NUMBER}|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")
_DROPPED = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"}


class PlainLoader(yaml.SafeLoader):
    """SafeLoader in which 1e-4 is a number, only true and false are booleans, dates are text, and keys stand once."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rows if tag not in _DROPPED]
        for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        """Build a dict; a key that is there twice is an error."""
        keys = [k.value for k, _ in node.value if isinstance(k, yaml.ScalarNode) and k.value != "<<"]
        twice = next((k for k in keys if keys.count(k) > 1), None) if len(set(keys)) < len(keys) else None
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{twice}' is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
PlainLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def parse_yaml(text: str, source: str) -> object:
    """Read yaml text into dicts, lists, texts and numbers.

    Args:
        text: the yaml.
        source: how to call it in a message.

    Raises:
        ConfigError: for bad syntax, a python tag, a key that is there twice, or content that is endless or very large.
    """
    try:
        content = yaml.load(text, Loader=PlainLoader)  # noqa: S506  a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{source}{line}: this is no plain yaml: {_problem(error.problem or str(error))}") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"{source}: this is no plain yaml: {_problem(str(error))}") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: this yaml is nested too deeply") from error
    if _count(content, 0, MAX_NODES) < 0:
        raise ConfigError(
            f"{source}: this yaml is nested too deeply, refers to itself, or has more than {MAX_NODES} values"
        )
    return content


def _problem(text: str) -> str:
    text = " ".join(text.split())
    if "python" in text:
        return f"{text} (python objects are not allowed in a config that is data; use a .py config for code)"
    return text


def _count(node: object, depth: int, left: int) -> int:
    """Return `left` minus the number of values in `node`, aliases counted each time; -1 if too many or too deep."""
    if left < 1 or depth > MAX_DEPTH:
        return -1
    left -= 1
    children = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple, set)) else ()
    for child in children:
        left = _count(child, depth + 1, left)
        if left < 0:
            return -1
    return left
