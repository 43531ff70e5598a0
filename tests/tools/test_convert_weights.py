"""tools/convert_weights.py: what it writes can be read back, and bad input is one sentence."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from openvocab.errors import ConfigError, WeightsError
from openvocab.io import load_weights, save_weights, sha256_file
from regionclip.convert import ClipResNet
from tests.regionclip.weights import CLASSES, TINY, clip_file, filled, official, prefixed, rpn_file, text_keys

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "convert_weights.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("convert_weights_under_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(tool: ModuleType, *args: object) -> int:
    return tool.main([str(a) for a in args])


def write(path: Path, tensors: dict[str, Tensor], **besides: object) -> Path:
    torch.save({"model": {k: v.clone() for k, v in tensors.items()}, **besides}, path)
    return path


class Tree(nn.Module):
    """A module with parameters and buffers of given dotted names."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            head, _, tail = name.partition(".")
            if tail:
                groups.setdefault(head, {})[tail] = value
            else:
                self.register_buffer(head, value.clone())
        for head, group in groups.items():
            self.add_module(head, Tree(group))

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_an_official_checkpoint(tool: ModuleType, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture) -> None:
    given = official(rpn="fpn", mask=True, text=True)
    source, target = write(tmp_path / "in.pth", given, iteration=90000), tmp_path / "new" / f"out{suffix}"
    report = tmp_path / "report.json"
    assert run(tool, "--from", "regionclip", "--report", report, source, target) == 0
    back = load_weights(target)
    assert torch.equal(back.tensors[CLASSES], given["roi_heads.box_predictor.test_cls_score.weight"])
    assert torch.equal(back.tensors["backbone.attnpool.c_proj.bias"], given["backbone.attnpool.c_proj.bias"])
    written = json.loads(report.read_text())
    assert set(written["matched"].values()) == set(back.tensors) and written["unexpected"] == []
    assert back.metadata["converted_from"] == "regionclip" and back.metadata["source_sha256"] == sha256_file(source)
    assert back.metadata["variant"] == TINY.name and back.metadata["source"] == "in.pth"
    out = capsys.readouterr().out
    assert f"{len(back.tensors)} matched" in out and "text tower:" in out and sha256_file(target) in out


def test_the_other_class_embeddings(tool: ModuleType, tmp_path: Path) -> None:
    source = write(tmp_path / "in.pth", official(rpn=None))
    for classes, count in (("train", 3), ("test", 5)):
        assert run(tool, "--from", "regionclip", "--classes", classes, source, tmp_path / "out.safetensors") == 0
        assert len(load_weights(tmp_path / "out.safetensors").tensors[CLASSES]) == count


def test_an_rpn(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = write(tmp_path / "rpn.pth", rpn_file("lsj"))
    assert run(tool, "--from", "regionclip-rpn", source, tmp_path / "out.safetensors") == 0
    assert all(k.startswith("offline_rpn.") for k in load_weights(tmp_path / "out.safetensors").tensors)
    assert "FPN with norms (LSJ)" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["regionclip", "clip", "as-is"])
def test_an_rpn_put_into_the_file(tool: ModuleType, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture) -> None:
    """A detector is one file: its own RPN, if it has one, gives way, and all else is as without."""
    clip = clip_file(TINY.shapes(), text_keys())
    given = {"regionclip": official(rpn="fpn"), "clip": clip, "as-is": {"backbone.x": torch.ones(2)}}
    source, rpn = write(tmp_path / "in.pth", given[kind]), write(tmp_path / "rpn.pth", rpn_file("c4"))
    alone, own, target = (tmp_path / f"{n}.safetensors" for n in ("alone", "own", "out"))
    assert run(tool, "--from", kind, source, alone) == run(tool, "--from", "regionclip-rpn", rpn, own) == 0
    assert run(tool, "--from", kind, "--rpn", rpn, source, target) == 0
    assert "from rpn.pth: C4" in capsys.readouterr().out
    back, rest, network = (load_weights(p) for p in (target, alone, own))
    kept = {k: v for k, v in rest.tensors.items() if not k.startswith("offline_rpn.")}
    assert set(back.tensors) == {*kept, *network.tensors}
    assert all(torch.equal(v, back.tensors[k]) for k, v in {**kept, **network.tensors}.items())
    assert back.metadata["rpn_sha256"] == sha256_file(rpn)
    assert run(tool, "--from", kind, "--rpn", own, source, tmp_path / "again.safetensors") == 0  # a converted one
    assert all(torch.equal(v, back.tensors[k]) for k, v in load_weights(tmp_path / "again.safetensors").tensors.items())


def test_an_rpn_that_does_not_go(tool: ModuleType, tmp_path: Path) -> None:
    source = write(tmp_path / "in.pth", official())
    with pytest.raises(WeightsError, match="no RPN among"):
        run(tool, "--from", "regionclip", "--rpn", write(tmp_path / "r.pth", {"a.b": torch.ones(1)}), source, tmp_path / "o.pth")
    with pytest.raises(ConfigError, match="--rpn goes with"):
        run(tool, "--from", "glip", "--rpn", source, source, tmp_path / "o.pth")
    assert not (tmp_path / "o.pth").exists()


