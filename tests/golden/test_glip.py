"""Our GLIPv2 against tensors recorded from microsoft/GLIP: every stage, detections, losses and gradients."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from glipv2.convert import from_official, official_key
from glipv2.modeling import Targets
from openvocab.config import load_config
from openvocab.errors import WeightsError
from openvocab.testing.golden import assert_close, assert_near, golden_path

from .glip_model import build, load, tokens

ROOT = Path(__file__).resolve().parents[2]
LEGACY = torch.tensor([0.0, 0.0, 1.0, 1.0])  # recorded boxes count their last pixel as inside
GRADIENT = 3e-3  # share of a gradient's norm
CASES = ["glip_fused", "glip_a"]


@pytest.fixture(scope="module", params=CASES)
def case(request) -> dict:
    """The model, the recorded case, and what the model says of the recorded inputs."""
    golden = load(request.param)
    fused = request.param == "glip_fused"
    model, converted, loaded = build(golden, fused)
    inputs = load("glip_fused")["inputs"]
    batch = tokens(inputs["input_ids"].expand(2, -1), inputs["attention_mask"].expand(2, -1))
    with torch.no_grad():
        features = list(model.backbone(inputs["padded"]).values())
        language = model.text_encoder(batch)
        output = model.head(features, language, None)
        anchors = [a.tensor for a in model.anchor_generator(features)]
    return {
        "golden": golden, "fused": fused, "model": model, "converted": converted, "loaded": loaded, "inputs": inputs,
        "features": features, "language": language, "output": output, "anchors": anchors,
    }  # fmt: skip


def test_every_key_has_a_place(case: dict) -> None:
    assert not case["converted"].unexpected
    assert not case["loaded"].unexpected and not case["loaded"].mismatched
    assert [k for k in case["loaded"].missing if "position_ids" not in k] == []


def test_backbone_and_language(case: dict) -> None:
    inter = load("glip_fused")["inter"]
    with torch.no_grad():
        stages = case["model"].backbone.bottom_up(case["inputs"]["padded"]).values()
    for level, (ours, theirs) in enumerate(zip(stages, inter["swin"], strict=True)):
        assert_close(f"swin {level}", ours, theirs, 1e-4)
    for level, (ours, theirs) in enumerate(zip(case["features"], inter["fpn"], strict=True)):
        assert_close(f"fpn {level}", ours, theirs, 1e-4)
    width = case["language"].hidden.shape[1]
    assert_close("language", case["language"].hidden, inter["lang"]["embedded"][:, :width], 1e-4)


def test_anchors(case: dict) -> None:
    for ours, theirs in zip(case["anchors"], load("glip_fused")["anchors"], strict=True):
        assert_close("anchors", ours - LEGACY, theirs, 1e-4)


def test_tower_stages() -> None:
    golden = load("glip_fused")
    model, _, _ = build(golden, True)
    inputs, inter = golden["inputs"], golden["inter"]
    batch = tokens(inputs["input_ids"].expand(2, -1), inputs["attention_mask"].expand(2, -1))
    with torch.no_grad():
        features, language = list(model.backbone(inputs["padded"]).values()), model.text_encoder(batch)
        hidden, width = language.hidden, language.hidden.shape[1]
        for i, block in enumerate(model.head.blocks):
            features, hidden = block.fusion(features, hidden, language.mask, None)
            recorded = inter[f"tower.{3 * i}.VLFuse"]
            assert_close("fused words", hidden, recorded["hidden"][:, :width], 1e-4)
            for ours, theirs in zip(features, recorded["visual"], strict=True):
                assert_close("fused cells", ours, theirs, 1e-4)
            hidden = block.language(hidden, language.mask)
            assert_close("language layer", hidden, inter[f"tower.{3 * i + 1}.BertEncoderLayer"]["hidden"][:, :width], 1e-4)
            features = block.dynamic(features, None)
            for ours, theirs in zip(features, inter[f"tower.{3 * i + 2}.DyConv"]["visual"], strict=True):
                assert_close("dynamic convolution", ours, theirs, 1e-4)


def test_head(case: dict) -> None:
    recorded, output = case["golden"]["inter"]["head"], case["output"]
    width = case["language"].hidden.shape[1]
    for level in range(5):
        deltas = recorded["bbox_reg_scaled"][level].flatten(2).transpose(1, 2)
        assert_close(f"boxes {level}", output.box_deltas[level], deltas, 1e-4)
        assert_close(f"centre-ness {level}", output.centerness[level], recorded["centerness"][level].flatten(1), 1e-4)
        logits = recorded["dot_product_logits_first32tokens"][level][..., :width]
        assert_close(f"alignment {level}", output.alignment[level], logits, 1e-4)


def test_detections(case: dict) -> None:
    inputs, model, output = case["inputs"], case["model"], case["output"]
    width = case["language"].hidden.shape[1]
    phrase_tokens = torch.zeros(5, width, dtype=torch.bool)
    for label, places in inputs["positive_map_label_to_token"].items():
        phrase_tokens[int(label) - 1, places] = True
    for i, recorded in enumerate(case["golden"]["detections"]):
        parts = ([x[i] for x in getattr(output, name)] for name in ("box_deltas", "centerness", "alignment"))
        candidates = model.postprocessor.candidates(case["anchors"], *parts, phrase_tokens, tuple(inputs["image_sizes_hw"][i]))
        before = case["golden"]["inter"]["pre_nms"][i]
        assert len(candidates) == len(before["scores"])
        ours = as_points(candidates.pred_boxes.tensor, candidates.scores, candidates.pred_classes + 1)
        theirs = as_points(before["boxes"] + LEGACY, before["scores"], before["labels"])
        nearest = torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
        assert len(nearest.unique()) == len(ours), "each is one of the recorded, whatever the order of equal scores"
        assert_close("before suppression", ours, theirs[nearest], 0.01)
        found = model.postprocessor.suppress(candidates)
        scores, order = recorded["scores"].sort(descending=True)
        assert len(found) == len(scores)
        assert_close("scores", found.scores, scores, 1e-4)
        assert_close("boxes", found.pred_boxes.tensor, recorded["boxes"][order] + LEGACY, 0.01)
        assert torch.equal(found.pred_classes + 1, recorded["labels"][order])


def as_points(boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(N, 6): boxes in pixels, scores of which 1e-4 is 0.01, and labels far from each other."""
    return torch.cat([boxes, 100 * scores[:, None], 1000.0 * labels[:, None]], dim=1)


