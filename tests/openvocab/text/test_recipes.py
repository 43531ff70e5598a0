"""Names to vectors by a recipe, and the files that keep them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES
from torch.nn import functional as F

from openvocab import Vocabulary
from openvocab.errors import TextEncoderError, VocabularyError, WeightsError
from openvocab.modeling.similarity import SimilarityClassifier
from openvocab.testing.tiny import tiny_clip
from openvocab.text import (
    CLIPTextEncoder,
    HashedTextEncoder,
    embed_names,
    load_text_embeddings,
    require_quick_gelu,
    save_text_embeddings,
)
from openvocab.text.recipes import regionclip_spelling

SHARED = Path(os.environ.get("OPENVOCAB_SHARED_DATA", Path(__file__).parents[4] / "shared/data")) / "text_embeddings"
WORDS = Vocabulary.from_names(["cat", "bow_(weapon)", "salt+pepper"])


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("cat", "cat"),
        ("bow_(weapon)", "bow weapon"),
        ("salt+pepper,  ground", "salt pepper ground"),
        ("flip-flop_(sandal)", "flip-flop sandal"),
    ],
)
def test_spelling(name: str, prompt: str) -> None:
    assert regionclip_spelling(name) == prompt


def test_a_name_of_signs_alone_keeps_itself() -> None:
    vectors, used = embed_names(HashedTextEncoder(dim=8), Vocabulary.from_names(["++", "a"]))
    assert used.prompts == ("++", "a") and vectors.shape == (2, 8)


@pytest.fixture(scope="module")
def clip() -> tuple[torch.nn.Module, CLIPTextEncoder]:
    torch.manual_seed(5)
    model = open_clip.create_model(tiny_clip(), force_quick_gelu=True).eval()
    encoder = CLIPTextEncoder(model=tiny_clip(), quick_gelu=True)
    encoder.load_state_dict({k: v for k, v in model.state_dict().items() if k in encoder.state_dict()})
    return model, encoder


def test_regionclips_recipe_by_hand(clip: tuple) -> None:
    """The mean of 81 raw vectors of open_clip's own text tower."""
    model, encoder = clip
    vectors, used = embed_names(encoder, WORDS, "regionclip")
    for row, name in zip(vectors, ("cat", "bow weapon", "salt pepper"), strict=True):
        texts = [f"{name}.", *(frame(name) for frame in OPENAI_IMAGENET_TEMPLATES)]
        with torch.no_grad():
            expected = model.encode_text(open_clip.get_tokenizer(tiny_clip())(texts)).mean(0)
        assert len(texts) == 81 and torch.allclose(row, expected, atol=1e-5)
    assert used.names == WORDS.names and len(used.templates) == 81
    assert not torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-2)


def test_openais_recipe_by_hand(clip: tuple) -> None:
    """80 vectors of length 1, averaged, and made of length 1 again."""
    model, encoder = clip
    vectors, _ = embed_names(encoder, Vocabulary.from_names(["polar bear"]), "openai")
    texts = [frame("polar bear") for frame in OPENAI_IMAGENET_TEMPLATES]
    with torch.no_grad():
        raw = model.encode_text(open_clip.get_tokenizer(tiny_clip())(texts))
    assert vectors.shape == (1, 32), "one name stays two-dimensional"
    assert torch.allclose(vectors[0], F.normalize(F.normalize(raw, dim=1).mean(0), dim=0), atol=1e-5)


def test_own_prompts_and_an_unknown_recipe() -> None:
    words = Vocabulary.from_names(["RBC"], prompts=["red blood cell"], templates=["a {}", "the {}"])
    encoder = HashedTextEncoder(dim=8)
    vectors, used = embed_names(encoder, words, "own")
    assert used == words
    assert torch.allclose(vectors[0], F.normalize(encoder.encode(["a red blood cell", "the red blood cell"]).mean(0), dim=0))
    with pytest.raises(TextEncoderError, match="no recipe 'regionclp'.*Did you mean 'regionclip'"):
        embed_names(encoder, words, "regionclp")


def test_plain_gelu_is_refused(clip: tuple) -> None:
    require_quick_gelu(clip[1])
    require_quick_gelu(clip[0])
    for wrong in (CLIPTextEncoder(model=tiny_clip(), quick_gelu=False), open_clip.create_model(tiny_clip())):
        with pytest.raises(TextEncoderError, match="has plain GELU.*RN50-quickgelu.*quick_gelu=True"):
            require_quick_gelu(wrong)


def test_the_text_tower_of_a_regionclip_file(clip: tuple, tmp_path: Path) -> None:
    model, _ = clip
    text = {f"lang_encoder.{k}": v for k, v in model.state_dict().items() if not k.startswith(("visual.", "logit_scale"))}
    torch.save({"model": {**text, "backbone.conv1.weight": torch.ones(2)}}, tmp_path / "regionclip.pth")
    encoder = CLIPTextEncoder(model=tiny_clip(), pretrained=str(tmp_path / "regionclip.pth"), quick_gelu=True)
    assert torch.equal(encoder.text_projection, model.text_projection)


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_what_is_written_is_read(suffix: str, tmp_path: Path) -> None:
    vectors = torch.randn(3, 8)
    path = tmp_path / "new" / f"words{suffix}"
    written = save_text_embeddings(path, vectors, vocabulary=WORDS, encoder="hashed:8:0", recipe="own")
    back = load_text_embeddings(path, vocabulary=WORDS, dim=8)
    assert torch.equal(back.vectors, vectors) and back.vocabulary == WORDS
    assert (back.encoder, back.recipe) == ("hashed:8:0", "own")
    assert back.fingerprint == written.fingerprint == WORDS.fingerprint("hashed:8:0")
    classifier = SimilarityClassifier(in_features=8)
    classifier.set_embeddings(back.vectors)
    assert classifier.num_classes == 3


