"""The plan of the house, held: who may import whom, what no file may do, how long files are."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from .sources import CODE, PACKAGES, PLUGINS, ROOT, absolute, calls, dotted, functions, imported, parsed, python_files

MAX_FILE, MAX_FUNCTION = 400, 60
UNPICKLING = ("torch.load", "torch.jit.load", "pickle.load", "pickle.loads")
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
    """Lines that unpickle, outside openvocab/io, where that is done safely.

    The engine's checkpoints hold an optimizer's state besides weights: its one file may call torch.load, with a literal
    weights_only=True. The helper that runs a test in several processes pickles what goes to and from them.
    """
    if path.is_relative_to(ROOT / "openvocab" / "io") or path == ROOT / "openvocab" / "testing" / "gloo.py":
        return []
    named = [line for line, name in imported(path) if name in UNPICKLING]
    called = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call) and dotted(node.func) in UNPICKLING]
    allowed = path == ROOT / "openvocab" / "engine" / "checkpoint.py"
    return named + [node.lineno for node in called if not (allowed and is_weights_only(node))]


def is_weights_only(call: ast.Call) -> bool:
    """Whether a call says weights_only=True itself."""
    given = {word.arg: word.value for word in call.keywords}.get("weights_only")
    return dotted(call.func) == "torch.load" and isinstance(given, ast.Constant) and given.value is True


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
        (loads_with_torch, "torch.load('a', weights_only=True)"),
        (loads_with_torch, "from torch import load"),
        (loads_with_torch, "pickle.loads(b'')"),
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


def test_only_a_literal_weights_only_counts() -> None:
    def judge(code: str) -> bool:
        return is_weights_only(ast.parse(code).body[0].value)

    assert judge("torch.load(path, map_location='cpu', weights_only=True)")
    assert not judge("torch.load(path)") and not judge("torch.load(path, weights_only=safe)")
    assert not judge("torch.load(path, weights_only=False)") and not judge("pickle.load(f, weights_only=True)")


def exported(tree: ast.Module) -> set[str]:
    """Return the names in a module's `__all__`."""
    lists = [n.value for n in tree.body if isinstance(n, ast.Assign) and dotted(n.targets[0]) == "__all__"]
    return {item.value for value in lists for item in ast.walk(value) if isinstance(item, ast.Constant)}


def test_modules_and_exported_names_say_what_they_are() -> None:
    files = python_files(*PACKAGES)
    public = set().union(*(exported(parsed(path)) for path in files))
    assert {"Vocabulary", "load_predictor", "GLIPv2"} <= public
    without = [str(path.relative_to(ROOT)) for path in files if not ast.get_docstring(parsed(path))]
    for path in files:
        defined = [n for n in parsed(path).body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name in public]
        without += [f"{place(path, n.lineno)}: {n.name}" for n in defined if not ast.get_docstring(n)]
    assert not without, "without a docstring:\n" + "\n".join(without)
