"""Every test starts from the same random state and with the same logging, whatever ran before it in the process."""

from __future__ import annotations

import gc
import logging
import random
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("same_everywhere", derandomize=True, deadline=None)  # what fails in CI fails here too
settings.load_profile("same_everywhere")

ROOT = Path(__file__).resolve().parents[1]
LOGGERS = ("openvocab", "glipv2", "regionclip", "detection_hub", "detectron2", "fvcore")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Leave what the imports made to the end of the process: looking through a million objects again and again is slow."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def same_start() -> None:
    """Seeds; and messages reach `caplog`: detectron2's `setup_logger` cuts a package off for good, a claim's run makes it quiet.

    A tool's `basicConfig` writes on to the error stream of the test that called it, which is closed by now.
    """
    import torch  # here, since the process that hands out the tests to workers reads this file too

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    for handler in [h for h in logging.root.handlers if getattr(getattr(h, "stream", None), "closed", False)]:
        logging.root.removeHandler(handler)
    for name in logging.root.manager.loggerDict:
        if name.partition(".")[0] in LOGGERS:
            logger = logging.getLogger(name)
            logger.propagate, logger.disabled = True, False
            if logger.level != logging.NOTSET:  # setting a level empties the caches of all loggers of the process: a thousand
                logger.setLevel(logging.NOTSET)


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/claims.py, with the papers' files to import beside it."""
    spec = spec_from_file_location("claims_of_this_test", ROOT / "tools" / "claims.py")
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks" / "claims")])
    return module