def test_torchscript_only_behind_the_flag(tool: ModuleType, tmp_path: Path) -> None:
    given = {k: v.half() if v.is_floating_point() else v for k, v in clip_file(TINY.shapes(), text_keys()).items()}
    source, target = tmp_path / "RN.pt", tmp_path / "out.safetensors"
    torch.jit.trace(Tree(given), torch.ones(1)).save(str(source))
    with pytest.raises(WeightsError, match="TorchScript archive"):
        run(tool, "--from", "clip", source, target)
    assert not target.exists()
    assert run(tool, "--from", "clip", "--allow-pickle", source, target) == 0
    back = load_weights(target).tensors
    assert {k: tuple(v.shape) for k, v in back.items()} == prefixed("backbone.", TINY.shapes())
    assert torch.equal(back["backbone.conv1.weight"], given["visual.conv1.weight"].float())
    assert run(tool, "--from", "clip-text", "--allow-pickle", source, target) == 0
    assert set(load_weights(target).tensors) == set(text_keys())


def test_as_it_is(tool: ModuleType, tmp_path: Path) -> None:
    source = write(tmp_path / "in.pth", {"a.weight": torch.arange(3.0)}, vocabulary=["cat"])
    assert run(tool, "--from", "as-is", source, tmp_path / "out.safetensors") == 0
    back = load_weights(tmp_path / "out.safetensors")
    assert back.tensors["a.weight"].tolist() == [0, 1, 2] and json.loads(back.metadata["vocabulary"]) == ["cat"]


def test_glip(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = write(tmp_path / "in.pth", filled({"module.rpn.head.log_scale": (), "module.odd": (2,)}))
    assert run(tool, "--from", "glip", source, tmp_path / "out.pth") == 0
    assert set(load_weights(tmp_path / "out.pth").tensors) == {"head.alignment.log_scale"}
    assert "unexpected: module.odd" in capsys.readouterr().out


def test_glip_says_which_tokenizer_it_belongs_to(tool: ModuleType, tmp_path: Path) -> None:
    from openvocab.text import BertTextEncoder

    table = "language_backbone.body.model.embeddings.word_embeddings.weight"
    for rows, wanted in ((30_522, BertTextEncoder().tokenizer_id), (100, None)):
        source = write(tmp_path / "in.pth", filled({"rpn.head.log_scale": (1,), table: (rows, 2)}))
        assert run(tool, "--from", "glip", source, tmp_path / "out.safetensors") == 0
        assert load_weights(tmp_path / "out.safetensors").metadata.get("tokenizer") == wanted


def test_sparse_rcnn(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shapes = {"init_proposal_features.weight": (5, 4), "init_proposal_boxes.weight": (5, 4), "criterion.empty_weight": (3,)}
    source = write(tmp_path / "in.pth", filled({**shapes, "head.head_series.0.linear1.weight": (8, 4)}))
    target = tmp_path / "out.safetensors"
    assert run(tool, "--from", "sparse-rcnn", "--num-queries", 3, source, target) == 0
    back = load_weights(target).tensors
    assert set(back) == {*list(shapes)[:2], "head.head_series.0.linear1.weight"} and len(back["init_proposal_boxes.weight"]) == 3
    assert "queries 5 -> 3" in capsys.readouterr().out
    more = {"head.head_series.0.class_logits.weight": (2, 4), "head.head_series.0.class_logits.bias": (2,)}
    source = write(tmp_path / "whole.pth", filled({**shapes, "head.head_series.0.linear1.weight": (8, 4), **more}))
    assert run(tool, "--from", "sparse-rcnn", "--keep-classifier", source, target) == 0
    assert set(more) <= set(load_weights(target).tensors)


def test_a_plugin_that_is_not_there(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tool._KINDS, "clip", ("no_such_plugin.convert", "from_clip", ()))
    with pytest.raises(ConfigError, match="--from clip needs 'no_such_plugin.convert'"):
        run(tool, "--from", "clip", tmp_path / "in.pth", tmp_path / "out.pth")
    monkeypatch.setitem(tool._KINDS, "clip", ("regionclip.convert", "from_nowhere", ()))
    with pytest.raises(ConfigError, match="from_nowhere"):
        run(tool, "--from", "clip", tmp_path / "in.pth", tmp_path / "out.pth")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--from", "glip", "--variant", "RN50", "in.pth", "out.pth"], "--variant does not go with --from glip"),
        (["--from", "clip", "--classes", "test", "in.pth", "out.pth"], "--classes does not go with --from clip"),
        (["--from", "clip", "--num-queries", "9", "in.pth", "out.pth"], "--num-queries does not go with"),
        (["--from", "clip", "in.pth", "out.bin"], "must end in .safetensors or .pth"),
        (["--from", "clip", "in.pth", "in.pth"], "OUT is IN"),
        (["--from", "detr", "in.pth", "out.pth"], "invalid choice: 'detr'"),
    ],
)
def test_commands_that_cannot_be(tool: ModuleType, args: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tool.main(args)


@pytest.mark.slow
def test_bad_input_is_one_sentence_and_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    save_weights(target, {"old": torch.ones(1)})
    rpn = write(tmp_path / "rpn.pth", {"backbone.stem.conv1.weight": torch.ones(1)})
    large = clip_file(ClipResNet((1, 1, 1, 1), 8, 16, 9).shapes(), {})
    large = write(tmp_path / "clip.pth", large)
    for args, message in (
        (["--from", "regionclip-rpn", rpn], "there is no RPN among these 1 tensors"),
        (["--from", "clip", "--variant", "RN50", large], "the model is built for RN50"),
        (["--from", "clip", tmp_path / "absent.pth"], "there is no weight file"),
    ):
        command = [sys.executable, str(SCRIPT), *map(str, args), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert set(load_weights(target).tensors) == {"old"}
