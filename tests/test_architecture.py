"""The plan of the house, held: who may import whom, what no file may do, how long files are."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from .sources import CODE, PACKAGES, PLUGINS, ROOT, absolute, calls, functions, imported, parsed, python_files

MAX_FILE, MAX_FUNCTION = 400, 60
OUTSIDE = ("benchmarks", "configs", "tests", "tools")  # no shipped package may need these


def home_of(module: str) -> str:
    """Return the room of a module: "openvocab", a plugin, "projects.<paper>", or a top-level name of someone else."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "projects" else parts[0]


def may_import(importer: str, target: str) -> bool:
    """Say whether an arrow of the design allows code in one room to import another room."""
    if target in OUTSIDE:
        return False
    ours = target in ("openvocab", *PLUGINS) or target.startswith("projects")
    if not ours or importer == target:
        return True
    if importer == "openvocab":
        return False
    if importer in PLUGINS:
        return target == "openvocab"
    return target == "openvocab" or target in PLUGINS  # a project; other projects are not for it


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


@pytest.mark.parametrize(
    ("importer", "target", "allowed"),
    [
        ("openvocab", "torch", True),
        ("openvocab", "glipv2", False),
        ("openvocab", "projects.mad", False),
        ("openvocab", "tools", False),
        ("glipv2", "openvocab", True),
        ("glipv2", "regionclip", False),
        ("glipv2", "projects.mad", False),
        ("projects.mad", "glipv2", True),
        ("projects.mad", "projects.mad", True),
        ("projects.mad", "projects.put", False),
        ("projects.mad", "tests", False),
    ],
)
def test_the_arrows_are_those_of_the_design(importer: str, target: str, allowed: bool) -> None:
    assert may_import(importer, target) is allowed


def test_imports_are_read_wherever_they_stand() -> None:
    code = (
        "import a.b\nfrom ..text import base\ndef f():\n    from . import c\n    importlib.import_module('d.e')\n"
        "class K:\n    import f as g\n"
    )
    file = ROOT / "openvocab" / "data" / "x.py"
    found = [name for _, name in imported(file, ast.parse(code))]
    assert sorted(found) == ["a.b", "d.e", "f", "openvocab.data.c", "openvocab.text.base"]
    package = ROOT / "openvocab" / "data" / "__init__.py"
    assert absolute(package, ast.parse("from .x import y").body[0]) == "openvocab.data.x"


def test_imports_follow_the_arrows() -> None:
    files = python_files(*PACKAGES)
    assert len(files) > 40
    wrong = []
    for path in files:
        parts = path.relative_to(ROOT).parts
        importer = ".".join(parts[:2]) if parts[0] == "projects" else parts[0]
        wrong += [
            f"{place(path, line)} imports {name}" for line, name in imported(path) if not may_import(importer, home_of(name))
        ]
    assert not wrong, "\n".join(wrong)


def test_projects_is_a_namespace() -> None:
    """An __init__.py would hide other people's `projects.*`."""
    assert not (ROOT / "projects" / "__init__.py").exists()


def uses_compiled_part(path: Path) -> list[int]:
    names = {"detectron2._C"}
    return [line for line, name in imported(path) if name in names or name.startswith("detectron2._C.")]


def moves_to_cuda(path: Path) -> list[int]:
    return [line for line, name in calls(path) if name.endswith(".cuda") and name != "torch.cuda"]


def loads_with_torch(path: Path) -> list[int]:
    """Lines that call torch.load, or import `load` from torch; openvocab/io is where that is done safely."""
    if path.is_relative_to(ROOT / "openvocab" / "io"):
        return []
    called = [line for line, name in calls(path) if name in ("torch.load", "torch.jit.load", "pickle.load", "pickle.loads")]
    return called + [line for line, name in imported(path) if name in ("torch.load", "torch.jit.load")]


@pytest.mark.parametrize("rule", [uses_compiled_part, moves_to_cuda, loads_with_torch], ids=lambda rule: rule.__name__)
def test_no_file_breaks_the_rule(rule: Callable[[Path], list[int]]) -> None:
    files = python_files(*PACKAGES, "tools", "configs", "benchmarks")
    wrong = [place(path, line) for path in files for line in rule(path)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (uses_compiled_part, "from detectron2 import _C"),
        (uses_compiled_part, "import detectron2._C as c"),
        (moves_to_cuda, "x = model(y).cuda()"),
        (moves_to_cuda, "x.weight.cuda(0)"),
        (loads_with_torch, "torch.load('a')"),
        (loads_with_torch, "from torch import load"),
    ],
)
def test_the_rules_see_what_they_forbid(rule: Callable, code: str, tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.py", tmp_path / "good.py"
    bad.write_text(code)
    good.write_text("import torch.cuda\nfrom detectron2 import layers\nx = torch.cuda.is_available()\nx.to('cpu')\njson.load(f)")
    assert rule(bad) == [1] and rule(good) == []


def test_files_are_short() -> None:
    files = python_files(*CODE)
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    long = [f"{path.relative_to(ROOT)}: {count} lines" for path, count in lines.items() if count > MAX_FILE]
    assert not long, "\n".join(long)


def test_functions_are_short() -> None:
    pairs = itertools.chain.from_iterable(((path, *found) for found in functions(path)) for path in python_files(*CODE))
    long = [f"{path.relative_to(ROOT)}: {name}, {count} lines" for path, name, count in pairs if count > MAX_FUNCTION]
    assert not long, "\n".join(long)


def test_shipped_modules_and_public_functions_say_what_they_are() -> None:
    without = []
    for path in python_files(*PACKAGES):
        tree = parsed(path)
        if not ast.get_docstring(tree):
            without.append(f"{path.relative_to(ROOT)}: no docstring")
        for node in tree.body:
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                without.append(f"{place(path, node.lineno)}: {node.name} has no docstring")
    assert not without, "\n".join(without)
