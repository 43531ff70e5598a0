"""RegionCLIP's transfer training against recorded tensors: sampled regions, logits, losses, gradients, what is frozen."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

from openvocab.testing.golden import assert_close
from regionclip.modeling import RegionCLIP

from .regionclip_model import TRAINING, batch, build, golden, instances


@pytest.fixture(scope="module", params=TRAINING)
def case(request) -> dict:
    return golden()[request.param]


@pytest.fixture
def model(case: dict) -> RegionCLIP:
    return build(case)[0].train()


@pytest.fixture
def sampled(case: dict) -> list[Instances]:
    return [instances(s) for s in case["sampled"]]


def test_every_key_has_a_place(case: dict) -> None:
    _, converted, loaded = build(case)
    assert not converted.unexpected and not converted.missing
    assert not loaded.unexpected and not loaded.mismatched and not loaded.missing


def test_proposals_in_training_are_those_of_evaluation(case: dict, model: RegionCLIP) -> None:
    for ours, recorded in zip(model.propose(batch(case)), case["rpn_proposals"], strict=True):
        theirs = instances(recorded)
        scale = float(theirs.objectness_logits.abs().max())
        assert_close("logits", ours.objectness_logits / scale, theirs.objectness_logits / scale, 1e-5)
        assert len(ours) == len(theirs) and not ours.proposal_boxes.tensor.requires_grad


def pool(case: dict, model: RegionCLIP, size: int) -> list[Instances]:
    """The recorded proposals and the ground truth, labelled and sampled to `size` a picture."""
    given, truth = [instances(p) for p in case["rpn_proposals"]], [x["instances"] for x in batch(case)]
    model.roi_heads.batch_size_per_image = size
    with EventStorage():
        return model.roi_heads.label_and_sample_proposals(given, truth)


def test_labels_of_the_sampled_regions(case: dict, model: RegionCLIP, sampled: list[Instances]) -> None:
    """The draw itself is random; every region of the recorded one has the same label and truth among ours."""
    background = model.roi_heads.num_classes
    model.roi_heads.positive_fraction = 1.0
    for ours, theirs in zip(pool(case, model, 10**6), sampled, strict=True):
        away, place = torch.cdist(theirs.proposal_boxes.tensor, ours.proposal_boxes.tensor, p=float("inf")).min(dim=1)
        assert float(away.max()) < 1e-3
        assert torch.equal(ours.gt_classes[place], theirs.gt_classes)
        rows = theirs.gt_classes != background
        assert_close("truth", ours.gt_boxes.tensor[place][rows], theirs.gt_boxes.tensor[rows], 1e-4)


def test_as_many_regions_are_sampled(case: dict, model: RegionCLIP, sampled: list[Instances]) -> None:
    background = model.roi_heads.num_classes
    size = model.roi_heads.batch_size_per_image
    for ours, theirs in zip(pool(case, model, size), sampled, strict=True):
        assert len(ours) == len(theirs)
        assert int((ours.gt_classes != background).sum()) == int((theirs.gt_classes != background).sum())


def test_logits_losses_and_gradients(case: dict, model: RegionCLIP, sampled: list[Instances]) -> None:
    said = []
    model.roi_heads.box_predictor.register_forward_hook(lambda *a: said.extend(a[-1]))
    model.roi_heads.label_and_sample_proposals = lambda proposals, targets: sampled
    losses = model(batch(case))
    for name, ours, theirs in zip(("logits", "deltas"), said, case["taps"]["predictor"], strict=True):
        scale = float(theirs.abs().max())
        assert_close(name, ours / scale, theirs / scale, 1e-5)
    assert set(losses) == set(case["losses"])
    for name, value in case["losses"].items():
        assert_close(name, losses[name], value, 1e-4)
    sum(losses.values()).backward()
    parameters = dict(model.named_parameters())
    for name, theirs in case["grads"].items():
        # as a whole: where rounding moves a cell over a ReLU's edge, single entries move further
        assert_close(name, (parameters[name].grad - theirs).norm() / theirs.norm(), 0.0, 1e-4)
    largest = max(case["grad_norms"].values())
    for name, value in case["grad_norms"].items():
        # the gradient of k_proj.bias is zero but for rounding: softmax does not see it
        assert_close(name, parameters[name].grad.norm(), value, 1e-6 * largest, 1e-4)


def test_what_is_trained(case: dict, model: RegionCLIP) -> None:
    """Text embeddings, the background and the RPN are parameters there and none here; frozen in both."""
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, wanted in case["requires_grad"].items() if wanted} == set(case["grad_norms"])
    frozen = {n.replace("offline_", "offline_rpn.", 1) for n, wanted in case["requires_grad"].items() if not wanted}
    ours = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert ours == {n for n in frozen if "cls_" not in n}
