from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from openvocab.errors import cli_main

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "train_net.py"
CONFIG = """
from tests.openvocab.engine.toys import toy_config

_cfg = toy_config("output", seed=1, init_checkpoint="")
_cfg.train.checkpointer = dict(period=4, max_to_keep=2)
model, dataloader, optimizer, lr_multiplier, train = (_cfg[k] for k in _cfg)
"""


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "toy.py"
    path.write_text(CONFIG)
    return path


def load_tool() -> object:
    spec = importlib.util.spec_from_file_location("train_net_under_test", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    """Run the tool in this process; return its exit code."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setattr(sys, "argv", ["train_net.py", *map(str, args)])
    with pytest.raises(SystemExit) as left:
        cli_main(load_tool().main)
    return left.value.code


def test_train_resume_and_evaluate(config, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert call(monkeypatch, "--config-file", config, f"train.output_dir={out}", "train.max_iter=6", "--num-gpus", 0) == 0
    final = torch.load(out / "model_final.pth", weights_only=True)
    assert final["iteration"] == 6
    trained = json.loads((out / "results.json").read_text())
    assert call(monkeypatch, "--resume", "--config-file", config, f"train.output_dir={out}", "train.max_iter=8") == 0
    assert torch.load(out / "model_final.pth", weights_only=True)["iteration"] == 8
    weights = tmp_path / "six.pth"
    torch.save({"model": final["model"]}, weights)
    capsys.readouterr()
    again = tmp_path / "again"
    flags = ["--eval-only", "--config-file", config]
    assert call(monkeypatch, *flags, f"train.output_dir={again}", f"train.init_checkpoint={weights}") == 0
    assert json.loads((again / "results.json").read_text())["mean"] == trained["mean"]
    assert not list(again.glob("*.pth"))
    log = (again / "log.txt").read_text()
    assert "AP50" in log and "toy" in log


def test_folders_are_registered_first_and_once(config, tmp_path, monkeypatch, capsys):
    from openvocab.data import get_records
    from openvocab.data.catalog import unregister
    from openvocab.testing.writer import write_coco

    files = write_coco(tmp_path / "set", 2, taxonomy="shape", captions=0, referring=0, questions=0).files
    line = f"{{root: /, annotations: {files['instances']}, images: {tmp_path}/set/images}}"
    (tmp_path / "sets.yaml").write_text(f"registered_for_train_net: {line}\n")
    flags = ["--config-file", config, "--register", tmp_path / "sets.yaml", f"train.output_dir={tmp_path}/out", "train.max_iter=1"]
    try:
        assert call(monkeypatch, *flags) == 0, "checked and run in one process"
        assert len(get_records("registered_for_train_net")) == 2
    finally:
        unregister("registered_for_train_net")
    assert call(monkeypatch, "--config-file", config, "--register", tmp_path / "none.yaml") == 2
    assert "none.yaml" in capsys.readouterr().err


def test_added_keys_need_a_plus(config, tmp_path, monkeypatch, capsys):
    wanted = [f"train.output_dir={tmp_path}/out", "--eval-only"]
    assert call(monkeypatch, "--config-file", config, *wanted, "dataloader.test.toy.loader.batch=3") == 2
    assert "batch_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ["--config-file"]),
        (["--config-file", "no_such_config"], ["no_such_config"]),
        (["--config-file", "{config}", "--resum"], ["--resum"]),
        (["--config-file", "{config}", "--num-gpus", "two"], ["--num-gpus", "two"]),
        (["--config-file", "{config}", "--num-gpus", "-1"], ["--num-gpus"]),
        (["--config-file", "{config}", "--num-gpus", "64"], ["--num-gpus 64", "--cpu-procs"]),
        (["--config-file", "{config}", "--cpu-procs", "1", "--num-machines", "2"], ["--dist-url"]),
        (["--config-file", "{config}", "train.max_itr=5"], ["train.max_itr", "max_iter"]),
        (["--config-file", "{config}", "train.max_iter"], ["train.max_iter", "key=value"]),
        (["--config-file", "{config}", "+train.max_itr=5"], ["train.max_itr", "max_iter"]),
        (["--config-file", "{config}", "train.max_iter=0"], ["train.max_iter=0"]),
        (["--config-file", "{config}", "model._target_=os.system"], ["os.system"]),
        (["--config-file", "{config}", "train.init_checkpoint=/no/such.pth"], ["/no/such.pth"]),
    ],
)
def test_what_is_wrong_is_one_sentence(config, tmp_path, monkeypatch, capsys, args, words):
    monkeypatch.chdir(tmp_path)
    code = call(monkeypatch, *(a.format(config=config) for a in args))
    said = capsys.readouterr().err
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1 and "Traceback" not in said
    assert all(w in said for w in words), said


SIGNAL_AT_THE_FOURTH = """
from detectron2.config import LazyCall as L
from tests.openvocab.engine.test_train import SignalAt

model = L(SignalAt)(at=4, which=15)
"""


def test_a_signal_leaves_with_130(config, tmp_path, monkeypatch, capsys):
    config.write_text(CONFIG + SIGNAL_AT_THE_FOURTH)
    out = tmp_path / "out"
    assert call(monkeypatch, "--config-file", config, f"train.output_dir={out}", "train.max_iter=50") == 130
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("stopped by SIGTERM") and "--resume" in last
    assert torch.load(out / (out / "last_checkpoint").read_text(), weights_only=True)["iteration"] == 4


def start(*args: object) -> subprocess.Popen:
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(TOOL), *map(str, args)]
    return subprocess.Popen(command, env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_saves_and_leaves_with_130(config, tmp_path, processes):
    out = tmp_path / "out"
    wanted = [f"train.output_dir={out}", "train.max_iter=1000000", "--cpu-procs", processes]
    process = start("--config-file", config, *wanted)
    try:
        end = time.monotonic() + 120
        while not list(out.glob("model_*.pth")) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    last = said.strip().splitlines()[-1]
    assert last.startswith("stopped by SIGTERM") and "--resume" in last and "Traceback" not in said
    assert torch.load(out / (out / "last_checkpoint").read_text(), weights_only=True)["iteration"] > 0
