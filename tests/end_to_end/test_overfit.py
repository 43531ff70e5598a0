"""A model that cannot learn eight pictures by heart cannot learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from openvocab.config import load_config
from openvocab.engine import train


@pytest.mark.slow
def test_the_quick_config_overfits_eight_pictures(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        cfg = load_config("glipv2/quick/shapes_overfit", [f"train.output_dir={tmp_path}"])
        results = train(cfg)
    finally:
        torch.set_num_threads(threads)
    assert results["shapes"]["bbox"]["AP50"] > 95
