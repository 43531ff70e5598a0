"""Configs from files."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from torch import nn

from openvocab.config import config_from_text, find_config, instantiate, list_configs, load_config
from openvocab.config import load as load_module
from openvocab.errors import ConfigError, DataError

from .conftest import PYTHON


def test_python(load: Callable[..., DictConfig]) -> None:
    cfg = load(PYTHON, ("train.max_iter=5", "model.out_features=7"))
    assert list(cfg) == ["model", "train", "dataloader"] and cfg.train.max_iter == 5
    assert isinstance(instantiate(cfg.model), nn.Linear) and instantiate(cfg.model).out_features == 7


def test_relative_imports(load: Callable[..., DictConfig], write: Callable[..., Path]) -> None:
    write("x = dict(a=1)", "common/base.py")
    cfg = load("from .common.base import x\ny = x.copy()\ny.a = 2", ("x.a=3",))
    assert cfg.x.a == 3 and cfg.y.a == 2
    assert load("from .common.base import x").x.a == 1  # an override of one load is not seen by the next


ERRORS = {
    "raises": ("a = 1\n\nraise RuntimeError('boom')", r"config\.py, line 3 fails: RuntimeError: boom"),
    "name": ("a = {}\nb = a['c']", r"config\.py, line 2 fails: KeyError"),
    "syntax": ("a = 1\nb = (", r"config\.py, line 2, cannot be read: SyntaxError"),
    "import": ("import nothing_of_this_name", r"line 1 fails: ModuleNotFoundError: No module named 'nothing_of"),
    "relative": ("\nfrom .nothing import x", r"line 2 fails: ImportError"),
    "in a part": ("from .part import x", r"part\.py, line 2 fails: ZeroDivisionError"),
    "name of a part": ("from .fine import nothing", r"config\.py, line 1 fails: KeyError: 'nothing'"),
    "wrong call": ("from detectron2.config import LazyCall as L\nm = L(3)(a=1)", r"line 2 fails: TypeError"),
}


@pytest.mark.parametrize(("text", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors_name_file_and_line_and_leave_import_as_it_was(
    load: Callable[..., DictConfig], write: Callable[..., Path], text: str, message: str
) -> None:
    write("x = {}\ny = 1 / 0", "part.py")
    write("x = {}", "fine.py")
    original = builtins.__import__
    with pytest.raises(ConfigError, match=message):
        load(text)
    assert builtins.__import__ is original
    load(PYTHON)
    assert builtins.__import__ is original


def test_import_is_restored_after_exits_and_errors_of_ours(load: Callable[..., DictConfig]) -> None:
    original = builtins.__import__
    with pytest.raises(DataError, match="no such set"):
        load("from openvocab.errors import DataError\nraise DataError('no such set')")
    with pytest.raises(SystemExit):
        load("raise SystemExit(3)")
    assert builtins.__import__ is original


def test_yaml(load: Callable[..., DictConfig]) -> None:
    text = "model: {_target_: torch.nn.Linear, in_features: 2, out_features: '${n}'}\nn: 3\nlr: 1e-4\nwords: [no, on]\n"
    cfg = load(text, ("n=4",), "c.yaml")
    assert instantiate(cfg.model).out_features == 4 and cfg.lr == 1e-4 and cfg.words == ["no", "on"]


YAML_ERRORS = {
    "python tag": (
        "a: 1\nb: !!python/object/apply:os.system ['touch /tmp/x']",
        r"c\.yaml, line 2: .*python objects are not",
    ),
    "unsafe tag": ("a: !!python/name:os.system", "python objects are not allowed"),
    "syntax": ("a: [1\nb: 2", r"c\.yaml, line 2"),
    "twice": ("a: 1\na: 2", "'a' is there twice"),
    "list": ("- 1", "holds a list, not keys"),
    "nothing": ("", "holds a NoneType, not keys"),
    "target": ("a:\n  - _target_: os.system\n    command: id", r"c\.yaml: a\.0\._target_: the target 'os\.system'"),
    "created": ("a: '${oc.create:{_target_: os.system}}'", r"the target 'os\.system' is not allowed"),
    "reference": ("a: ${b}", "'b' not found"),
    "endless": ("a: &x {b: *x}", "refers to itself"),
    "very large": (
        "a: &a [" + "1," * 99 + "]\nb: &b [" + "*a," * 99 + "]\nc: [" + "*b," * 99 + "]",
        "more than 200000",
    ),
    "very deep": ("a: " + "[" * 3000 + "]" * 3000, "too deep"),
    "control characters": ("a: \x01", "no plain yaml"),
    "malformed reference": ("a: '${'", r"c\.yaml: "),
}


@pytest.mark.parametrize(("text", "message"), YAML_ERRORS.values(), ids=YAML_ERRORS.keys())
def test_yaml_errors(load: Callable[..., DictConfig], text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(text, name="c.yaml")
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_yaml_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "c.yaml")


def test_overrides_are_checked_in_python_configs_too(load: Callable[..., DictConfig]) -> None:
    for text in (
        "model._target_=os.system",
        "train.amp={_target_: os.system}",
        "+x=[{_target_: subprocess.getoutput}]",
    ):
        with pytest.raises(ConfigError, match="is not allowed"):
            load(PYTHON, (text,))
    named = PYTHON + "kind = dict(name='fractions.Fraction')\nbuilt = dict(_target_='${kind.name}')\n"
    assert instantiate(load(named).built) == 0
    with pytest.raises(ConfigError, match=r"built\._target_: the target 'os\.system'"):
        load(named, ("kind.name=os.system",))


def test_text_from_a_checkpoint() -> None:
    assert config_from_text("a: {b: 1}", ["a.b=2"], source="model.pth").a.b == 2
    with pytest.raises(ConfigError, match=r"model\.pth: a\._target_"):
        config_from_text("a: {_target_: os.system}", source="model.pth")


def test_find_config(write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write()
    assert find_config(path) == find_config(str(path)) == path
    default = find_config("glipv2/default")
    assert default.name == "default.py" and default.is_file()
    for name in ("glipv2/default.py", "default", "zoo://default"):
        assert find_config(name) == default
    monkeypatch.chdir(tmp_path)
    assert find_config("config.py") == Path("config.py")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("glipv2/defualt", "Did you mean 'glipv2/default'"),
        ("glipv2_default", "Did you mean 'glipv2/default'"),
        ("defalt", "Did you mean 'default'"),
        ("bridge", "has no config.*load_predictor"),
        ("zoo://nothing", "there is no config 'nothing'"),
        ("/nowhere/c.py", "there is no config '/nowhere/c.py'"),
        ("", "there is no config"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_config(name)


def test_other_files_are_no_configs(write: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="must be a .py or .yaml file"):
        load_config(write("x", "photo.jpg"))


def test_the_installed_folder_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "openvocab"
    for root in (package / "configs", tmp_path / "site" / "configs"):
        (root / "paper").mkdir(parents=True)
        (root / "paper" / "a.py").write_text("x = dict(a=1)")
    (tmp_path / "site" / "configs" / "paper" / "b.py").write_text("x = dict(a=1)")
    monkeypatch.setattr(load_module, "__file__", str(package / "config" / "load.py"))
    assert find_config("paper/a") == package / "configs" / "paper" / "a.py"
    assert list_configs() == ["paper/a"]  # site-packages/configs is somebody else's
    (tmp_path / "site" / "pyproject.toml").write_text("")
    assert list_configs() == ["paper/a", "paper/b"] and find_config("paper/a").is_relative_to(package)


def test_listed_configs_are_experiments() -> None:
    names = list_configs()
    assert "glipv2/default" in names and names == sorted(set(names))
    assert not [n for n in names if n.startswith("common/") or "/models/" in n or "__init__" in n]
