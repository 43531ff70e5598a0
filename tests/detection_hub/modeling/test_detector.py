"""The meta-architecture: inputs, outputs, losses by data set, and another query detector behind the same interface."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from detection_hub.modeling import HUB_DECODER_REGISTRY, DetectionHub, DetrDecoder, to_pixels
from openvocab import Vocabulary
from openvocab.errors import ConfigError, PromptError, VocabularyError
from openvocab.predictor import Predictor
from openvocab.prompting import build_caption

from ..conftest import ANIMALS, DIM, QUERIES, STAGES, awake, build_tiny, sample, tiny_head


def test_outputs() -> None:
    model = awake(build_tiny()).eval()
    inputs = [sample("animals", 0, height=128, width=192), sample("things", 1, size=(48, 80))]
    with torch.no_grad():
        first, second = (x["instances"] for x in model(inputs))
    assert META_ARCH_REGISTRY.get("DetectionHub") is DetectionHub
    assert first.image_size == (128, 192) and second.image_size == (48, 80) and 0 < len(first) <= QUERIES
    for found, names, (h, w) in ((first, 3, (128, 192)), (second, 2, (48, 80))):
        boxes = found.pred_boxes.tensor
        assert float(boxes.min()) >= 0 and float(boxes[:, 2].max()) <= w and float(boxes[:, 3].max()) <= h
        assert set(found.pred_classes.tolist()) <= set(range(names))
        assert bool((found.scores[:-1] >= found.scores[1:]).all())
    few = build_tiny(max_detections=2).eval()
    with torch.no_grad():
        assert len(few([sample("animals")])[0]["instances"]) <= 2


def test_predictions_that_are_not_numbers_are_left_out() -> None:
    model = build_tiny().eval()
    nn.init.constant_(model.head.head_series[-1].bboxes_delta.bias, float("nan"))
    with torch.no_grad():
        assert len(model([sample("animals")])[0]["instances"]) == 0


def test_losses_and_what_they_are_for_each_data_set() -> None:
    model = build_tiny().train()
    inputs = [sample("animals", 0), sample("things", 1, boxes=3), sample("animals", 2, boxes=1)]
    losses = model(inputs)
    stages = ["", *(f"_{k}" for k in range(STAGES - 1))]
    assert set(losses) == {f"{t}{s}" for t in ("loss_ce", "loss_giou", "loss_bbox") for s in stages}
    own = model.dataset_losses()
    assert list(own) == ["animals", "things"] and own["animals"]["boxes"] == 3 and own["things"]["pictures"] == 1
    for term in ("loss_ce", "loss_giou", "loss_bbox"):
        both = sum(own[n][term] * own[n]["boxes"] for n in own) / 6
        assert both == pytest.approx(sum(float(losses[f"{term}{s}"].detach()) for s in stages), rel=1e-4)
    assert model.dataset_losses() == {}


def test_a_step_lowers_the_loss() -> None:
    model = build_tiny().train()
    inputs = [sample("animals", 0), sample("things", 1)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(25):
        total = sum(model(inputs).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.7 * totals[0]


def test_without_a_hub_it_is_sparse_rcnn() -> None:
    model = build_tiny(None, decoder=tiny_head(num_classes=3))
    assert sum(model.train()([sample("x")]).values()) > 0
    with torch.no_grad():
        found = model.eval()([sample("x")])[0]["instances"]
    assert set(found.pred_classes.tolist()) <= {0, 1, 2}
    assert not [k for k in model.state_dict() if k.startswith("hub")]
    with pytest.raises(ConfigError, match="needs a classifier"):
        build_tiny(None)
    with pytest.raises(VocabularyError, match="2 names for a classifier of 3"):
        model.set_vocabulary(["a", "b"])
    for call in (lambda: model.register_dataset("a", ["b"]), lambda: model.set_datasets([ANIMALS])):
        with pytest.raises(ConfigError, match="hub=None"):
            call()


def test_captions_are_refused() -> None:
    with pytest.raises(PromptError, match="names, not for the phrases"):
        build_tiny()([{**sample(""), "caption": build_caption(Vocabulary.from_names(["cat"]))}])


def test_a_model_of_a_new_list_of_names_at_any_time() -> None:
    model = awake(build_tiny()).eval()
    with torch.no_grad():
        for count in (1, 2, 50):
            model.set_vocabulary([f"thing {i}" for i in range(count)])
            found = model([sample("")])[0]["instances"]
            assert int(found.pred_classes.max()) < count


def test_the_predictor_takes_it() -> None:
    """Names are not cut into prompts: each has a vector of its own."""
    model = awake(build_tiny())
    predictor = Predictor(model=model, augmentations=[], score_threshold=0.0)
    image = sample("")["image"].permute(1, 2, 0).numpy()
    found = predictor(image, [f"thing {i}" for i in range(300)])
    assert len(found.boxes) > 0 and found.names[0].startswith("thing ")


# ---- another query detector -------------------------------------------------------------------------------------------


def detr(**changes: object) -> DetrDecoder:
    return DetrDecoder(**{"stride": 16, "num_stages": STAGES, "dim": DIM, "num_heads": 4, "ffn_dim": 32, **changes})


def test_another_query_detector_takes_the_same_adapters() -> None:
    """The hub in front of a DETR decoder: a fresh hub changes nothing, a trained one learns and tells data sets apart."""
    model = build_tiny(decoder=detr(), in_features=("p2", "p4"))
    queries, boxes = model.init_proposal_features.weight, model.init_proposal_boxes.weight
    context = model.hub([model.hub.space({"dataset": "animals"}, None)], queries, boxes)
    features = [torch.randn(1, DIM, 16, 24), torch.randn(1, DIM, 4, 6)]
    start = to_pixels(boxes[None], [(64, 96)])
    with torch.no_grad():
        plain = model.head(features, start, queries[None], None)
        adapted = model.head(features, start, context.queries, context.kernels)
    assert torch.equal(plain[-1].features, adapted[-1].features) and torch.equal(plain[-1].boxes, adapted[-1].boxes)
    assert torch.allclose(plain[-1].boxes, start, atol=1e-4), "boxes start where they are"
    inputs = [sample("animals", 0), sample("things", 1)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(20):
        total = sum(model.train()(inputs).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.9 * totals[0]
    parts = {**dict(model.hub.named_parameters()), **dict(model.head.named_parameters())}
    assert not [n for n, p in parts.items() if p.requires_grad and p.grad is None]
    assert float(model.hub.query_adapter.attention.out_proj.weight.detach().abs().max()) > 0
    x = {"image": inputs[0]["image"], "vocabulary": ["dog"]}
    with torch.no_grad():
        one, other = (model.eval()([{**x, "dataset": n}])[0]["instances"].scores for n in ("animals", "things"))
    assert not torch.equal(one, other)


def test_what_a_detr_decoder_cannot_be() -> None:
    assert HUB_DECODER_REGISTRY.get("DetrDecoder") is DetrDecoder
    for changes in ({"num_stages": 0}, {"num_heads": 3}, {"dim": 18, "num_heads": 3}):
        with pytest.raises(ConfigError, match="must be at least 1, and num_heads="):
            detr(**changes)
