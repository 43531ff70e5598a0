"""The project's own source files and what they import, read without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = ("detection_hub", "glipv2", "regionclip")
PACKAGES = ("openvocab", *PLUGINS, "projects")  # those that are shipped
CODE = (*PACKAGES, "benchmarks", "configs", "tools", "tests", "setup.py")


def python_files(*places: str) -> list[Path]:
    """Return the python files in folders of the repository (or single files); those that do not exist yet are passed over."""
    found: list[Path] = []
    for place in places:
        path = ROOT / place
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return found


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module_name(path: Path) -> str:
    """Return the dotted name of a file: openvocab/text/__init__.py -> "openvocab.text"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def shipped_modules() -> list[str]:
    """Return the names of all modules of the shipped packages."""
    return [module_name(p) for p in python_files(*PACKAGES) if p.name != "__main__.py"]


def absolute(path: Path, node: ast.ImportFrom) -> str:
    """Return the module that `from ... import` names, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    package = module_name(path).split(".")
    drop = node.level - (path.name == "__init__.py")
    return ".".join([*package[: len(package) - drop], *([node.module] if node.module else [])])


def imported(path: Path, tree: ast.Module | None = None) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of everything a file imports, inside functions too, `import_module("...")` included.

    `from a import b` gives "a.b", because b may be a module.
    """
    for node in ast.walk(tree or parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(path, node)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def dotted(node: ast.expr) -> str:
    """Return "a.b.c" for an attribute chain; "?.c" where it starts from something else."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def calls(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every call in a file."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            yield node.lineno, dotted(node.func)


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (name, number of lines) of every function in a file, decorators not counted."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.end_lineno - node.lineno + 1
