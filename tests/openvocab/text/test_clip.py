"""CLIP's text tower: equal to open_clip's own, with the activation the weights were trained with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from torch import nn

from openvocab.errors import MissingDependencyError, PromptError, TextEncoderError, WeightsError
from openvocab.io import save_weights
from openvocab.testing.tiny import TINY_CLIP, tiny_clip
from openvocab.text import CLIPTextEncoder
from openvocab.text.clip import OPENAI_MODELS, uses_quick_gelu

TEXTS = ["a photo of a cat", "Two Dogs &amp; a  café", "中文, naïve!", "x"]


def custom(name: str, **changes: object) -> str:
    """Make a variant of the tiny model known to open_clip."""
    if name not in open_clip.list_models():
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.json"
            path.write_text(json.dumps({**TINY_CLIP, **changes}), encoding="utf-8")
            open_clip.add_model_config(path)
    return name


@pytest.fixture(scope="module")
def clip() -> nn.Module:
    torch.manual_seed(1)
    return open_clip.create_model(tiny_clip(), force_quick_gelu=True).eval()


@pytest.fixture
def file(clip: nn.Module, tmp_path: Path) -> Path:
    save_weights(tmp_path / "clip.safetensors", clip.state_dict())
    return tmp_path / "clip.safetensors"


def test_agrees_with_open_clip(clip: nn.Module, file: Path) -> None:
    encoder = CLIPTextEncoder(model=tiny_clip(), pretrained=str(file), quick_gelu=True)
    ids = open_clip.get_tokenizer(tiny_clip())(TEXTS)
    with torch.no_grad():
        expected = clip.encode_text(ids)
    assert torch.allclose(encoder.encode(TEXTS, normalize=False), expected, atol=1e-5)
    tokens = encoder.tokenize(TEXTS)
    width = tokens.input_ids.shape[1]
    assert torch.equal(tokens.input_ids, ids[:, :width]) and not ids[:, width:].any()
    assert encoder(tokens).hidden.shape == (4, width, 32)


def test_the_other_activation_gives_other_vectors(clip: nn.Module, file: Path) -> None:
    vectors = [
        CLIPTextEncoder(model=tiny_clip(), pretrained=str(file), quick_gelu=q).encode(TEXTS) for q in (True, False)
    ]
    assert not torch.allclose(*vectors, atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "module.", "text."])
def test_weights_under_usual_prefixes_and_alone(clip: nn.Module, prefix: str, tmp_path: Path) -> None:
    text = {prefix + k: v for k, v in clip.state_dict().items() if not k.startswith("visual.")}
    save_weights(tmp_path / "text.safetensors", text)
    encoder = CLIPTextEncoder(model=tiny_clip(), pretrained=str(tmp_path / "text.safetensors"))
    assert torch.equal(encoder.text_projection, clip.text_projection)


def test_weights_that_lack_a_part_are_refused(clip: nn.Module, tmp_path: Path) -> None:
    text = {k: v for k, v in clip.state_dict().items() if "resblocks.1.mlp" not in k}
    save_weights(tmp_path / "part.safetensors", text)
    with pytest.raises(WeightsError, match="4 of .* tensors, such as transformer.resblocks.1.mlp"):
        CLIPTextEncoder(model=tiny_clip(), pretrained=str(tmp_path / "part.safetensors"))


@pytest.mark.parametrize("model", ["RN50", "ViT-B-32"])
def test_openai_weights_get_quick_gelu(model: str, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"x")
    assert model in OPENAI_MODELS
    assert uses_quick_gelu(model, "openai") and uses_quick_gelu(model, str(tmp_path / "w.pt"))
    assert uses_quick_gelu(f"{model}-quickgelu", None) and not uses_quick_gelu(model, None)
    assert not uses_quick_gelu("ViT-B-32", "laion2b_s34b_b79k"), "trained with plain GELU"
    assert not uses_quick_gelu(tiny_clip(), str(tmp_path / "w.pt"))


@pytest.mark.parametrize(("model", "quick"), [("openvocab-tiny-clip", True), ("openvocab-tiny-clip", False)])
def test_the_blocks_have_the_activation_asked_for(model: str, quick: bool) -> None:
    encoder = CLIPTextEncoder(model=tiny_clip(model), quick_gelu=quick)
    found = [type(block.mlp.gelu) for block in encoder.transformer.resblocks]
    assert found == [QuickGELU if quick else nn.GELU] * 2
    assert ("quickgelu" in encoder.identity) is quick


def test_a_model_that_is_built_with_the_wrong_activation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    create = open_clip.create_model
    monkeypatch.setattr(open_clip, "create_model", lambda *a, force_quick_gelu, **k: create(*a, **k))
    with pytest.raises(TextEncoderError, match="without QuickGELU"):
        CLIPTextEncoder(model=tiny_clip(), quick_gelu=True)


def test_identity_names_model_activation_and_file(file: Path) -> None:
    encoders = [CLIPTextEncoder(model=tiny_clip(), pretrained=str(file), quick_gelu=q) for q in (True, True, False)]
    assert encoders[0].identity == encoders[1].identity != encoders[2].identity
    moved = file.rename(file.with_name("other.safetensors"))
    assert CLIPTextEncoder(model=tiny_clip(), pretrained=str(moved), quick_gelu=True).identity == encoders[0].identity


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "RN51"}, "cannot build 'RN51'"),
        ({"model": "RN50", "pretrained": "no_such_tag"}, "no_such_tag"),
        ({"model": "RN50", "pretrained": "/nowhere/file.pt"}, "/nowhere/file.pt"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(TextEncoderError, match=message):
        CLIPTextEncoder(**options)


def test_towers_of_another_kind_are_refused() -> None:
    text = TINY_CLIP["text_cfg"]
    both_ways = custom("openvocab-tiny-siglip", text_cfg={**text, "no_causal_mask": True, "pool_type": "last"})
    with pytest.raises(TextEncoderError, match="not CLIP's"):
        CLIPTextEncoder(model=both_ways)
    linear = custom("openvocab-tiny-linear", text_cfg={**text, "proj_bias": True}, custom_text=True)
    with pytest.raises(TextEncoderError, match="no matrix 'text_projection'"):
        CLIPTextEncoder(model=linear)


def test_a_tower_inside_a_custom_model_works() -> None:
    name = custom("openvocab-tiny-custom", custom_text=True)
    assert CLIPTextEncoder(model=name).encode(["cat"]).shape == (1, 32)


def test_the_limit_is_the_context_length() -> None:
    encoder = CLIPTextEncoder(model=tiny_clip())
    with pytest.raises(PromptError, match="78 tokens and this encoder takes 77"):
        encoder.tokenize([" ".join(["cat"] * 76)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A Dog's life", ["A", "Dog", "'s", "life"]),
        ("salt &amp; pepper", ["salt", "&", "pepper"]),
        ("cat&nbsp;dog  2x", ["cat", "dog", "2", "x"]),
    ],
)
def test_spans_point_into_the_text_as_it_was_given(text: str, words: list[str]) -> None:
    spans = CLIPTextEncoder(model=tiny_clip()).tokenize([text]).offsets[0, 1:-1].tolist()
    assert [text[a:b] for a, b in spans] == words


def test_a_letter_of_several_tokens_is_whole_in_each() -> None:
    text = "straße 🦓"
    spans = CLIPTextEncoder(model=tiny_clip()).tokenize([text]).offsets[0, 1:-1].tolist()
    assert {text[a:b] for a, b in spans} >= {"ß", "🦓"} and all(b > a for a, b in spans)


def test_without_open_clip_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingDependencyError, match=r"\[clip\]"):
        CLIPTextEncoder(model="RN50")
