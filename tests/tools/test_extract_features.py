"""tools/extract_concept_features.py and tools/extract_region_features.py: files as the official tools write them, and others."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from openvocab import Vocabulary
from openvocab.errors import ConfigError, DataError, InputError, TextEncoderError, VocabularyError, WeightsError
from openvocab.io import load_arrays, save_weights
from openvocab.testing import golden_path
from openvocab.testing.tiny import tiny_clip
from openvocab.text import CLIPTextEncoder, HashedTextEncoder, embed_names, load_text_embeddings, save_text_embeddings
from regionclip.convert import from_official, from_rpn
from regionclip.extraction import RegionExtractor, proposals_for, region_backbone
from regionclip.modeling import ModifiedResNet, build_offline_rpn
from tests.regionclip.weights import TINY, rpn_file

ROOT = Path(__file__).resolve().parents[2]
HASHED = ["--encoder", "hashed", "--device", "cpu"]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_under_test", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def concepts() -> ModuleType:
    return load("extract_concept_features")


# ---- concepts -------------------------------------------------------------------------------------------------------


def test_concepts_of_a_folder(concepts: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(4)
    clip = open_clip.create_model(tiny_clip(), force_quick_gelu=True)
    save_weights(tmp_path / "clip.safetensors", clip.state_dict())
    (tmp_path / "concepts.txt").write_text("cat\n hot dog \nsalt, pepper\n\n")
    options = ["--model", tiny_clip(), "--pretrained", str(tmp_path / "clip.safetensors"), "--quick-gelu", "yes", "--device", "cpu"]
    assert concepts.main(["--input", str(tmp_path), "--output", str(tmp_path / "out"), *options]) == 0
    written = torch.load(tmp_path / "out" / "concept_embeds.pth", weights_only=True)
    encoder = CLIPTextEncoder(model=tiny_clip(), pretrained=str(tmp_path / "clip.safetensors"), quick_gelu=True)
    wanted, used = embed_names(encoder, Vocabulary.from_names(["cat", "hot dog", "salt, pepper"]), "regionclip")
    assert used.prompts[2] == "salt pepper" and written.dtype is torch.float32 and torch.allclose(written, wanted, atol=1e-6)
    with pytest.raises(TextEncoderError, match="plain GELU"):
        concepts.main(["--input", str(tmp_path), "--output", str(tmp_path), *options[:4], "--quick-gelu", "no"])


@pytest.mark.parametrize("kind", ["pth", "npz", "safetensors"])
def test_one_concept_keeps_two_axes(concepts: ModuleType, tmp_path: Path, kind: str) -> None:
    (tmp_path / "list.txt").write_text("cat\n")
    assert concepts.main(["--input", str(tmp_path / "list.txt"), "--output", str(tmp_path), "--format", kind, *HASHED]) == 0
    back = load_text_embeddings(tmp_path / f"concept_embeds.{kind}")
    assert back.vectors.shape == (1, HashedTextEncoder().dim)
    assert (back.vocabulary is None) is (kind == "pth")
    if kind == "pth":
        assert torch.load(tmp_path / "concept_embeds.pth", weights_only=True).shape == (1, 64)


def test_concepts_that_are_not_there(concepts: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no concept list .*concepts.txt"):
        concepts.main(["--input", str(tmp_path), "--output", str(tmp_path), *HASHED])
    (tmp_path / "concepts.txt").write_text("\n")
    with pytest.raises(VocabularyError, match="holds no names"):
        concepts.main(["--input", str(tmp_path), "--output", str(tmp_path), *HASHED])
    with pytest.raises(ConfigError, match="needs --pretrained"):
        concepts.main(["--input", str(tmp_path), "--output", str(tmp_path)])


# ---- regions --------------------------------------------------------------------------------------------------------

D = TINY.embed_dim
WORDS = Vocabulary.from_names(["cat", "dog", "hot dog"])


@pytest.fixture(scope="module")
def regions() -> ModuleType:
    return load("extract_region_features")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tower; its norms, too, are random, so that nothing is the identity."""
    torch.manual_seed(7)
    tower = ModifiedResNet(blocks=TINY.blocks, width=TINY.width, embed_dim=D, side=TINY.side)
    tensors = {f"backbone.{k}": v + 0.1 * torch.rand_like(v) if "running" in k else v for k, v in tower.state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "tower.safetensors"
    save_weights(path, tensors)
    save_weights(path.with_name("rpn.safetensors"), from_rpn(rpn_file("fpn"))[0])
    save_weights(path.with_name("both.safetensors"), {**tensors, **from_rpn(rpn_file("c4"))[0]})
    save_text_embeddings(path.with_name("words.npz"), torch.randn(3, D), vocabulary=WORDS)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder, generator = tmp_path / "in", np.random.default_rng(0)
    folder.mkdir()
    for name, size in (("a.jpg", (60, 90)), ("b.v2.png", (80, 64))):
        Image.fromarray(generator.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


def run(tool: ModuleType, weights: Path, pictures: Path, out: Path, *args: object, rpn: str | None = "rpn") -> int:
    options = ["--weights", weights, "--input", pictures, "--output", out, "--size", 64, 96, "--device", "cpu", *args]
    options += [] if rpn is None else ["--rpn-weights", weights.with_name(f"{rpn}.safetensors")]
    return tool.main([str(x) for x in options])


@pytest.mark.parametrize("kind", ["pth", "npz", "safetensors"])
def test_proposals_and_their_features(regions: ModuleType, weights: Path, pictures: Path, tmp_path: Path, kind: str) -> None:
    assert run(regions, weights, pictures, tmp_path / "out", "--format", kind, "--proposals", 12) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"a.{kind}", f"b.{kind}"], "up to the first dot"
    for name, (height, width) in (("a", (60, 90)), ("b", (80, 64))):
        found = load_arrays(tmp_path / "out" / f"{name}.{kind}").tensors
        assert set(found) == {"boxes", "feats"} and found["feats"].shape == (len(found["boxes"]), D)
        assert 1 <= len(found["boxes"]) <= 12
        assert found["boxes"].min() >= 0 and (found["boxes"].amax(0)[2:] <= torch.tensor([width, height]) + 1e-3).all()
    if kind == "pth":
        assert set(torch.load(tmp_path / "out" / "a.pth", weights_only=True)) == {"boxes", "feats"}


def test_named_regions(regions: ModuleType, weights: Path, pictures: Path, tmp_path: Path) -> None:
    words = ("--embeddings", weights.with_name("words.npz"), "--threshold", 0, "--no-fusion", "--top", 9)
    assert run(regions, weights, pictures, tmp_path, *words) == 0
    found = torch.load(tmp_path / "a.pth", weights_only=True)
    assert set(found) == {"boxes", "classes", "probs", "feats"} and 1 <= len(found["boxes"]) <= 9
    assert found["classes"].dtype is torch.int64 and found["probs"].shape == (len(found["boxes"]), 4)
    vectors = load_text_embeddings(weights.with_name("words.npz")).vectors
    unit = torch.nn.functional.normalize
    logits = torch.cat([unit(found["feats"], dim=1) @ unit(vectors, dim=1).T / 0.01, torch.zeros(len(found["feats"]), 1)], dim=1)
    assert torch.allclose(found["probs"], logits.softmax(1), atol=1e-4)
    best = found["probs"].gather(1, found["classes"][:, None])[:, 0]
    assert torch.equal(best, best.sort(descending=True).values)


def test_given_boxes(regions: ModuleType, weights: Path, pictures: Path, tmp_path: Path) -> None:
    boxes = {"a.jpg": [[10, 5, 50, 40], [0, 0, 90, 60], [80, 50, 200, 200]], "b.v2.png": []}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    words = ("--embeddings", weights.with_name("words.npz"))
    assert run(regions, weights, pictures, tmp_path / "one", "--boxes", tmp_path / "boxes.json", *words, rpn=None) == 0
    found = torch.load(tmp_path / "one" / "a.pth", weights_only=True)
    wanted = torch.tensor([[10.0, 5, 50, 40], [0, 0, 90, 60], [80, 50, 90, 60]])
    assert torch.allclose(found["boxes"], wanted, atol=1e-3), "in order, none left out, cut at the picture's edge"
    assert torch.equal(found["classes"], found["probs"][:, :-1].argmax(1))
    empty = torch.load(tmp_path / "one" / "b.pth", weights_only=True)
    assert [tuple(empty[k].shape) for k in ("boxes", "classes", "probs", "feats")] == [(0, 4), (0,), (0, 4), (0, D)]
    coco = {
        "images": [{"id": 4, "file_name": "x/a.jpg"}, {"id": 5, "file_name": "b.v2.png"}],
        "annotations": [{"image_id": 4, "bbox": [10, 5, 40, 35]}, {"image_id": 4, "bbox": [0, 0, 90, 60]}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    assert run(regions, weights, pictures, tmp_path / "two", "--boxes", tmp_path / "coco.json", rpn=None) == 0
    again = torch.load(tmp_path / "two" / "a.pth", weights_only=True)
    assert torch.allclose(again["feats"], found["feats"][:2], atol=1e-4) and set(again) == {"boxes", "feats"}


def test_the_proposal_network_of_the_same_file(regions: ModuleType, weights: Path, pictures: Path, tmp_path: Path) -> None:
    assert run(regions, weights.with_name("both.safetensors"), pictures / "a.jpg", tmp_path, "--proposals", 5, rpn=None) == 0
    assert 1 <= len(torch.load(tmp_path / "a.pth", weights_only=True)["boxes"]) <= 5


def test_bad_pictures_are_left_out(
    regions: ModuleType, weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (pictures / "bad.jpg").write_bytes(b"no picture")
    assert run(regions, weights, pictures, tmp_path / "out", "--proposals", 3) == 0
    captured = capsys.readouterr()
    assert "2 of 3 pictures done, 1 left out" in captured.out and "bad.jpg" in captured.err
    with pytest.raises(InputError, match="bad.jpg"):
        run(regions, weights, pictures / "bad.jpg", tmp_path / "out")
    (tmp_path / "boxes.json").write_text(json.dumps({"other.jpg": []}))
    assert run(regions, weights, pictures, tmp_path / "none", "--boxes", tmp_path / "boxes.json", rpn=None) == 1


def test_what_does_not_fit(regions: ModuleType, weights: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no proposal network.*regionclip-rpn"):
        run(regions, weights, pictures, tmp_path, rpn=None)
    with pytest.raises(WeightsError, match="no image tower.*convert_weights.py"):
        run(regions, weights.with_name("rpn.safetensors"), pictures, tmp_path)
    save_text_embeddings(tmp_path / "wide.npz", torch.randn(3, D + 8), vocabulary=WORDS)
    with pytest.raises(VocabularyError, match=f"{D + 8} wide and the model's regions {D}"):
        run(regions, weights, pictures, tmp_path, "--embeddings", tmp_path / "wide.npz")
    Image.new("RGB", (64, 64)).save(pictures / "b.v3.png")
    with pytest.raises(InputError, match="b.v2.png and .*b.v3.png would both be written to .*b.pth"):
        run(regions, weights, pictures, tmp_path)
    for content in ("[1]", "no json", '{"a.jpg": 3}', '{"images": [], "annotations": [{}]}'):
        (tmp_path / "boxes.json").write_text(content)
        with pytest.raises(DataError, match="holds no boxes"):
            run(regions, weights, pictures / "a.jpg", tmp_path, "--boxes", tmp_path / "boxes.json", rpn=None)
    for box in ([[1, 2, 3]], [[5, 5, 5, 9]], [[100, 5, 120, 9]]):
        (tmp_path / "boxes.json").write_text(json.dumps({"a.jpg": box}))
        with pytest.raises(DataError, match="has no area|boxes are"):
            run(regions, weights, pictures / "a.jpg", tmp_path, "--boxes", tmp_path / "boxes.json", rpn=None)
    for option in (("--nms", 0), ("--proposals", 0)):
        with pytest.raises(ConfigError, match="must"):
            run(regions, weights, pictures, tmp_path, *option)


@pytest.mark.slow
def test_a_command_that_fails_is_one_sentence(weights: Path, pictures: Path, tmp_path: Path) -> None:
    script = ROOT / "tools" / "extract_region_features.py"
    command = [sys.executable, script, "--weights", weights, "--input", pictures, "--output", tmp_path]
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: the weights have no proposal network")


@pytest.mark.parametrize("kind", ["c4", "fpn", "fpn_lsj"])
def test_the_model_is_built_from_its_weights(kind: str) -> None:
    sizes = {"stem_channels": 8, "width_per_group": 4, "res2_channels": 16, **({"fpn_channels": 12} if kind != "c4" else {})}
    given = {f"offline_rpn.{k}": v for k, v in build_offline_rpn(kind=kind, **sizes).state_dict().items()}
    again = proposals_for(given).state_dict()
    assert {f"offline_rpn.{k}" for k in again} == set(given)
    assert all(torch.equal(again[k.removeprefix("offline_rpn.")], v) for k, v in given.items())
    cut = {k: v for k, v in given.items() if "stem.conv1.weight" not in k}
    with pytest.raises(WeightsError, match="stem.conv1.weight' is missing"):
        proposals_for(cut)


@pytest.mark.parametrize("name", ["B_zs_rpn_mult", "B2_zs_rpn_mult_vis"])
def test_the_recorded_proposals_features_and_detections(name: str) -> None:
    """Zero-shot with proposals (C4, FPN) and fused scores, as the official code ran it; VIS reports unfused scores."""
    golden = torch.load(golden_path("regionclip/golden_tiny.pt"), weights_only=True)
    scene = golden[name]
    given = dict(scene["state"]["own"])
    for part in scene["state"]["shared"]:
        prefix = part.removesuffix("_c4").removesuffix("_fpn")
        given |= {f"{prefix}.{k}": v for k, v in golden["shared_weights"][part].items()}
    tensors, _ = from_official(given)
    options = scene["opts"]
    backbone, features = region_backbone(tensors)
    top = options["MODEL.CLIP.OFFLINE_RPN_POST_NMS_TOPK_TEST"]
    rpn = proposals_for(tensors, nms_thresh=options["MODEL.CLIP.OFFLINE_RPN_NMS_THRESH"], top=top)
    extractor = RegionExtractor(
        backbone=backbone,
        region_features=features,
        proposals=rpn,
        embeddings=tensors["roi_heads.box_predictor.class_embeddings"],
        score_threshold=1e-3,
        nms_thresh=options["MODEL.ROI_HEADS.NMS_THRESH_TEST"],
        top=options["TEST.DETECTIONS_PER_IMAGE"],
    )
    images = [golden["inputs"]["img1"], golden["inputs"]["img2"]]
    proposals = rpn(images)
    feats = extractor.encode(images, [p.proposal_boxes.tensor for p in proposals])
    assert torch.allclose(feats, scene["taps"]["attnpool"], atol=1e-4)
    for found, wanted, vectors, image in zip(
        proposals, scene["output"], feats.split([len(p) for p in proposals]), images, strict=True
    ):
        height, width = wanted["image_size"]
        scale = torch.tensor([width / image.shape[2], height / image.shape[1]]).repeat(2)
        named = extractor.named({"boxes": found.proposal_boxes.tensor, "feats": vectors}, found.objectness_logits)
        assert torch.allclose(named["boxes"] * scale, wanted["pred_boxes"], atol=1e-2)
        assert torch.equal(named["classes"], wanted["pred_classes"])
        if "vis" in name:
            best = named["probs"].gather(1, named["classes"][:, None])[:, 0]
            assert torch.allclose(best, wanted["scores"], atol=1e-4)
