"""Configs: finding, checking, overriding, building."""

from .build import instantiate
from .load import config_from_text, find_config, list_configs, load_config
from .overrides import apply_overrides
from .targets import ALLOWED_PREFIXES, check_target, check_targets
from .zoo import ZOO, ZooEntry, find_model

__all__ = [
    "ALLOWED_PREFIXES",
    "ZOO",
    "ZooEntry",
    "apply_overrides",
    "check_target",
    "check_targets",
    "config_from_text",
    "find_config",
    "find_model",
    "instantiate",
    "list_configs",
    "load_config",
]
