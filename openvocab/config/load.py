"""Finding and reading configs."""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from openvocab.errors import ConfigError, OpenVocabError, nearest

from .build import mark_trusted
from .overrides import apply_overrides
from .plain_yaml import parse_yaml
from .targets import check_targets
from .zoo import ZOO

YAML = (".yaml", ".yml")
_CONFIG_PACKAGE = "detectron2._cfg_loader"  # detectron2 runs configs as modules of this made-up package


def config_roots() -> list[Path]:
    """Folders that hold the shipped configs: inside the installed package, then the repo's own."""
    package = Path(__file__).resolve().parents[1]
    roots = [package / "configs"]
    if (package.parent / "pyproject.toml").is_file():  # not the site-packages folder of somebody else's `configs`
        roots.append(package.parent / "configs")
    return [p for p in roots if p.is_dir()]


def list_configs() -> list[str]:
    """Names of all shipped experiment configs, such as "glipv2/default"; mere parts (common/, models/) are left out."""
    names = set()
    for root in config_roots():
        for path in root.rglob("*.py"):
            name = path.relative_to(root).with_suffix("").as_posix()
            if not name.startswith("common/") and "/models/" not in name and not path.name.startswith("_"):
                names.add(name)
    return sorted(names)


def find_config(name: str | Path) -> Path:
    """Return the file of a config.

    Args:
        name: a path; the name of a shipped config such as "glipv2/default" (with or without ".py"); or of a model of
            the zoo ("default" or "zoo://default").

    Raises:
        ConfigError: with the nearest names.
    """
    name = str(name).removeprefix("zoo://")
    path = Path(name).expanduser()
    if path.is_file():
        return path
    config = ZOO[name].config if name in ZOO else name
    if config is None:
        raise ConfigError(f"the model '{name}' has no config: it is used through load_predictor('{name}') only")
    for root in config_roots():
        for candidate in (root / config, *(root / f"{config}{suffix}" for suffix in (".py", *YAML))):
            if candidate.is_file():
                return candidate
    if not config_roots():
        raise ConfigError(f"there is no config '{name}', and this installation has no configs: reinstall the package")
    known = list_configs()
    hint = nearest(name, [*known, *ZOO]) or nearest(name.rpartition("/")[2], known)
    raise ConfigError(f"there is no config '{name}'.{hint} Known: {', '.join(known)}")


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a config by name or path, and apply overrides.

    A .py config is code, and is trusted like any program you run. A .yaml config is data: it is read by a safe loader,
    and may only build what `check_targets` allows. The same holds for overrides, whatever config they change.

    Raises:
        ConfigError: if it cannot be found or loaded (naming file and line), or an override does not fit.
    """
    path = find_config(name)
    if path.suffix in YAML:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the config {path} cannot be read: {error}") from error
        return config_from_text(text, overrides, source=str(path))
    if path.suffix != ".py":
        raise ConfigError(f"{path} is no config: it must be a .py or .yaml file")
    return apply_overrides(mark_trusted(_load_python(path)), overrides)


def config_from_text(text: str, overrides: Sequence[str] = (), *, source: str = "the config") -> DictConfig:
    """Read a config that is yaml text, such as the one inside a checkpoint.

    Args:
        text: the yaml.
        overrides: as for `load_config`.
        source: how to call it in a message.

    Raises:
        ConfigError: if it is no plain yaml, not a group of keys, or builds something that is not allowed.
    """
    content = parse_yaml(text, source)
    if not isinstance(content, dict):
        raise ConfigError(f"{source} holds a {type(content).__name__}, not keys and values")
    try:
        cfg = OmegaConf.create(content, flags={"allow_objects": True})
        check_targets(cfg)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{source}: {' '.join(str(error).split())[:200]}") from error
    return apply_overrides(cfg, overrides)


def _load_python(path: Path) -> DictConfig:
    original = builtins.__import__  # detectron2 leaves its own in place when a config raises
    try:
        return LazyConfig.load(str(path))
    except OpenVocabError:
        raise
    except Exception as error:
        raise ConfigError(f"the config {_place(error, path)}: {type(error).__name__}: {error}") from error
    finally:
        builtins.__import__ = original


def _place(error: Exception, path: Path) -> str:
    """Return "FILE, line N" of the config line at which an error happened."""
    cause = error.__cause__ if isinstance(error.__cause__, SyntaxError) else None
    if isinstance(error, SyntaxError) and cause is not None:
        return f"{path}, line {cause.lineno}, cannot be read"
    frames = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__package__") or frame.f_globals.get("__name__")).startswith(_CONFIG_PACKAGE)
    ]
    return f"{frames[-1] if frames else path} fails"
