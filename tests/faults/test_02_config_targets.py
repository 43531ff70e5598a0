"""Promise 2: .py configs are trusted code; yaml, checkpoints and overrides build nothing outside the allow-list."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest
from detectron2.config import LazyConfig

from openvocab.config import config_from_text, instantiate, load_config
from openvocab.errors import ConfigError
from tests.faults.traps import run_tool


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it_ran"


def payloads(mark: Path) -> dict[str, str]:
    command = f"touch {mark}"
    return {
        "target": f"model: {{_target_: os.system, command: '{command}'}}",
        "alias": f"model: {{_target_: openvocab.text.clip.torch.hub.os.system, command: '{command}'}}",
        "deep": f"model: {{_target_: torch.nn.Sequential, a: [[{{_target_: subprocess.run, args: '{command}'}}]]}}",
        "tag": f"model: !!python/object/apply:os.system ['{command}']",
        "new tag": f"model: !!python/object/new:os.system ['{command}']",
        "reference": f"f: os.system\nmodel: {{_target_: '${{f}}', command: '{command}'}}",
        "created": f"model: '${{oc.create:{{_target_: os.system, command: \"{command}\"}}}}'",
        "partial": f"model: {{_target_: functools.partial, func: {{_target_: os.system, command: '{command}'}}}}",
        "instantiate": f"model: {{_target_: detectron2.config.instantiate, x: {{_target_: os.system, a: {mark}}}}}",
        "eval": f"model: {{_target_: builtins.eval, source: \"__import__('os').system('{command}')\"}}",
        "another config": f"model: {{_target_: detectron2.config.LazyConfig.load, filename: {mark}.py}}",
        "pickle": f"model: {{_target_: torch.load, f: {mark}.pth, weights_only: false}}",
        "our own": f"model: {{_target_: openvocab.io.load_weights, path: {mark}.pth, allow_pickle: true}}",
        "our writer": f"model: {{_target_: openvocab.io.save_weights, path: {mark}, tensors: {{}}}}",
    }


@pytest.mark.parametrize("kind", payloads(Path("x")))
def test_yaml_runs_nothing(tmp_path: Path, mark: Path, kind: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(payloads(mark)[kind])
    with pytest.raises(ConfigError, match="config.yaml"):
        instantiate(load_config(path).model)
    with pytest.raises(ConfigError):
        config_from_text(path.read_text(), source="a checkpoint")
    assert not mark.exists()


def test_the_payload_works_on_an_unchecked_loader(tmp_path: Path, mark: Path) -> None:
    """detectron2's own loader runs it: so the test above shows something."""
    path = tmp_path / "config.yaml"
    path.write_text(payloads(mark)["tag"])
    LazyConfig.load(str(path))
    assert mark.exists()


@pytest.mark.parametrize(
    "override",
    [
        "model={{_target_: os.system, command: 'touch {mark}'}}",
        "model._target_=os.system",
        "+extra.deep=[{{_target_: subprocess.getoutput, cmd: 'touch {mark}'}}]",
        "train='${{oc.create:{{_target_: os.system}}}}'",
        "++train.seed='${{oc.decode:\"{{_target_: os.system}}\"}}'",
        "train.seed=!!python/object/apply:os.system ['touch {mark}']",
    ],
)
def test_overrides_of_trusted_configs_run_nothing(mark: Path, override: str) -> None:
    with pytest.raises(ConfigError):
        load_config("glipv2/default", [override.format(mark=mark)])
    assert not mark.exists()


def test_python_configs_are_code(tmp_path: Path, mark: Path) -> None:
    """The other side of the promise: a .py file is run, and may build anything."""
    (tmp_path / "config.py").write_text(
        f"open({str(mark)!r}, 'w').close()\nmodel = dict(_target_='fractions.Fraction')\n"
    )
    assert instantiate(load_config(tmp_path / "config.py").model) == 0 and mark.exists()


def test_the_command_line_says_it_in_one_sentence(tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "config.yaml").write_text(payloads(mark)["target"])
    assert run_tool("train_net", "--config-file", str(tmp_path / "config.yaml")) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "'os.system' is not allowed" in error
    assert "\n" not in error and "Traceback" not in error and not mark.exists()


def test_a_config_that_raises_leaves_import_alone(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text("raise RuntimeError('boom')")
    original = builtins.__import__
    with pytest.raises(ConfigError, match=r"config\.py, line 1"):
        load_config(tmp_path / "config.py")
    assert builtins.__import__ is original
