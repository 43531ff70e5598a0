"""Our decoder against tensors recorded from PeizeSun/SparseR-CNN: every tap, three stages, matching, losses and gradients."""

from __future__ import annotations

import pytest
import torch

from detection_hub.modeling.boxes import to_pixels
from detection_hub.modeling.decoder import OFFICIAL_CLAMP, DynamicConv, DynamicHead
from detection_hub.modeling.losses import SetCriterion
from detection_hub.modeling.matcher import HungarianMatcher
from detection_hub.modeling.targets import Targets
from openvocab.testing.golden import assert_close, assert_near, golden_path

ATOL = 1e-4
BOX_ATOL = 1e-2  # pixels
GRADIENT = 1e-3  # share of a gradient's norm


@pytest.fixture(scope="module")
def golden() -> dict:
    return torch.load(golden_path("sparse_rcnn/golden_tiny.pt"), weights_only=True)


def build(golden: dict) -> DynamicHead:
    """The recorded head with its weights; every key must fit."""
    cfg = golden["meta"]["cfg"]
    head = DynamicHead(
        strides=cfg["strides"],
        num_stages=cfg["NUM_HEADS"],
        dim=cfg["HIDDEN_DIM"],
        num_heads=cfg["NHEADS"],
        ffn_dim=cfg["DIM_FEEDFORWARD"],
        dynamic_dim=cfg["DIM_DYNAMIC"],
        pooled_size=cfg["POOLER_RESOLUTION"],
        sampling_ratio=cfg["SAMPLING_RATIO"],
        num_cls=cfg["NUM_CLS"],
        num_reg=cfg["NUM_REG"],
        num_classes=cfg["NUM_CLASSES"],
        scale_clamp=OFFICIAL_CLAMP,
    )
    head.load_state_dict(golden["state_dict"])
    return head


def criterion(golden: dict) -> SetCriterion:
    cfg = golden["meta"]["cfg"]
    cls, l1, giou = (cfg["weights"][k] for k in ("loss_ce", "loss_bbox", "loss_giou"))
    focal = {"alpha": cfg["ALPHA"], "gamma": cfg["GAMMA"]}
    return SetCriterion(
        matcher=HungarianMatcher(cls=cls, l1=l1, giou=giou, **focal), cls_weight=cls, giou_weight=giou, l1_weight=l1, **focal
    )


def targets(golden: dict) -> list[Targets]:
    return [
        Targets(boxes=t["boxes_xyxy"], labels=t["labels"], size=(int(t["image_size_xyxy"][1]), int(t["image_size_xyxy"][0])))
        for t in golden["targets"]
    ]


def run(golden: dict, head: DynamicHead, features: list, queries: torch.Tensor) -> list:
    boxes = golden["inputs"]["init_boxes_xyxy"]
    return head(features, boxes, queries[None].expand(len(boxes), -1, -1))


def test_initial_boxes(golden: dict) -> None:
    inputs = golden["inputs"]
    sizes = [(int(h), int(w)) for w, h in inputs["images_whwh"][:, :2]]
    boxes = inputs["init_boxes_cxcywh_norm"][None].expand(len(sizes), -1, -1)
    assert_close("initial boxes", to_pixels(boxes, sizes), inputs["init_boxes_xyxy"], ATOL)


def test_stages(golden: dict) -> None:
    inputs = golden["inputs"]
    with torch.no_grad():
        outputs = run(golden, build(golden), inputs["features"], inputs["init_proposal_features"])
    recorded = golden["outputs"]
    assert len(outputs) == len(recorded["class_logits"])
    for k, output in enumerate(outputs):
        assert_close(f"logits of stage {k}", output.logits, recorded["class_logits"][k], ATOL, by_scale=k > 0)
        assert_close(f"boxes of stage {k}", output.boxes, recorded["pred_boxes"][k], BOX_ATOL)


