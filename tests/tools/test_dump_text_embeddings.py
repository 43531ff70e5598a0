"""tools/dump_text_embeddings.py: from names to a file that a classifier can use."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import open_clip
import pytest
import torch

from openvocab import Vocabulary
from openvocab.errors import ConfigError, TextEncoderError, VocabularyError, WeightsError
from openvocab.io import save_weights
from openvocab.testing.tiny import tiny_clip
from openvocab.text import CLIPTextEncoder, HashedTextEncoder, embed_names, load_text_embeddings

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "dump_text_embeddings.py"
HASHED = ["--encoder", "hashed", "--device", "cpu"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dump_text_embeddings_under_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(2)
    clip = open_clip.create_model(tiny_clip(), force_quick_gelu=True)
    save_weights(tmp_path / "clip.safetensors", clip.state_dict())
    return tmp_path / "clip.safetensors"


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "pth"])
def test_clip(tool: ModuleType, weights: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture) -> None:
    target = tmp_path / f"out.{suffix}"
    clip = ["--model", tiny_clip(), "--pretrained", str(weights), "--quick-gelu", "yes"]
    assert tool.main(["--text", "cat. remote control.", *clip, "--device", "cpu", str(target)]) == 0
    back = load_text_embeddings(target)
    encoder = CLIPTextEncoder(model=tiny_clip(), pretrained=str(weights), quick_gelu=True)
    wanted, used = embed_names(encoder, Vocabulary.from_names(["cat", "remote control"]))
    assert torch.allclose(back.vectors, wanted, atol=1e-6) and back.vocabulary == used and back.recipe == "regionclip"
    assert back.fingerprint == used.fingerprint(f"{encoder.identity}:mean_unnormalized")
    assert back.fingerprint in capsys.readouterr().out


def test_plain_gelu_is_refused(tool: ModuleType, weights: Path, tmp_path: Path) -> None:
    command = ["--text", "cat.", "--model", tiny_clip(), "--pretrained", str(weights), "--quick-gelu", "no", "--device", "cpu"]
    with pytest.raises(TextEncoderError, match="plain GELU.*quick_gelu=True"):
        tool.main([*command, str(tmp_path / "out.pth")])
    assert not (tmp_path / "out.pth").exists()
    assert tool.main([*command, "--recipe", "own", str(tmp_path / "out.pth")]) == 0


def test_recipes_differ(tool: ModuleType, tmp_path: Path) -> None:
    for recipe in ("regionclip", "openai", "own"):
        assert tool.main(["--vocabulary", "voc", *HASHED, "--recipe", recipe, str(tmp_path / f"{recipe}.npz")]) == 0
    first, second, third = (load_text_embeddings(tmp_path / f"{r}.npz") for r in ("regionclip", "openai", "own"))
    assert len({e.fingerprint for e in (first, second, third)}) == 3 and first.vocabulary.names == third.vocabulary.names
    for unit in (second, third):
        assert torch.allclose(unit.vectors.norm(dim=1), torch.ones(20), atol=1e-5)
    assert not torch.allclose(first.vectors.norm(dim=1), torch.ones(20), atol=1e-2)


def test_where_names_come_from(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\nRBC: red blood cell\n")
    (tmp_path / "nouns.txt").write_text("dog,1234\n\nhot dog,7\ndog,3\n")
    own = [*HASHED, "--recipe", "own"]
    assert tool.main(["--vocabulary", str(tmp_path / "names.txt"), *own, str(tmp_path / "a.npz")]) == 0
    words = load_text_embeddings(tmp_path / "a.npz")
    assert words.vocabulary.prompts == ("cat", "red blood cell")
    assert torch.allclose(words.vectors[1:], HashedTextEncoder().encode(["red blood cell"]))
    assert tool.main(["--concepts", str(tmp_path / "nouns.txt"), *own, str(tmp_path / "b.npz")]) == 0
    assert load_text_embeddings(tmp_path / "b.npz").vocabulary.names == ("dog", "hot dog")


def test_one_name_as_a_bare_tensor_keeps_two_axes(tool: ModuleType, tmp_path: Path) -> None:
    target = tmp_path / "one.pth"
    assert tool.main(["--text", "cat.", *HASHED, "--plain", str(target)]) == 0
    assert torch.load(target, weights_only=True).shape == (1, 64)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (["--text", "cat.", "x.npz"], ConfigError, "needs --pretrained FILE"),
        (["--text", "cat.", *HASHED, "--pretrained", "f", "x.npz"], ConfigError, "has no weights"),
        (["--text", "cat.", "--vocabulary", "coco", *HASHED, "x.npz"], ConfigError, "not allowed with"),
        ([*HASHED, "x.npz"], ConfigError, "is required"),
        (["--vocabulary", "cocco", *HASHED, "x.npz"], VocabularyError, "Did you mean 'coco'"),
        (["--concepts", "/nowhere.txt", *HASHED, "x.npz"], VocabularyError, "cannot be read"),
        (["--text", "cat.", *HASHED, "x.txt"], WeightsError, "are saved as .safetensors, .npz, .pth"),
        (["--text", "cat.", *HASHED, "--plain", "x.npz"], WeightsError, "are saved as .pth"),
        (["--text", "cat.", "--pretrained", "/nowhere.pt", "x.npz"], TextEncoderError, "/nowhere.pt"),
    ],
)
def test_what_is_refused(tool: ModuleType, tmp_path: Path, args: list[str], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        tool.main([*args[:-1], str(tmp_path / args[-1])])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_error_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--vocabulary", "cocco", *HASHED, str(tmp_path / "x.npz")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: "), done.stderr
