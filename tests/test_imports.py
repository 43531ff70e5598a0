"""Every module can be the first one imported, packages can be imported in every order, and the top package is light."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .sources import PACKAGES, ROOT, module_name, python_files, shipped_modules

HEAVY = ("torch", "torchvision", "detectron2", "transformers", "timm", "open_clip", "faster_coco_eval", "supervision", "PIL")
BUDGET = 1.0  # seconds of processor time, for importing openvocab and glipv2 beyond torch and detectron2

# One process imports torch and detectron2 once; every order to try is then run in a fork of it, which is as good as new.
FORKS = """
import json, os, sys, time, traceback, warnings
warnings.simplefilter("ignore")
import torch, torchvision, detectron2.config, detectron2.data, detectron2.evaluation, detectron2.modeling
ours = [m for m in sys.modules if m.split(".")[0] in %r]
assert not ours, ours
failures, seconds = {}, {}
for order in json.load(sys.stdin):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        start, said = time.process_time(), ""
        try:
            for name in order:
                __import__(name)
        except BaseException:
            said = traceback.format_exc(limit=-3)
        os.write(writer, json.dumps([said[-3000:], time.process_time() - start]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    error, took = json.loads(text) if text else ["the process died", 0.0]
    seconds[" ".join(order)] = took
    if error:
        failures[" ".join(order)] = error
print(json.dumps([failures, seconds]))
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def import_in_forks(orders: list[list[str]]) -> tuple[dict[str, str], dict[str, float]]:
    """Import each list of modules in a process of its own; return the tracebacks of those that failed, and the times."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS % (PACKAGES,)],
        input=json.dumps(orders),
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def top_packages() -> list[str]:
    """Return the packages that exist; of projects, each paper."""
    papers = sorted({module_name(p).split(".")[1] for p in python_files("projects")})
    return [p for p in PACKAGES if (ROOT / p / "__init__.py").is_file()] + [f"projects.{paper}" for paper in papers]


def orders_of(packages: list[str]) -> list[list[str]]:
    """Return every order of up to four packages; of more, every ordered pair followed by the rest."""
    if len(packages) <= 4:
        return [list(order) for order in itertools.permutations(packages)]
    pairs = itertools.permutations(packages, 2)
    return [[*pair, *(p for p in packages if p not in pair)] for pair in pairs]


def first_in_turn(packages: list[str]) -> list[list[str]]:
    """Return one order for each package, which stands first in it."""
    return [[*packages[i:], *packages[:i]] for i in range(len(packages))]


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork a process")
PAIR = ["openvocab", "glipv2"]
BROKEN = ["openvocab", "openvocab.no_such_module"]


@pytest.fixture(scope="module")
def results() -> tuple[dict[str, str], dict[str, float]]:
    """Tracebacks and times of the orders that the quick tests below ask about, from one preloaded process."""
    return import_in_forks([*first_in_turn(top_packages()), PAIR, BROKEN])


@pytest.fixture(scope="module")
def all_results() -> tuple[dict[str, str], dict[str, float]]:
    """The same of every module alone and of every order of packages."""
    return import_in_forks([*([name] for name in shipped_modules()), *orders_of(top_packages())])


def failed(results: tuple[dict[str, str], dict[str, float]], orders: list[list[str]]) -> str:
    """Return the tracebacks of those orders that failed; each must have been tried."""
    failures, seconds = results
    keys = [" ".join(order) for order in orders]
    assert set(keys) <= set(seconds)
    return "\n".join(f"{key}:\n{failures[key]}" for key in keys if key in failures)


def test_orders_hold_every_package_in_front_of_every_other() -> None:
    assert len(orders_of(["a", "b", "c"])) == 6
    many = orders_of(list("abcde"))
    assert len(many) == 20 and all(sorted(order) == list("abcde") for order in many)


@needs_fork
@pytest.mark.slow
def test_every_module_can_be_imported_first(all_results: tuple) -> None:
    modules = [[name] for name in shipped_modules()]
    assert len(modules) > 40 and {("openvocab.predictor",), ("glipv2.modeling.detector",)} <= set(map(tuple, modules))
    assert not failed(all_results, modules)


@needs_fork
@pytest.mark.slow
def test_packages_can_be_imported_in_every_order(all_results: tuple) -> None:
    assert not failed(all_results, orders_of(top_packages()))


@needs_fork
def test_each_package_can_be_imported_before_the_others(results: tuple) -> None:
    packages = top_packages()
    assert {"openvocab", "glipv2"} <= set(packages)
    orders = first_in_turn(packages)
    assert [order[0] for order in orders] == packages and all(set(order) == set(packages) for order in orders)
    assert not failed(results, orders)


@needs_fork
def test_an_import_that_fails_is_told(results: tuple) -> None:
    assert "ModuleNotFoundError" in failed(results, [BROKEN])


@needs_fork
def test_the_packages_cost_little_beyond_torch_and_detectron2(results: tuple) -> None:
    assert results[1][" ".join(PAIR)] < BUDGET


@pytest.mark.parametrize("statement", ["import openvocab", "import openvocab.errors", "import openvocab; dir(openvocab)"])
def test_the_top_package_is_light(statement: str, tmp_path: Path) -> None:
    code = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), cwd=tmp_path, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert "openvocab" in loaded
    assert not loaded.intersection(HEAVY)


def test_names_of_the_top_package_are_found_when_used() -> None:
    import openvocab

    for name in openvocab.__all__:
        assert getattr(openvocab, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = openvocab.nothing
