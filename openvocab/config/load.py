"""Finding, reading and building configs."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path

import yaml
from detectron2.config import LazyConfig
from detectron2.config import instantiate as _instantiate
from omegaconf import DictConfig, OmegaConf

from openvocab.errors import ConfigError, OpenVocabError, nearest

from .overrides import apply_overrides
from .targets import check_targets


def config_roots() -> list[Path]:
    """Folders that hold the shipped configs: inside the installed package, and the repo's own."""
    package = Path(__file__).resolve().parents[1]
    return [p for p in (package / "configs", package.parent / "configs") if p.is_dir()]


def list_configs() -> list[str]:
    """Names of all shipped experiment configs, such as "glipv2/default"."""
    names = set()
    for root in config_roots():
        for path in root.rglob("*.py"):
            name = path.relative_to(root).with_suffix("").as_posix()
            if not name.startswith("common/") and "/models/" not in name and path.name != "__init__.py":
                names.add(name)
    return sorted(names)


def find_config(name: str) -> Path:
    """Return the file of a config: a path, or a name such as "glipv2/default" (with or without ".py").

    Raises:
        ConfigError: with the nearest names.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    for root in config_roots():
        for candidate in (root / name, root / f"{name}.py"):
            if candidate.is_file():
                return candidate
    raise ConfigError(f"there is no config '{name}'.{nearest(name, list_configs())} Known: {', '.join(list_configs())}")


def _load_python(path: Path) -> DictConfig:
    original = builtins.__import__  # detectron2 leaves its own import in place when a config raises
    try:
        return LazyConfig.load(str(path))
    except OpenVocabError:
        raise
    except Exception as error:
        raise ConfigError(f"the config {path} cannot be loaded: {type(error).__name__}: {error}") from error
    finally:
        builtins.__import__ = original


def _load_yaml(path: Path) -> DictConfig:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no plain yaml: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, not keys and values")
    check_targets(content)
    return OmegaConf.create(content, flags={"allow_objects": True})


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a config by name or path, and apply overrides.

    A .py config is code and is trusted like any program you run. A .yaml config is data: it is read by a safe loader, and may only
    build what `check_targets` allows.

    Raises:
        ConfigError: if it cannot be found or loaded, or an override does not fit.
    """
    path = find_config(str(name))
    cfg = _load_yaml(path) if path.suffix in (".yaml", ".yml") else _load_python(path)
    return apply_overrides(cfg, overrides)


def instantiate(node: object) -> object:
    """Build what a config node describes (detectron2's `instantiate`)."""
    return _instantiate(node)
