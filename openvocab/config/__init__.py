"""Configs: finding, checking, overriding, building."""

from .load import find_config, instantiate, list_configs, load_config
from .overrides import apply_overrides
from .targets import check_target, check_targets
from .zoo import ZOO, ZooEntry, find_model

__all__ = [
    "ZOO",
    "ZooEntry",
    "apply_overrides",
    "check_target",
    "check_targets",
    "find_config",
    "find_model",
    "instantiate",
    "list_configs",
    "load_config",
]
