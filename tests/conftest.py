"""Every test starts from the same random state and with the same logging, whatever ran before it in the process."""

from __future__ import annotations

import logging
import random

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("same_everywhere", derandomize=True, deadline=None)  # what fails in CI fails here too
settings.load_profile("same_everywhere")

LOGGERS = ("openvocab", "glipv2", "regionclip", "detection_hub", "detectron2", "fvcore")


@pytest.fixture(autouse=True)
def same_start() -> None:
    """Seeds; and messages reach `caplog`, from which detectron2's `setup_logger` cuts a package off for good."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    for name in LOGGERS:
        logging.getLogger(name).propagate = True
