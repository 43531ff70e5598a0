"""A config with one of everything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.config import LazyCall as L
from omegaconf import DictConfig
from torch import nn

from openvocab.config import load_config

PYTHON = """
from detectron2.config import LazyCall as L
from torch import nn

model = L(nn.Linear)(in_features=3, out_features=2, bias=True)
train = dict(max_iter=100, lr=0.1, output_dir="out", amp=dict(enabled=False, dtype="bfloat16"), init=None)
dataloader = dict(sources=[dict(name="a", weight=1.0), dict(name="b", weight=2.0)], sizes=[1, 2, 3])
"""


@pytest.fixture
def cfg() -> DictConfig:
    """As a Python config would be."""
    return DictConfig(
        {
            "model": L(nn.Linear)(in_features=3, out_features=2, bias=True),
            "train": {
                "max_iter": 100,
                "lr": 0.1,
                "output_dir": "out",
                "amp": {"enabled": False, "dtype": "bfloat16"},
                "init": None,
                "missing": "???",
                "also": "${train.max_iter}",
                "groups": {"backbone": {"lr": 1.0}, "backbone.bottom_up": {"lr": 0.5}, 3: "three"},
            },
            "dataloader": {"sources": [{"name": "a", "weight": 1.0}, {"name": "b", "weight": 2.0}], "sizes": [1, 2, 3]},
        },
        flags={"allow_objects": True},
    )


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a file; return its path."""

    def make(text: str = PYTHON, name: str = "config.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return make


@pytest.fixture
def load(write: Callable[..., Path]) -> Callable[..., DictConfig]:
    """Write a config and load it."""

    def make(text: str = PYTHON, overrides: tuple[str, ...] = (), name: str = "config.py") -> DictConfig:
        return load_config(write(text, name), overrides)

    return make
