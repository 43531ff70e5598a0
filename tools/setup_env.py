"""Make .venv ready: torch, the dependencies, detectron2 as pure Python, this project. Needs only Python and PyPI.

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
    """Hash of what decides about the environment: its Python, its place, the requirements, this script."""
    digest = hashlib.sha256(f"{sys.version}\n{ROOT}\n".encode())
    for path in (ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_ready() -> bool:
    """Whether an earlier run finished and nothing that decides about the environment has changed since."""
    return PYTHON.exists() and STAMP.is_file() and STAMP.read_text(encoding="utf-8") == fingerprint()


def check_machine() -> None:
    """Stop early if this cannot work."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        found = ".".join(map(str, sys.version_info[:2]))
        raise SetupError(f"Python {found} is not supported; use 3.10 to 3.13 (make PYTHON=python3.11)")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        raise SetupError("this Python has no venv module; on Debian: apt-get install python3-venv") from error
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < NEEDED_GB and not any(VENV.glob("lib*/python*/site-packages/torch/__init__.py")):
        raise SetupError(f"{free:.1f} GB are free under {ROOT}, and torch with its libraries needs about {NEEDED_GB}")


def call(*command: str) -> tuple[int, str]:
    """Run a command quietly; return its exit code and output."""
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout


def works() -> bool:
    """Whether the environment's Python starts."""
    try:
        return PYTHON.exists() and call(str(PYTHON), "-c", "")[0] == 0
    except OSError:
        return False


def run(*command: str, what: str) -> None:
    """Run a command quietly; show the end of its output only if it fails."""
    print(f"setup: {what}", flush=True)
    code, output = call(*command)
    if code:
        told = [line for line in output.splitlines() if not line.startswith("WARNING")]
        raise SetupError("\n".join([f"{what} failed with exit code {code}", *told[-15:]]))


def pip(*arguments: str, what: str) -> None:
    """Run pip of the environment."""
    run(str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments, what=what)


def imports(module: str) -> bool:
    """Whether the environment's Python can import `module`."""
    return call(str(PYTHON), "-c", f"import {module}")[0] == 0


def ask(code: str, *arguments: str) -> str:
    """Return what a line of code prints in the environment's Python."""
    status, output = call(str(PYTHON), "-c", code, *arguments)
    if status:
        raise SetupError(f"{PYTHON} is damaged; remove .venv and run make setup again:\n{output.strip()}")
    return output.strip()


def make_venv() -> None:
    """Create .venv, or give an existing one the pip it lacks; one that does not start is made anew."""
    if works():
        if not imports("pip"):
            run(str(PYTHON), "-m", "ensurepip", what="add pip to .venv")
    else:
        run(sys.executable, "-m", "venv", "--clear", str(VENV), what="create .venv")


def install_build_tools() -> None:
    """Install setuptools and wheel: small, and so the first to show that the registry is out of reach."""
    arguments = ["install", "--quiet", "--retries", "1", "--timeout", "15", "setuptools<81", "wheel"]
    print("setup: install setuptools", flush=True)
    code, output = call(str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments)
    if code:
        errors = [line for line in output.splitlines() if line.startswith("ERROR")] or output.splitlines()[-1:]
        said = " ".join(errors[:1])
        raise SetupError(f"the package registry cannot be reached or lacks setuptools; see `pip config list` ({said})")


def requirements() -> list[str]:
    """Dependencies and the dev extra of pyproject.toml."""
    code = (
        "import sys\ntry:\n import tomllib\nexcept ImportError:\n from pip._vendor import tomli as tomllib\n"
        "p = tomllib.load(open(sys.argv[1], 'rb'))['project']\n"
        "print('\\n'.join(p['dependencies'] + p['optional-dependencies']['dev']))"
    )
    return ask(code, str(ROOT / "pyproject.toml")).splitlines()


def is_wanted(member: str) -> bool:
    """Whether a file of detectron2's wheel is unpacked.

    Left out are `_C`, which fits one Python and one torch, and a package called `tools`, which would hide every other.
    """
    top = member.split("/")[0]
    return not member.startswith("detectron2/_C.") and (top == "detectron2" or top.endswith(".dist-info"))


def install_detectron2() -> None:
    """Unpack the wheel of detectron2's Python part, once its hash is right; any detectron2 that works is kept."""
    if imports("detectron2.modeling"):
        return
    with tempfile.TemporaryDirectory() as folder:
        which = ["--only-binary=:all:", "--python-version", "3.10", "--implementation", "cp"]
        pip("download", "--quiet", "--no-deps", *which, "--dest", folder, DETECTRON2, what=f"download {DETECTRON2}")
        wheel = next(Path(folder).glob("*.whl"))
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != DETECTRON2_SHA256:
            raise SetupError(f"{wheel.name} has sha256 {found}, expected {DETECTRON2_SHA256}; it is not installed")
        target = ask("import sysconfig; print(sysconfig.get_paths()['purelib'])")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target, [name for name in archive.namelist() if is_wanted(name)])
    # as pip does for what it installs: else every process compiles it anew where Python may not keep byte code
    call(str(PYTHON), "-m", "compileall", "-q", str(Path(target) / "detectron2"))
    code, output = call(str(PYTHON), "-c", "import detectron2.modeling")
    if code:
        raise SetupError(f"detectron2 was unpacked but cannot be imported: {output.strip().splitlines()[-1]}")


def install() -> None:
    """Do what is missing, the small and telling things first."""
    make_venv()
    install_build_tools()
    if not imports("torchvision"):
        pip("install", "--quiet", "torch", "torchvision", what="install torch and torchvision (the longest step)")
    pip("install", "--quiet", *requirements(), what="install the dependencies")
    install_detectron2()
    pip("install", "--quiet", "--no-deps", "--no-build-isolation", "-e", ".", what="install this project")
    if not imports("openvocab, glipv2"):
        raise SetupError("the project is installed but cannot be imported; run .venv/bin/python tools/doctor.py")


def main() -> int:
    """Make the environment ready unless it is."""
    if is_ready():
        return 0
    check_machine()
    install()
    STAMP.write_text(fingerprint(), encoding="utf-8")
    print("setup: ready", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (SetupError, OSError) as error:
        print(f"setup: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
