"""Our mask head against tensors recorded from microsoft/GLIP: both trunks, levels, pooled features, token logits, probabilities."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, Instances

from glipv2.convert import from_official
from glipv2.modeling import GLIPv2MaskHead, HeadOutput, MaskBranch, MaskConvs, MaskHourglasses, MaskPooler, RegionWordAlignment
from openvocab.errors import WeightsError
from openvocab.io import load_into
from openvocab.testing.golden import assert_close, golden_path

LEGACY = torch.tensor([0.0, 0.0, 1.0, 1.0])  # recorded boxes count their last pixel as inside
PREFIX = "mask_branch."
RECORDED_TOKENS = 8


def official_names(golden: dict) -> dict[str, torch.Tensor]:
    """The two recorded state dicts under the names they have in a checkpoint."""
    parts = ("feature_extractor", "predictor")
    return {f"module.roi_heads.mask.{part}.{key}": value for part in parts for key, value in golden[part].items()}


def build(golden: dict, hourglass: bool) -> MaskBranch:
    """Return the second stage in the official mode, as large as the recorded one."""
    lang_dim, channels = golden["hidden"].shape[-1], golden["feats"][0].shape[1]
    count = len({k.split(".")[0] for k in golden["feature_extractor"]})
    if hourglass:
        trunk = MaskHourglasses(channels=channels, num_blocks=count, num_groups=16)
    else:
        trunk = MaskConvs(channels=channels, num_convs=count)
    alignment = RegionWordAlignment(channels=channels, lang_dim=lang_dim, prior_prob=None)
    head = GLIPv2MaskHead(trunk=trunk, alignment=alignment, channels=channels)
    return MaskBranch(pooler=MaskPooler(official=True), head=head).eval()


@pytest.fixture(scope="module", params=["conv", "hourglass"])
def case(request) -> dict:
    """The recorded case, the branch with its weights, and what was said while loading them."""
    golden = torch.load(golden_path("glip/golden_mask.pt"), weights_only=True)[request.param]
    branch = build(golden, request.param == "hourglass")
    tensors, converted = from_official(official_names(golden))
    loaded = load_into(branch, {k.removeprefix(PREFIX): v for k, v in tensors.items()})
    return {"golden": golden, "branch": branch, "converted": converted, "loaded": loaded}


def test_every_key_has_a_place(case: dict) -> None:
    assert not case["converted"].unexpected and not case["converted"].dropped
    assert all(name.startswith(PREFIX) for name in case["converted"].matched.values())
    assert not case["loaded"].missing and not case["loaded"].unexpected and not case["loaded"].mismatched


def test_levels(case: dict) -> None:
    golden = case["golden"]
    levels = case["branch"].pooler.level_of(golden["boxes"] + LEGACY)
    assert torch.equal(levels, golden["levels"].long())


@torch.no_grad()
def pooled(case: dict) -> torch.Tensor:
    golden = case["golden"]
    return case["branch"].pooler(golden["feats"], [golden["boxes"] + LEGACY])


@torch.no_grad()
def test_trunk(case: dict) -> None:
    assert_close("trunk", case["branch"].head.trunk(pooled(case)), case["golden"]["roi_feat"], 1e-4, by_scale=True)


@torch.no_grad()
def test_token_logits(case: dict) -> None:
    """Each token as a phrase of its own."""
    golden, head = case["golden"], case["branch"].head
    pixels, count = head.pixels(pooled(case)), len(golden["boxes"])
    words = head.words(golden["hidden"][0], torch.eye(golden["hidden"].shape[1], dtype=torch.bool))
    for token in range(RECORDED_TOKENS):
        one = type(words)(words.vectors[[token] * count], words.bias[[token] * count])
        assert_close(f"token {token}", head.logits(pixels, one), golden["mask_logits_first8"][:, token], 1e-4, by_scale=True)


def phrases_of(golden: dict) -> dict[int, tuple[int, int]]:
    """Which run of tokens each recorded label stands for; the file does not say, but only one run has its mean logits."""
    recorded, found = golden["mask_logits_first8"].double(), {}
    for label, prob in enumerate(golden["od_prob"].double().unbind(1)):
        if bool((prob == 0.5).all()):  # a label that was not asked for
            continue
        runs = [(s, e) for s in range(RECORDED_TOKENS) for e in range(s + 1, RECORDED_TOKENS + 1)]
        found[label] = min(runs, key=lambda run: float((recorded[:, slice(*run)].mean(1).sigmoid() - prob).abs().max()))
    return found


@torch.no_grad()
def test_probabilities_of_phrases(case: dict) -> None:
    """The whole stage, from feature maps, boxes and words to masks of each label."""
    golden, branch = case["golden"], case["branch"]
    phrases = phrases_of(golden)
    assert phrases
    token_map = torch.zeros(len(phrases), golden["hidden"].shape[1], dtype=torch.bool)
    for row, (start, end) in enumerate(phrases.values()):
        token_map[row, start:end] = True
    output = HeadOutput([], [], [], golden["feats"], golden["hidden"], golden["feats"])
    for row, label in enumerate(phrases):
        found = Instances((160, 224), pred_boxes=Boxes(golden["boxes"] + LEGACY))
        found.pred_classes = torch.full((len(golden["boxes"]),), row)
        masks = branch.predict(output, 0, token_map, found).pred_masks
        assert_close(f"label {label}", masks[:, 0], golden["od_prob"][:, label], 1e-4)


def test_strangers_among_the_keys_are_named() -> None:
    strange = ["roi_heads.mask.feature_extractor.mask_fcn1.low1.weight", "roi_heads.mask.feature_extractor.mask_hg1.up9.weight"]
    tensors, report = from_official({k: torch.zeros(1) for k in [*strange, "rpn.head.log_scale", "roi_heads.box.x.weight"]})
    assert report.unexpected == strange and report.dropped == ["roi_heads.box.x.weight"] and len(tensors) == 1
    with pytest.raises(WeightsError):
        from_official({strange[0]: torch.zeros(1)})
