"""RegionCLIP's detector against tensors recorded from microsoft/RegionCLIP: features, logits, proposals, detections, masks.

Tolerances follow the size of what is compared, so that another recording, or another machine's rounding, passes as well.
"""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from openvocab.testing.golden import assert_close
from regionclip.modeling import RegionCLIP, SoftNMS

from .regionclip_model import DETECTION, batch, build, golden, instances, option

PIXELS, SCORE = 0.01, 1e-4
FLIPPED = 1e-3  # share of a mask's pixels that rounding may move over its edge


@pytest.fixture(scope="module", params=DETECTION)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def case(name: str) -> dict:
    return golden()[name]


@pytest.fixture(scope="module")
def model(case: dict) -> RegionCLIP:
    return build(case)[0]


def assert_scaled(name: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Compare in units of the largest recorded number."""
    scale = float(theirs.abs().max().clamp(min=1e-6))
    assert_close(name, ours / scale, theirs / scale, tolerance)


def assert_detections(ours: Instances, recorded: dict, *, squared: bool = False) -> list[int]:
    """Compare detections one to one: scores by rank, then each with its partner; returns the partner of each of theirs.

    With `squared`, scores that are roots are compared as squares, which the RPN's rounding moves evenly.
    """
    theirs = instances(recorded)
    assert ours.image_size == theirs.image_size and len(ours) == len(theirs)
    power = 2 if squared else 1
    scale = float(theirs.scores.max().clamp(min=1)) ** power
    assert_close("scores", ours.scores**power / scale, theirs.scores**power / scale, SCORE)
    away = torch.cdist(theirs.pred_boxes.tensor, ours.pred_boxes.tensor, p=float("inf")) / PIXELS
    worse = (theirs.scores[:, None] ** power - ours.scores[None] ** power).abs() / scale / SCORE
    cost = torch.maximum(away, worse) + 1e9 * (theirs.pred_classes[:, None] != ours.pred_classes[None])
    rows, places = linear_sum_assignment(cost.numpy())
    assert (cost[rows, places] <= 1).all(), f"{int((cost[rows, places] > 1).sum())} of {len(rows)} detections have no partner"
    return places.tolist()


def recorded_proposals(case: dict) -> list[Instances] | None:
    found = case["taps"].get("rpn_proposals")
    return None if found is None else [instances(p) for p in found]


def test_every_key_has_a_place(case: dict) -> None:
    _, converted, loaded = build(case)
    assert not converted.unexpected
    assert not loaded.unexpected and not loaded.mismatched and not loaded.missing
    assert converted.missing == ([] if recorded_proposals(case) else ["offline_rpn.*"])


@torch.no_grad()
def test_regions(case: dict, model: RegionCLIP) -> None:
    """From pixels to logits and boxes, at the recorded proposals."""
    taps, inputs, heads = case["taps"], batch(case), model.roi_heads
    features = model.backbone(model.preprocess([x["image"] for x in inputs]))
    boxes = [p.proposal_boxes for p in recorded_proposals(case) or model.propose(inputs)]
    maps = heads.region_features.maps(features, boxes)
    vectors = heads.region_features.vectors(maps)
    assert_scaled("vectors", vectors, taps["attnpool"], 1e-5)
    assert_scaled("vectors, in chunks", heads.region_features(features, boxes), taps["attnpool"], 1e-5)
    logits, deltas = heads.box_predictor(taps["attnpool"])
    assert_scaled("logits of recorded vectors", logits, taps["predictor"][0], 1e-5)
    assert torch.equal(logits[:, -1], taps["predictor"][0][:, -1]), "the background's logit is exactly 0"
    assert_scaled("deltas of recorded vectors", deltas, taps["predictor"][1], 1e-5)
    logits, deltas = heads.box_predictor(vectors)
    assert_scaled("logits", logits, taps["predictor"][0], 1e-5)
    assert_scaled("deltas", deltas, taps["predictor"][1], 1e-5)
    if "backbone_out" in taps:
        assert_scaled("res4", features["res4"], taps["backbone_out"]["res4"], 1e-5)
        assert_scaled("res4 in regions", heads.region_features.pooler([features["res4"]], boxes), taps["pooled"], 1e-5)
        assert_scaled("res5 of regions", maps, taps["res5"], 1e-5)


def test_proposals(case: dict, model: RegionCLIP) -> None:
    recorded = recorded_proposals(case)
    if recorded is None:
        assert model.offline_rpn is None
        return
    found = model.offline_rpn([x["image"] for x in batch(case)])
    for ours, theirs in zip(found, recorded, strict=True):
        assert ours.image_size == theirs.image_size and len(ours) == len(theirs)
        assert_scaled("logits", ours.objectness_logits, theirs.objectness_logits, 1e-5)
        away = torch.cdist(theirs.proposal_boxes.tensor, ours.proposal_boxes.tensor, p=float("inf"))
        assert (away[linear_sum_assignment(away.numpy())] < PIXELS).all()


@torch.no_grad()
def test_detections_of_recorded_logits(case: dict, model: RegionCLIP) -> None:
    """Score fusion, box deltas, threshold, NMS and the cut alone."""
    given, predictor = recorded_proposals(case) or model.propose(batch(case)), model.roi_heads.box_predictor
    counts = [len(p) for p in given]
    parts = zip(*(t.split(counts) for t in case["taps"]["predictor"]), strict=True)
    for p, (logits, deltas), x, recorded in zip(given, parts, batch(case), case["output"], strict=True):
        boxes = p.proposal_boxes.tensor
        if predictor.regress_boxes:
            boxes = predictor.box2box_transform.apply_deltas(deltas, boxes)
        objectness = p.objectness_logits if p.has("objectness_logits") else None
        found, rows = predictor.postprocessor(boxes, logits.softmax(dim=1), objectness, p.image_size)
        clipped = Boxes(boxes[rows].clone())
        clipped.clip(p.image_size)
        assert torch.equal(clipped.tensor, found.pred_boxes.tensor), "rows say which proposal a detection comes from"
        assert_detections(detector_postprocess(found, x["height"], x["width"]), recorded)


@torch.no_grad()
def test_detections_of_recorded_proposals(case: dict, model: RegionCLIP) -> None:
    given = recorded_proposals(case) or [None] * len(case["output"])
    rows = [{**x, "proposals": p} for x, p in zip(batch(case), given, strict=True)]
    for found, recorded in zip(model(rows), case["output"], strict=True):
        assert_detections(found["instances"], recorded)


@torch.no_grad()
def test_detections_from_pixels(case: dict, model: RegionCLIP) -> None:
    fused = model.roi_heads.box_predictor.postprocessor.score_fusion != "none"
    for found, recorded in zip(model(batch(case)), case["output"], strict=True):
        places = assert_detections(found["instances"], recorded, squared=fused and not option(case, "MODEL.CLIP.VIS", False))
        assert model.roi_heads.mask_on is ("pred_masks" in recorded)
        if model.roi_heads.mask_on:
            flipped = found["instances"].pred_masks[places] != recorded["pred_masks"]
            assert float(flipped.float().mean(dim=(1, 2)).max()) < FLIPPED
            assert recorded["pred_masks"].any() and not recorded["pred_masks"].all()


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["sqrt_logit", "sqrt_sigmoid"])
def test_negative_logits_drop_out_and_a_sigmoid_keeps_them(fusion: str) -> None:
    case = golden()["B3_zs_rpn_mult_neglogit"]
    model, given = build(case)[0], recorded_proposals(case)
    processor, seen = model.roi_heads.box_predictor.postprocessor, []
    processor.score_fusion, processor.max_detections = fusion, 10**6
    probs = case["taps"]["predictor"][0].softmax(dim=1).split([len(p) for p in given])
    for p, of in zip(given, probs, strict=True):
        logits = p.objectness_logits - p.objectness_logits.median()
        rows = processor(p.proposal_boxes.tensor, of, logits, p.image_size)[1]
        seen.append(bool((logits[rows] < 0).any()))
    assert not any(seen) if fusion == "sqrt_logit" else all(seen)


@pytest.mark.parametrize("method", ["gaussian", "linear", "hard"])
def test_soft_nms_of_the_unit_case(method: str) -> None:
    unit = golden()["unit_softnms"]
    kept, scores = SoftNMS(method=method)(*unit["inputs"])
    rows, recorded = unit[method]
    assert len(kept) == len(rows) and sorted(kept.tolist()) == sorted(rows.tolist())
    assert_close("scores", scores, recorded, 1e-6)
    assert_close("scores by box", scores[kept.argsort()], recorded[rows.argsort()], 1e-6)