def test_taps_of_the_first_stage(golden: dict) -> None:
    head, inputs = build(golden), golden["inputs"]
    stage, seen = head.head_series[0], {}
    parts = {
        "roi_features": head.pooler,
        "self_attn_out": stage.self_attn,
        "norm1_out": stage.norm1,
        "dynconv_out": stage.inst_interact,
        "norm2_out": stage.norm2,
        "norm3_out": stage.norm3,
    }
    for name, part in parts.items():
        part.register_forward_hook(lambda _, __, out, name=name: seen.setdefault(name, out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        run(golden, head, inputs["features"], inputs["init_proposal_features"])
    for name, ours in seen.items():
        theirs = golden["taps"][f"stage0.{name}"]
        if name in ("self_attn_out", "norm1_out"):  # recorded query first
            theirs = theirs.transpose(0, 1)
        assert_close(name, ours.reshape(theirs.shape), theirs, ATOL)
    assert set(seen) == set(parts)


def test_dynamic_convolution_alone(golden: dict) -> None:
    case, cfg = golden["dynconv"], golden["meta"]["cfg"]
    layer = DynamicConv(dim=cfg["HIDDEN_DIM"], dynamic_dim=cfg["DIM_DYNAMIC"], pooled_size=cfg["POOLER_RESOLUTION"])
    layer.load_state_dict(case["state_dict"])
    with torch.no_grad():
        out = layer(case["pro_features"].flatten(0, 1), case["roi_features"].transpose(0, 1))
    assert_close("dynamic convolution", out, case["out"], ATOL)


def pairs_of(match: tuple) -> set[tuple[int, int]]:
    return set(zip(*(x.tolist() for x in match), strict=True))


def test_matching(golden: dict) -> None:
    recorded = golden["outputs"]
    for k, expected in enumerate(golden["match_per_stage"]):
        pairs = criterion(golden).matcher(recorded["class_logits"][k], recorded["pred_boxes"][k], targets(golden))
        for ours, theirs in zip(pairs, expected, strict=True):
            assert pairs_of(ours) == pairs_of(theirs)


def stages_of(golden: dict) -> list:
    return list(zip(golden["outputs"]["class_logits"], golden["outputs"]["pred_boxes"], strict=True))


def weighted(golden: dict, losses: dict) -> dict[str, float]:
    """Recorded losses are without their factors."""
    factors = golden["meta"]["cfg"]["weights"]
    return {name: float(value) * factors["_".join(name.split("_")[:2])] for name, value in losses.items()}


def test_losses(golden: dict) -> None:
    losses = criterion(golden)(stages_of(golden), targets(golden)).losses
    expected = weighted(golden, golden["losses"])
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert_close(name, losses[name], value, ATOL)
    assert_close("total", sum(losses.values()), golden["total"], ATOL)


def test_losses_where_a_picture_is_empty(golden: dict) -> None:
    truth = targets(golden)
    truth[1] = Targets(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64), size=truth[1].size)
    losses = criterion(golden)(stages_of(golden), truth).losses
    for name, value in weighted(golden, golden["meta"]["empty_target"]).items():
        assert_close(name, losses[name], value, ATOL)


def test_end_to_end_gradients(golden: dict) -> None:
    head, inputs = build(golden), golden["inputs"]
    queries = inputs["init_proposal_features"].clone().requires_grad_()
    features = [f.clone().requires_grad_() for f in inputs["features"]]
    outputs = run(golden, head, features, queries)
    losses = criterion(golden)([(o.logits, o.boxes) for o in outputs], targets(golden)).losses
    total = sum(losses.values())
    assert_close("total", total, golden["total"], ATOL, by_scale=True)
    total.backward()
    parameters = dict(head.named_parameters())
    assert set(golden["grads"]) == set(parameters)
    for name, theirs in golden["grads"].items():
        assert_near(f"gradient of {name}", parameters[name].grad, theirs, GRADIENT)
    assert_near("gradient of queries", queries.grad, golden["grad_init_proposal_features"], GRADIENT)
    assert_near("gradient of p3", features[1].grad, golden["grad_features_p3"], GRADIENT)


def test_a_fresh_hub_in_front_changes_nothing(golden: dict) -> None:
    """The recorded head behind a hub that has learned nothing yet gives the same bits as without it."""
    from detection_hub import DatasetContext
    from detection_hub.modeling import CategoryEmbeddings, HubAdapter
    from openvocab.text import HashedTextEncoder

    head, inputs = build(golden), golden["inputs"]
    boxes, queries = inputs["init_boxes_cxcywh_norm"], inputs["init_proposal_features"]
    sizes = [(int(h), int(w)) for w, h in inputs["images_whwh"][:, :2]]
    hub = HubAdapter(
        embeddings=CategoryEmbeddings(text_encoder=HashedTextEncoder(dim=24)),
        dim=head.dim,
        num_stages=head.num_stages,
        num_heads=golden["meta"]["cfg"]["NHEADS"],
        datasets=[DatasetContext.create("a", ["cat", "dog"], flags=["loose"]), DatasetContext.create("b", ["cup"])],
    )
    with torch.no_grad():
        context = hub([hub.space({"dataset": "ab"[i % 2]}, None) for i in range(len(sizes))], queries, boxes)
        ours = head(inputs["features"], to_pixels(context.boxes, sizes), context.queries, context.kernels)
        plain = head(inputs["features"], to_pixels(boxes.expand(len(sizes), -1, -1), sizes), queries.expand(len(sizes), -1, -1))
    for a, b in zip(ours, plain, strict=True):
        assert torch.equal(a.logits, b.logits) and torch.equal(a.boxes, b.boxes)
