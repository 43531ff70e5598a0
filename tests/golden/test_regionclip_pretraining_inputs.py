"""What goes into RegionCLIP's pretraining against the recorded tensors: prompts' tokens, captions' vectors, proposals."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from openvocab.io import load_into, save_weights
from openvocab.prompting.templates import templates
from openvocab.testing.golden import assert_close, golden_path
from openvocab.text import CLIPTextEncoder
from openvocab.text.base import TokenBatch
from openvocab.text.recipes import RECIPES
from openvocab.vocabulary import Vocabulary
from regionclip.modeling.offline_rpn import build_offline_rpn

open_clip = pytest.importorskip("open_clip")
NAMES = ["P_pretrain", "P2_pretrain_septeacher", "P4_no_region_kept"]
TEXTS, HEAD = "lang_encoder.", "offline_proposal_generator."


@cache
def golden() -> dict:
    return torch.load(golden_path("regionclip/golden_tiny.pt"), weights_only=True)


@pytest.fixture(params=NAMES)
def case(request) -> dict:
    return golden()[request.param]


def part(tensors: dict, prefix: str) -> dict:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def text_model(tmp_path_factory) -> str:
    """open_clip's name of a model of the recorded sizes."""
    sizes, name = golden()["meta"]["tiny_text"], "golden-tiny-clip"
    text = {k: sizes[k] for k in ("context_length", "vocab_size", "width", "heads", "layers")}
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    path: Path = tmp_path_factory.mktemp("open_clip") / f"{name}.json"
    path.write_text(json.dumps({"embed_dim": sizes["embed_dim"], "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(path)
    return name


def test_captions_have_the_recorded_vectors(case: dict, text_model: str, tmp_path: Path) -> None:
    """From a file with the official names, as `CLIPTextEncoder(pretrained=...)` reads a pretrained checkpoint."""
    own = {k: v for k, v in case["state"]["own"].items() if k.startswith(TEXTS)}
    save_weights(tmp_path / "pretrained.safetensors", own)
    tower = CLIPTextEncoder(model=text_model, quick_gelu=True, pretrained=str(tmp_path / "pretrained.safetensors"))
    ids = case["tokens"].long()
    last = ids.argmax(dim=1)  # the end token has the largest id
    mask = torch.arange(ids.shape[1])[None] <= last[:, None]
    vectors = tower.pool(tower(TokenBatch(ids, mask, torch.zeros(*ids.shape, 2, dtype=torch.long))))
    assert_close("captions", vectors, case["text_emb"], 1e-5)


def test_prompts_have_the_recorded_tokens(text_model: str) -> None:
    """The official frames have an order of their own, to which their mean is blind."""
    recorded = golden()["tokenizer"]
    frames, everyone = templates("clip81"), recorded["all_person"]
    assert len(frames) == recorded["n_templates"]
    encoder = CLIPTextEncoder(model=text_model, quick_gelu=True)  # the tokenizer is CLIP's
    prompts = RECIPES["regionclip"].apply(Vocabulary.from_names(recorded["names"])).prompts
    ours = {tuple(row) for row in ids_of(encoder, [frame.replace("{}", prompts[0]) for frame in frames], everyone)}
    assert ours == {tuple(row) for row in everyone.tolist()} and len(ours) == len(frames)
    for name, rows in zip(prompts, recorded["ids"], strict=True):  # some frames of each
        sentences = ids_of(encoder, [frame.replace("{}", name) for frame in frames], everyone)
        assert all(row in sentences for row in rows.tolist()), name


def ids_of(encoder: CLIPTextEncoder, sentences: list[str], like: torch.Tensor) -> list[list[int]]:
    """Ids of each sentence, padded with zeros to the recorded length."""
    return [p.ids + [0] * (like.shape[1] - len(p.ids)) for p in encoder.split(sentences)]


def test_the_drawn_regions_are_proposals_of_the_offline_network(case: dict) -> None:
    """The official code draws some of its proposals at random; each drawn one is among ours, with its score."""
    backbone, head = golden()["shared_weights"]["offline_backbone_fpn"], part(case["state"]["own"], HEAD)
    network = build_offline_rpn(
        kind="fpn",
        nms_thresh=0.5,  # as released
        post_nms_topk=case["opts"]["MODEL.CLIP.PRETRAIN_RPN_REGIONS"],
        stem_channels=backbone["bottom_up.stem.conv1.weight"].shape[0],
        width_per_group=backbone["bottom_up.res2.0.conv1.weight"].shape[0],
        res2_channels=backbone["bottom_up.res2.0.conv3.weight"].shape[0],
        fpn_channels=backbone["fpn_lateral2.weight"].shape[0],
    )
    load_into(network.backbone, backbone, strict=True)
    load_into(network.proposal_generator, head, strict=True)
    found = network([golden()["inputs"][name] for name in ("img1", "img2")])
    for ours, theirs in zip(found, case["proposals"], strict=True):
        distance = torch.cdist(theirs["proposal_boxes"], ours.proposal_boxes.tensor, p=float("inf"))
        nearest, place = distance.min(dim=1)
        assert len(place.unique()) == len(place)
        assert_close("boxes", nearest, torch.zeros_like(nearest), 1e-2)
        assert_close("logits", ours.objectness_logits[place], theirs["objectness_logits"], 1e-4)
