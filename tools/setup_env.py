"""Make .venv ready: torch, the dependencies, detectron2 as pure Python, this project. Needs nothing but Python and PyPI.

    python3 tools/setup_env.py

It may be run again at any time: what is there already is not done twice, and an interrupted run is taken up.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / ".openvocab-ready"
OLDEST, NEWEST = (3, 10), (3, 13)
NEEDED_GB = 9

DETECTRON2 = "sal-detectron2==0.7.2"
DETECTRON2_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"


class SetupError(Exception):
    """Said to the user in one sentence."""


def fingerprint() -> str:
    """Hash of what decides about the environment."""
    digest = hashlib.sha256(sys.version.encode())
    for path in (ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_machine() -> None:
    """Stop early if this cannot work."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        raise SetupError(f"Python {sys.version_info[0]}.{sys.version_info[1]} is not supported; use 3.10 to 3.13 (make PYTHON=python3.11)")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        raise SetupError("this Python has no venv module; on Debian: apt-get install python3-venv") from error
    free = shutil.disk_usage(ROOT).free / 1e9
    if not PYTHON.exists() and free < NEEDED_GB:
        raise SetupError(f"{free:.1f} GB are free and torch with its libraries needs about {NEEDED_GB}")


def run(*command: str, what: str) -> None:
    """Run a command quietly; show the end of its output only if it fails."""
    print(f"setup: {what}", flush=True)
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise SetupError(f"{what} failed:\n{tail}\nIs the package registry within reach? (pip index versions pip)")


def pip(*arguments: str, what: str) -> None:
    """Run pip of the environment."""
    run(str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments, what=what)


def imports(module: str) -> bool:
    """Whether the environment's Python can import `module`."""
    return subprocess.run([str(PYTHON), "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


def site_packages() -> Path:
    """Where the environment keeps its packages."""
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    return Path(subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True, check=True).stdout.strip())


def requirements() -> list[str]:
    """Dependencies and the dev extra of pyproject.toml."""
    code = (
        "import sys\ntry:\n import tomllib\nexcept ImportError:\n from pip._vendor import tomli as tomllib\n"
        "p = tomllib.load(open(sys.argv[1], 'rb'))['project']\nprint('\\n'.join(p['dependencies'] + p['optional-dependencies']['dev']))"
    )
    done = subprocess.run([str(PYTHON), "-c", code, "pyproject.toml"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:-1]


def install_detectron2() -> None:
    """Unpack the wheel of detectron2's Python part, once its hash is right; any detectron2 that is there already is kept."""
    if imports("detectron2.modeling"):
        return
    with tempfile.TemporaryDirectory() as folder:
        where = ["--python-version", "3.10", "--implementation", "cp", "--dest", folder]
        pip("download", "--quiet", "--no-deps", "--only-binary=:all:", *where, DETECTRON2, what=f"download {DETECTRON2}")
        wheel = next(Path(folder).glob("*.whl"))
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != DETECTRON2_SHA256:
            raise SetupError(f"{wheel.name} has sha256 {found}, expected {DETECTRON2_SHA256}; it is not installed")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site_packages())
    if not imports("detectron2.modeling"):
        raise SetupError("detectron2 was unpacked but cannot be imported; run .venv/bin/python -c 'import detectron2.modeling'")


def main() -> int:
    """Do what is missing."""
    check_machine()
    if STAMP.is_file() and STAMP.read_text() == fingerprint() and PYTHON.exists():
        return 0
    if not PYTHON.exists() or not imports("pip"):
        run(sys.executable, "-m", "venv", "--clear", str(VENV), what="create .venv")
    pip("install", "--quiet", "setuptools<81", "wheel", what="install setuptools")
    if not imports("torchvision"):
        pip("install", "--quiet", "torch", "torchvision", what="install torch and torchvision (the longest step)")
    pip("install", "--quiet", *requirements(), what="install the dependencies")
    install_detectron2()
    pip("install", "--quiet", "--no-deps", "--no-build-isolation", "-e", ".", what="install this project")
    if not imports("openvocab, glipv2"):
        raise SetupError("the project is installed but cannot be imported; run .venv/bin/python tools/doctor.py")
    STAMP.write_text(fingerprint())
    print("setup: ready", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
