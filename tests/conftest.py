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

# beginnings of tests that took a second or more on a laptop (`make test` prints the slowest): not in `make check`
LONG = """
configs/test_all_configs.py::test_models_build_on_the_cpu configs/test_all_configs.py::test_python_configs_load
configs/test_all_configs.py::test_yaml_configs_merge_and_build
detection_hub/modeling/test_detector.py::test_a_step_lowers_the_loss detection_hub/test_real.py detection_hub/test_recipe.py
detection_hub/test_training.py detection_hub/test_tune.py end_to_end/test_predict.py faults/test_04_checkpoints.py
faults/test_08_determinism.py glipv2/tasks/test_vqa.py::test_a_few_steps_learn glipv2/test_claims.py
glipv2/test_contrast.py::test_it_is_learned glipv2/test_detector.py::test_a_few_steps_learn
glipv2/test_mlm.py::test_it_is_learned glipv2/test_pretraining.py glipv2/test_prompts.py::test_any_batch
openvocab/bridge/test_bridge.py::test_a_cat_is_a_cat openvocab/data/test_loader.py::test_mixture
openvocab/engine/test_train.py openvocab/engine/test_common_configs.py openvocab/evaluation/test_lvis.py
openvocab/testing/test_gloo.py openvocab/testing/test_language.py
openvocab/text/test_hashed.py::test_vectors_are_the_same_in_another_process regionclip/pretraining/test_data.py
regionclip/pretraining/test_own_rpn.py regionclip/pretraining/test_quick.py regionclip/test_benchmark.py
regionclip/test_convert.py::test_files_of_clip regionclip/test_plug_in.py regionclip/test_user_errors.py
regionclip/test_user_paths.py regionclip/test_user_training.py test_imports.py tools/test_claims.py tools/test_demo.py
tools/test_train_net.py
""".split()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them."""
    beginnings = tuple(f"tests/{beginning}" for beginning in LONG)
    for item in items:
        if item.nodeid.startswith(beginnings):
            item.add_marker(pytest.mark.slow)


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
