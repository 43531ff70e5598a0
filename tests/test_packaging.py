"""What holds the distribution together: extras, versions, commands, the pinned hash, and the files a wheel brings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .sources import PACKAGES, ROOT, python_files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXTRAS = {"clip", "bert", "video", "web", "captions", "dev"}
TARGETS = {"help", "setup", "demo", "test", "check", "lint", "doctor", "clean"}
SHA256 = re.compile(r"\b[0-9a-f]{64}\b")
TEXT_FILES = {".py", ".toml", ".md", ".yaml", ".yml", ".txt", ".cfg", ".in", ".sh", ""}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower()


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def own_files() -> list[Path]:
    """Return the project's text files, without what is ignored by git."""
    skipped = {".git", ".venv", "output", "build", "dist", "__pycache__"}
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in skipped and not f.endswith((".egg-info", "_cache")) and f != ".hypothesis"]
        found += [Path(folder) / f for f in files if Path(f).suffix in TEXT_FILES]
    return found


def test_there_is_one_distribution_with_the_extras() -> None:
    about = project()
    assert about["name"] == "openvocab-detectron2"
    assert set(about["optional-dependencies"]) >= EXTRAS
    assert all(about["optional-dependencies"][extra] for extra in EXTRAS)


def test_error_messages_name_extras_that_exist() -> None:
    """`missing("package", "extra")` ends in a command; the extra in it must bring something."""
    sources = "\n".join(p.read_text(encoding="utf-8") for p in python_files(*PACKAGES))
    named = set(re.findall(r"missing\(\s*[^()]*?,\s*\"([a-z]+)\"\s*\)", sources))
    named |= set(re.findall(r"openvocab-detectron2\[([a-z]+)\]", sources))
    assert {"bert", "clip"} <= named
    assert named <= set(project()["optional-dependencies"])


def test_torch_is_not_pinned_and_detectron2_not_required() -> None:
    needed = {name_of(r): r for r in project()["dependencies"]}
    assert "==" not in needed["torch"] and "<" not in needed["torch"]
    assert needed["omegaconf"] == "omegaconf<2.4" and needed["setuptools"] == "setuptools<81"
    assert not [name for name in needed if "detectron2" in name]


def test_everything_imported_at_the_top_level_is_required() -> None:
    """Third-party packages that a shipped module imports outside a function are core, so they must be dependencies."""
    import ast

    from .sources import parsed

    modules = {"pillow": "PIL", "open-clip-torch": "open_clip", "faster-coco-eval": "faster_coco_eval", "pyyaml": "yaml"}
    needed = {name_of(r).replace("_", "-") for r in project()["dependencies"]}
    available = {modules.get(n, n.replace("-", "_")) for n in needed} | set(sys.stdlib_module_names) | {"detectron2", *PACKAGES}
    lacking = []
    for path in python_files(*PACKAGES):
        for node in parsed(path).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            lacking += [f"{path.relative_to(ROOT)}: {n}" for n in names if n.split(".")[0] not in available]
    assert not lacking, "\n".join(lacking)


def test_versions_agree() -> None:
    import openvocab

    version = project()["version"]
    assert openvocab.__version__ == version
    assert f"## {version}" in text("CHANGELOG.md")


def test_the_makefile_has_its_targets() -> None:
    makefile = text("Makefile")
    found = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    assert found >= TARGETS
    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)[1].split()
    assert set(phony) >= TARGETS
    first = re.search(r"^([a-z]+):", makefile, flags=re.MULTILINE)[1]
    assert first == "help"


@pytest.mark.parametrize("target", ["demo", "test", "check", "lint"])
def test_commands_set_up_what_they_need(target: str) -> None:
    """`make -n` prints the commands of a target: the environment is made first, then its Python is used."""
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
    commands = [line for line in done.stdout.splitlines() if "tools/setup_env.py" in line or ".venv/bin/python" in line]
    assert "tools/setup_env.py" in commands[0] and ".venv" not in commands[0]
    assert len(commands) > 1 and all(".venv/bin/python" in line for line in commands[1:])


def test_ci_runs_the_tests() -> None:
    script = text(".ci/run")
    assert script.startswith("#!/usr/bin/env bash")
    assert "set -euo pipefail" in script and re.search(r"^make test$", script, flags=re.MULTILINE)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_hash_of_detectron2_stands_in_one_place() -> None:
    pinned = re.search(r'DETECTRON2_SHA256 = "([0-9a-f]{64})"', text("tools/setup_env.py"))[1]
    assert SHA256.fullmatch(pinned)
    holders = [p.relative_to(ROOT).as_posix() for p in own_files() if pinned in p.read_text(encoding="utf-8", errors="ignore")]
    assert holders == ["tools/setup_env.py"]


def test_the_licence_is_whole() -> None:
    licence = text("LICENSE")
    assert "Apache License" in licence and "Version 2.0, January 2004" in licence
    assert "Copyright 2026 the openvocab-detectron2 authors" in licence
    assert "9. Accepting Warranty or Additional Liability" in licence and len(licence.splitlines()) > 195
    assert project()["license"] == {"text": "Apache-2.0"}


def test_the_wheel_brings_configs_and_data(tmp_path: Path) -> None:
    """Run setup.py's build step alone (it needs no network), and look at what it would pack."""
    copy = tmp_path / "source"
    wanted = [*(p for p in PACKAGES if (ROOT / p).is_dir()), "configs"]
    for name in wanted:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, copy / name)
    (copy / "README.md").write_text("a stand-in")
    build = [sys.executable, "-W", "ignore", "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "built")]
    done = subprocess.run(build, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = {p.relative_to(tmp_path / "built").as_posix() for p in (tmp_path / "built").rglob("*") if p.is_file()}
    sources = {p.relative_to(ROOT).as_posix() for p in python_files(*PACKAGES)}
    assert sources <= built
    configs = {p.relative_to(ROOT / "configs").as_posix() for p in python_files("configs")}
    assert {f"openvocab/configs/{name}" for name in configs} <= built
    data = {p.relative_to(ROOT).as_posix() for p in (ROOT / "openvocab").rglob("*.json") if "configs" not in p.parts}
    assert data and data <= built
    assert not [p for p in built if p.startswith(("tests/", "tools/", "configs/", "benchmarks/"))]
