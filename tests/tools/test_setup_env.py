"""tools/setup_env.py: what it refuses, what it keeps, what it unpacks; no test here reaches a registry."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A repository with nothing but what the script reads."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "setup_env.py", tmp_path / "tools")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.fixture
def setup(place: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_under_test", place / "tools" / "setup_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(place: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(place / "tools" / "setup_env.py")]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=200)


def unreachable(place: Path) -> dict[str, str]:
    """Return variables that point pip at a port where nobody listens."""
    return {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 14, 0), (2, 7, 18)])
def test_other_pythons_are_refused(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, version: tuple) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(setup.SetupError, match=rf"Python {version[0]}\.{version[1]} is not supported; use 3\.10 to 3\.13"):
        setup.check_machine()


def test_a_python_without_venv_is_refused(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(setup.SetupError, match="no venv module; on Debian: apt-get install python3-venv"):
        setup.check_machine()


def test_a_full_disk_is_refused_unless_torch_is_there(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda path: Usage(10e9, 7e9, 3e9))
    with pytest.raises(setup.SetupError, match=r"3\.0 GB are free .* needs about 9"):
        setup.check_machine()
    torch = setup.VENV / "lib" / "python3.11" / "site-packages" / "torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").touch()
    setup.check_machine()


def test_the_fingerprint_follows_requirements_and_place(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = setup.fingerprint()
    assert setup.fingerprint() == before
    (setup.ROOT / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    changed = setup.fingerprint()
    assert changed != before
    shutil.copytree(setup.ROOT / "tools", tmp_path / "moved" / "tools")
    shutil.copy(setup.ROOT / "pyproject.toml", tmp_path / "moved")
    monkeypatch.setattr(setup, "ROOT", tmp_path / "moved")
    assert setup.fingerprint() != changed


def test_a_second_run_asks_nobody(setup: ModuleType, place: Path) -> None:
    venv.create(setup.VENV, with_pip=False)
    setup.STAMP.write_text(setup.fingerprint())
    done = run(place, **unreachable(place))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_a_registry_out_of_reach_is_one_sentence(place: Path) -> None:
    done = run(place, **unreachable(place))
    assert done.returncode == 1
    said = done.stderr.strip()
    assert said.startswith("setup: the package registry cannot be reached") and "\n" not in said
    assert "Traceback" not in done.stdout + done.stderr
    assert not (place / ".venv" / ".openvocab-ready").exists()


def test_what_pip_says_of_a_registry_is_part_of_the_sentence(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    output = "WARNING: Retrying after connection broken\nERROR: No matching distribution found\nERROR: and more\n"
    monkeypatch.setattr(setup, "call", lambda *command: (1, output))
    with pytest.raises(setup.SetupError) as caught:
        setup.install_build_tools()
    said = str(caught.value)
    assert said.startswith("the package registry cannot be reached") and "\n" not in said
    assert said.endswith("(ERROR: No matching distribution found)")


def test_a_broken_environment_is_made_anew_and_a_good_one_kept(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(setup, "run", lambda *command, what: asked.append(what))
    setup.make_venv()
    setup.PYTHON.parent.mkdir(parents=True)
    setup.PYTHON.symlink_to(setup.ROOT / "gone" / "python")  # its Python was removed
    setup.make_venv()
    setup.PYTHON.unlink()
    setup.PYTHON.write_text("not a program")
    setup.PYTHON.chmod(0o755)
    with pytest.raises(OSError):
        setup.call(str(setup.PYTHON), "-c", "")
    setup.make_venv()
    assert asked == ["create .venv"] * 3
    shutil.rmtree(setup.VENV)
    venv.create(setup.VENV, with_pip=False, symlinks=True)
    setup.make_venv()
    assert asked[3:] == ["add pip to .venv"]


def test_a_command_that_fails_is_told_by_the_end_of_its_output(setup: ModuleType) -> None:
    code = "import sys; print('WARNING: a mirror is away'); [print('line', i) for i in range(20)]; sys.exit(3)"
    with pytest.raises(setup.SetupError) as caught:
        setup.run(sys.executable, "-c", code, what="try it")
    said = str(caught.value).splitlines()
    assert said[0] == "try it failed with exit code 3" and said[1:] == [f"line {i}" for i in range(5, 20)]


def make_wheel(folder: Path) -> Path:
    wheel = folder / "sal_detectron2-0.7.2-cp310-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("__init__.py", "modeling/__init__.py", "_C.cpython-310-x86_64-linux-gnu.so", "data/_C_notes.txt"):
            archive.writestr(f"detectron2/{name}", "")
        archive.writestr("sal_detectron2-0.7.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: sal-detectron2\nVersion: 0.7.2\n")
        archive.writestr("tools/__init__.py", "")
    return wheel


@pytest.fixture
def with_wheel(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """A script whose downloads bring a made-up wheel, with its hash pinned, into a real but empty environment."""
    wheel = make_wheel(tmp_path)
    venv.create(setup.VENV, with_pip=False, symlinks=True)

    def download(*arguments: str, what: str) -> None:
        assert arguments[0] == "download" and setup.DETECTRON2 in arguments and "--no-deps" in arguments
        shutil.copy(wheel, arguments[arguments.index("--dest") + 1])

    monkeypatch.setattr(setup, "pip", download)
    monkeypatch.setattr(setup, "DETECTRON2_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    return setup


def unpacked(setup: ModuleType) -> set[str]:
    folder = next(setup.VENV.glob("lib*/python*/site-packages"))
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


def test_detectron2_is_unpacked_without_its_compiled_part_and_tools(with_wheel: ModuleType) -> None:
    with_wheel.install_detectron2()
    wanted = {f"detectron2/{name}" for name in ("__init__.py", "modeling/__init__.py", "data/_C_notes.txt")}
    assert unpacked(with_wheel) == {*wanted, "sal_detectron2-0.7.2.dist-info/METADATA"}
    byte_code = {p.name.split(".")[0] for p in with_wheel.VENV.rglob("site-packages/detectron2/**/*.pyc")}
    assert byte_code == {"__init__"}, "as pip leaves what it installs"


def test_another_hash_is_not_installed(with_wheel: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(with_wheel, "DETECTRON2_SHA256", "0" * 64)
    with pytest.raises(with_wheel.SetupError, match="has sha256 [0-9a-f]{64}, expected 0{64}; it is not installed"):
        with_wheel.install_detectron2()
    assert unpacked(with_wheel) == set()


def test_a_detectron2_that_works_is_kept(with_wheel: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    own = next(with_wheel.VENV.glob("lib*/python*/site-packages")) / "detectron2" / "modeling"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text("mine = True")
    monkeypatch.setattr(with_wheel, "pip", lambda *arguments, what: pytest.fail("nothing is to be downloaded"))
    with_wheel.install_detectron2()
    assert (own / "__init__.py").read_text() == "mine = True"


def test_requirements_are_those_of_pyproject(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "PYTHON", Path(sys.executable))
    found = setup.requirements()
    assert {"torch>=2.4", "setuptools<81", "omegaconf<2.4", "pytest", "ruff", "hypothesis"} <= set(found)
    assert not [r for r in found if "detectron2" in r]
