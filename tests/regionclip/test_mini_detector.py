"""The small student as a detector: its region layers in the ROI heads, its checkpoint, and proposals of another detector."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances

from openvocab.errors import ConfigError
from openvocab.io import load_into
from openvocab.modeling import TimmBackbone
from openvocab.testing import tiny_picture
from openvocab.text import HashedTextEncoder
from regionclip.modeling import RegionCLIP, RegionCLIPOutputLayers, RegionCLIPROIHeads, RegionPostProcessor
from regionclip.pretraining import DetectorProposals, LiteRegionFeatures, RegionCLIPPretraining

DIM = 16
TEXT = HashedTextEncoder(dim=DIM)
BOXES = torch.tensor([[2.0, 3.0, 40.0, 50.0], [10.0, 10.0, 60.0, 60.0], [0.0, 0.0, 64.0, 64.0]])


def parts(seed: int = 0) -> dict:
    """Backbone and region features with random weights; the class names are not ImageNet's."""
    torch.manual_seed(seed)
    names = [f"thing {i}" for i in range(7)]
    return {
        "backbone": TimmBackbone(name="tf_efficientnet_lite0", out_indices=[3], weights=None, freeze_at=6),
        "region_features": LiteRegionFeatures(text_encoder=TEXT, weights=None, names=names, pooler_resolution=4),
    }


def detector(seed: int = 0, offline_rpn: object = None, input_dim: int = DIM, **options: object) -> RegionCLIP:
    made = parts(seed)
    heads = RegionCLIPROIHeads(
        region_features=made["region_features"],
        box_predictor=RegionCLIPOutputLayers(
            input_dim=input_dim, postprocessor=RegionPostProcessor(score_fusion="sqrt_logit"), temperature=0.1, **options
        ),
        batch_size_per_image=4,
        proposal_matcher=Matcher([0.5], [0, 1]),
    )
    return RegionCLIP(backbone=made["backbone"], roi_heads=heads, offline_rpn=offline_rpn, text_encoder=TEXT, recipe="own")


def sample(**more: object) -> dict:
    proposals = Instances((64, 64), proposal_boxes=Boxes(BOXES), objectness_logits=torch.tensor([0.9, 0.5, 0.1]))
    return {"image": tiny_picture(64, 64), "height": 64, "width": 64, "proposals": proposals, **more}


def test_maps_and_vectors_are_the_two_halves_of_the_features() -> None:
    made = parts()
    features = made["backbone"](torch.randn(2, 3, 64, 64))
    given = [Boxes(BOXES), Boxes(BOXES[:1])]
    layers = made["region_features"].eval()
    maps = layers.maps(features, given)
    assert maps.shape == (4, 320, 2, 2) and layers.out_channels == DIM and not layers.borrows
    assert torch.allclose(layers.vectors(maps), layers(features, [b.tensor for b in given]), atol=1e-6)
    assert layers.maps(features, [Boxes(BOXES[:0])] * 2).shape == (0, 320, 2, 2)


def test_a_pretrained_student_becomes_the_detector() -> None:
    """Its checkpoint has the region layers at another place; nothing but names and box regression is left to chance."""
    student = RegionCLIPPretraining(
        **parts(seed=1), text_encoder=TEXT, distill_weight=0.0, contrast_weight=0.0, recipe="own", temperature=0.1
    )
    model = detector(seed=2)
    report = load_into(model, student.state_dict())
    assert not report.unexpected and not report.mismatched
    head = "roi_heads.box_predictor."
    assert report.missing == [f"{head}bbox_pred.bias", f"{head}bbox_pred.weight", f"{head}class_embeddings"]
    model.eval().set_vocabulary(["cat", "dog"])
    student.eval().set_vocabulary(["cat", "dog"])
    with torch.no_grad():
        own = student([sample()])[0]["instances"]
        vectors = model.roi_heads.region_features(model.backbone(model.preprocess([sample()["image"]])), [Boxes(BOXES)])
    logits = model.roi_heads.box_predictor.classify(vectors)[:, :-1]
    assert torch.allclose(logits.softmax(1).max(1).values, own.scores, atol=1e-5)
    assert torch.equal(logits.argmax(1), own.pred_classes)


def test_transfer_trains_region_layers_and_boxes() -> None:
    model = detector().train()
    truth = Instances((64, 64), gt_boxes=Boxes(BOXES[:2] + 1), gt_classes=torch.tensor([0, 1]))
    model.set_vocabulary(["cat", "dog", "owl"])
    losses = model([sample(instances=truth)])
    sum(losses.values()).backward()
    grads = {k for k, p in model.named_parameters() if p.grad is not None}
    assert set(losses) == {"loss_cls", "loss_box_reg"}
    assert all(k.startswith("roi_heads.") for k in grads) and "roi_heads.region_features.projection.weight" in grads
    assert "roi_heads.box_predictor.bbox_pred.weight" in grads
    with pytest.raises(ConfigError, match="16 wide and the box predictor takes 8"):
        detector(input_dim=8)


def test_proposals_of_another_detector() -> None:
    """For pictures that bring none; it is built when it is first needed, and sees whole numbers on the CPU."""
    seen: list[torch.Tensor] = []

    def detect(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(image)
        return BOXES, torch.tensor([0.9, 0.5, 0.1])

    source = DetectorProposals(max_boxes=2, detector="there is no such model")
    model = detector(offline_rpn=source, regress_boxes=False).eval()
    model.set_vocabulary(["cat", "dog"])
    given = model([sample()])[0]["instances"]
    with pytest.raises(ConfigError, match="no such model"):
        model([sample(proposals=None)])
    source._detect = detect
    found = model([sample(proposals=None, image=tiny_picture(64, 64).float() + 0.3), sample()])
    assert len(seen) == 1 and seen[0].dtype is torch.uint8 and torch.equal(seen[0], tiny_picture(64, 64))
    assert len(found[1]["instances"]) == len(given)
    boxes = {tuple(b) for b in found[0]["instances"].pred_boxes.tensor.tolist()}
    assert boxes <= {tuple(b) for b in BOXES[:2].tolist()} and boxes
    assert float(found[0]["instances"].scores.max()) <= 1