def test_files_of_others(tmp_path: Path) -> None:
    vectors = torch.randn(3, 8)
    save_text_embeddings(tmp_path / "plain.pth", vectors, vocabulary=WORDS, plain=True)
    assert isinstance(torch.load(tmp_path / "plain.pth", weights_only=True), torch.Tensor), "as the official code reads it"
    np.save(tmp_path / "a.npy", vectors.half().numpy())
    np.savez(tmp_path / "b.npz", anything=vectors.numpy())
    torch.save(vectors[0], tmp_path / "one.pth")
    for name in ("plain.pth", "a.npy", "b.npz"):
        back = load_text_embeddings(tmp_path / name)
        assert torch.allclose(back.vectors, vectors, atol=1e-2) and back.vocabulary is None and back.fingerprint == ""
        assert load_text_embeddings(tmp_path / name, vocabulary=WORDS).vocabulary == WORDS
    assert load_text_embeddings(tmp_path / "one.pth", dim=8).vectors.shape == (1, 8), "one name stays two-dimensional"


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    save_text_embeddings(path, torch.randn(3, 8), vocabulary=WORDS)
    with pytest.raises(VocabularyError, match="8 wide and the model's regions 1024.*another text encoder"):
        load_text_embeddings(path, dim=1024)
    with pytest.raises(VocabularyError, match="of other names: 3, not 3; they differ from place 1"):
        load_text_embeddings(path, vocabulary=Vocabulary.from_names(["cat", "dog", "salt+pepper"]))
    np.save(tmp_path / "a.npy", np.zeros((4, 8), dtype=np.float32))
    with pytest.raises(VocabularyError, match="4 embeddings and 3 names"):
        load_text_embeddings(tmp_path / "a.npy", vocabulary=WORDS)
    with pytest.raises(VocabularyError, match=r"\(names, width\)"):
        save_text_embeddings(path, torch.randn(3, 8, 1), vocabulary=WORDS)
    with pytest.raises(VocabularyError, match=r"rows \[1\] hold NaN"):
        save_text_embeddings(path, torch.tensor([[1.0], [float("nan")], [1.0]]), vocabulary=WORDS)
    for name, plain in (("a.bin", False), ("a.npz", True)):
        with pytest.raises(WeightsError, match="are saved as"):
            save_text_embeddings(tmp_path / name, torch.randn(3, 8), vocabulary=WORDS, plain=plain)
    assert load_text_embeddings(path).vectors.shape == (3, 8), "the old file is still there"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.npy").write_bytes(b"no array")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=np.ones((2, 2)), b=np.ones((2, 2)))
    np.savez(tmp_path / "text.npz", a=np.array("words"))
    for name, message in (
        ("bad.npy", "damaged"),
        ("objects.npy", "Python objects"),
        ("two.npz", "2 tensors and none called 'embeddings'"),
        ("text.npz", "holds no numbers"),
        ("absent.npy", "there is no weight file"),
    ):
        with pytest.raises(WeightsError, match=message):
            load_text_embeddings(tmp_path / name)


# ---- real ones: CLIP's vectors of data sets' names ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "dim"),
    [
        (("coco", "coco_clip_a+cname"), ("objects365", "o365_clip_a+cnamefix"), 512),
        (("coco", "coco_clip_a+cname_rn50_manyprompt"), ("objects365", "objects365_clip_a+cname_rn50_manyprompt"), 1024),
        (("objects365", "o365_clip_a+cnamefix"), ("lvis", "lvis_v1_clip_a+cname"), 512),
        (("openimages", "oid_clip_a+cname"), ("objects365", "o365_clip_a+cnamefix"), 512),
        (("openimages", "oid_clip_a+cname"), ("lvis", "lvis_v1_clip_a+cname"), 512),
        (
            ("openimages", "oid_clip_a+cname_rn50_manyprompt"),
            ("objects365", "objects365_clip_a+cname_rn50_manyprompt"),
            1024,
        ),
    ],
)
def test_rows_of_clips_files_are_in_the_order_of_our_names(first: tuple, second: tuple, dim: int) -> None:
    """A name that two data sets share has its nearest neighbour at its own place in the other."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED}")
    (a, one), (b, two) = [
        (v, load_text_embeddings(SHARED / f"{file}.npy", vocabulary=v, dim=dim))
        for v, file in ((Vocabulary.builtin(name), file) for name, file in (first, second))
    ]
    places = {p.casefold(): i for i, p in enumerate(b.prompts)}
    pairs = [(i, places[p.casefold()]) for i, p in enumerate(a.prompts) if p.casefold() in places]
    classifier = SimilarityClassifier(in_features=dim, embeddings=two.vectors, background="none")
    found = classifier(one.vectors[[i for i, _ in pairs]]).argmax(1)
    right = (found == torch.tensor([j for _, j in pairs])).float().mean()
    assert len(pairs) >= 60 and right > 0.98  # LVIS's "mouse_(computer_equipment)" is no plain mouse, nor its tape