def test_training(case: dict) -> None:
    train, model = load("glip_fused")["train"], case["model"]
    if "train" in case["golden"]:
        train = {**train, **case["golden"]["train"]}
    batch = tokens(train["input_ids"], (train["input_ids"] != 0).long())
    width, used, targets = batch.input_ids.shape[1], 0, []
    for truth in train["gt"]:
        rows = train["positive_map"][used : used + len(truth["boxes"]), :width] > 0
        targets.append(Targets(boxes=truth["boxes"] + LEGACY, token_map=rows))
        used += len(truth["boxes"])
    features, language = list(model.backbone(case["inputs"]["padded"]).values()), model.text_encoder(batch)
    losses = model.criterion(model.head(features, language, None), case["anchors"], language.mask, targets)
    names = {"loss_alignment": "loss_dot_product_token", "loss_box": "loss_reg", "loss_centerness": "loss_centerness"}
    for ours, theirs in names.items():
        assert_close(ours, losses[ours], train["losses"][theirs], 1e-4)
    for target, labels in zip(targets, train["cls_labels_1based"], strict=True):
        assert torch.equal(model.criterion.matcher(case["anchors"], target.boxes) >= 0, labels > 0)
    flat, matched = torch.cat(case["anchors"]), model.criterion.match(case["anchors"], targets)
    logits = torch.zeros(len(targets), len(flat), width)
    labels, _ = model.criterion._token_targets(logits, flat, matched, batch.attention_mask, targets)
    for i, (index, target) in enumerate(zip(matched, targets, strict=True)):
        assert torch.equal(labels[i, :, :32].bool(), train["token_labels"][i][:, :width])
        mine = index >= 0
        deltas = model.criterion.box2box_transform.get_deltas(flat[mine], target.boxes[index[mine]])
        assert_close("box targets", deltas, train["reg_targets"][i][mine], 1e-4)
    model.zero_grad()
    sum(losses.values()).backward()
    parameters = dict(model.named_parameters())
    for key, gradient in train["grads"].items():
        assert_near(key, parameters[official_key(key, fused=case["fused"])].grad, gradient, GRADIENT)


@pytest.mark.parametrize("name", ["glip_tiny", "glip_a_tiny", "glip_large", "glip_tiny_mlm"])
def test_all_official_keys_are_known(name: str) -> None:
    rows = golden_path(f"glip/keys_{name}.txt").read_text().splitlines()
    keys = [row.split("\t")[0] for row in rows if row.strip() and not row.startswith("#")]
    converted, report = from_official({f"module.{k}": torch.zeros(1) for k in keys})
    assert report.unexpected == []
    assert len(converted) + len(report.dropped) == len(keys)


@pytest.mark.parametrize("name", ["glip_a_tiny", "glip_tiny", "glip_large"])
def test_full_size_tensors_fit_the_configs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recorded tensor has its place and shape in the model of that config, and no parameter is left without one."""
    linspace = torch.linspace
    monkeypatch.setattr(torch, "linspace", lambda *a, **k: linspace(*a, **{**k, "device": "cpu"}))  # Swin reads its values
    rows = [row.split("\t") for row in golden_path(f"glip/keys_{name}.txt").read_text().splitlines() if "\t" in row]
    with torch.device("meta"):  # sizes without their memory
        official = {f"module.{row[0]}": torch.empty(ast.literal_eval(row[1])) for row in rows}
        model = instantiate(load_config(ROOT / f"configs/glipv2/models/{name}.py").model)
    converted, report = from_official(official)
    own = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    assert report.unexpected == [] and {n: own.get(n) for n in converted} == {n: tuple(t.shape) for n, t in converted.items()}
    assert {n for n, _ in model.named_parameters()} <= set(converted)


def test_a_stranger_is_refused() -> None:
    with pytest.raises(WeightsError, match="microsoft/GLIP"):
        from_official({"conv1.weight": torch.zeros(1)})
