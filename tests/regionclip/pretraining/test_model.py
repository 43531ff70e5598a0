"""The meta-architecture: what it returns, saves, asks for, and what several processes make of it."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import nn

from openvocab.errors import ConfigError, DataError, VocabularyError
from openvocab.testing.gloo import run_gloo
from regionclip.pretraining import RegionCLIPPretraining

from .tiny import CAPTIONS, CONCEPTS, DIM, batch, boxes, student

LOSSES = {"loss_img_txt_level", "loss_region_distill", "loss_concept_contrastive"}


def test_all_losses_reach_the_student_and_nothing_else() -> None:
    model = student().train()
    losses = model(batch())
    assert set(losses) == LOSSES and all(v.requires_grad and torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if p.requires_grad and "k_proj.bias" not in n)
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert not model.teacher.training


def test_weights_scale_losses_and_switch_them_off() -> None:
    full = student().train()(batch())
    half = student(distill_weight=0.5, contrast_weight=0.0).train()(batch())
    assert set(half) == {"loss_img_txt_level", "loss_region_distill"}
    torch.testing.assert_close(half["loss_region_distill"], full["loss_region_distill"] * 0.5)
    torch.testing.assert_close(half["loss_img_txt_level"], full["loss_img_txt_level"])
    regions = student(image_text_weight=0.0).train()(batch(captions=False))
    assert set(regions) == LOSSES - {"loss_img_txt_level"}
    torch.testing.assert_close(regions["loss_concept_contrastive"], full["loss_concept_contrastive"])
    alone = student(teacher=None, concepts=None, distill_weight=0.0, contrast_weight=0.0).train()
    assert set(alone([{k: v for k, v in x.items() if k != "proposals"} for x in batch()])) == {"loss_img_txt_level"}


def test_the_state_dict_is_the_student_alone() -> None:
    model = student()
    assert {k.partition(".")[0] for k in model.state_dict()} == {"backbone"}
    assert {n.partition(".")[0] for n, _ in model.named_parameters()} == {"backbone"}
    other = student(teacher=None, concepts=None, distill_weight=0.0, contrast_weight=0.0)
    other.load_state_dict(model.state_dict())  # strict


def test_a_picture_is_the_padded_frame_or_its_own() -> None:
    rows = batch((1, 1))
    rows[0]["image"] = rows[0]["image"][:, :32]
    seen = []
    for frame in ("padded", "image"):
        model = student(global_frame=frame).train()
        model.region_features.register_forward_pre_hook(lambda m, args: seen.append([b[-1].tolist() for b in args[1]]))
        model(rows)
    assert seen == [[[0, 0, 64, 64], [0, 0, 64, 64]], [[0, 0, 64, 32], [0, 0, 64, 64]]]


def test_regions_are_drawn_and_all_fields_stay_with_them() -> None:
    model, seen = student(sample_regions=4).train(), []
    rows = batch((9, 3))
    rows[0]["proposals"].objectness_logits = rows[0]["proposals"].proposal_boxes.tensor[:, 0].clone()
    inner = model.teacher.region_logits
    model.teacher.region_logits = lambda images, proposals: seen.append(proposals) or inner(images, proposals)
    model(rows)
    assert [len(p) for p in seen[0]] == [4, 3]
    assert torch.equal(seen[0][0].objectness_logits, seen[0][0].proposal_boxes.tensor[:, 0])


def test_a_proposal_network_goes_before_the_inputs() -> None:
    asked = []

    def propose(images: list) -> list[Instances]:
        asked.append(len(images))
        return [Instances(tuple(x.shape[1:]), proposal_boxes=boxes(2, i)) for i, x in enumerate(images)]

    losses = student(proposals=propose).train()([{k: v for k, v in x.items() if k != "proposals"} for x in batch()])
    assert asked == [2] and set(losses) == LOSSES


def test_given_boxes_go_before_the_proposal_network_in_evaluation() -> None:
    """Zero-shot accuracy on true boxes, of a model that is pretrained on proposals of its own."""
    asked = []

    def propose(images: list) -> list[Instances]:
        asked.append(len(images))
        return [Instances(tuple(x.shape[1:]), proposal_boxes=boxes(4, 9)) for x in images]

    model, rows = student(proposals=propose).eval(), batch()
    model.set_vocabulary(["dog", "table"])
    found = [o["instances"].pred_boxes.tensor for o in model(rows)]
    assert not asked and all(torch.equal(f, x["proposals"].proposal_boxes.tensor) for f, x in zip(found, rows, strict=True))
    assert len(model([{k: v for k, v in rows[0].items() if k != "proposals"}])[0]["instances"]) == 4 and asked == [1]


@pytest.mark.parametrize("image_text_weight", [0.0, 1.0])
def test_pictures_without_regions_or_captions_cost_nothing_and_break_nothing(image_text_weight: float) -> None:
    model = student(image_text_weight=image_text_weight).train()
    losses = model(batch((0, 0), captions=False))
    assert all(v.item() == 0 for v in losses.values())
    sum(losses.values()).backward()
    assert model.backbone.conv1.weight.grad is not None
    model(batch((0, 2)))


def test_regions_are_named_in_order_in_the_pictures_own_size() -> None:
    model = student().eval()
    model.set_vocabulary(["dog", "table"])
    rows = [{**x, "height": 128, "width": 128} for x in batch((3, 2))]
    rows[1]["vocabulary"] = ["zebra", "cat", "person"]
    outputs = [o["instances"] for o in model(rows)]
    assert [len(o) for o in outputs] == [3, 2]
    torch.testing.assert_close(outputs[0].pred_boxes.tensor, rows[0]["proposals"].proposal_boxes.tensor * 2)
    assert outputs[0].pred_classes.max() < 2 and outputs[1].scores.min() >= 1 / 3
    alone = model([rows[0]])[0]["instances"]
    torch.testing.assert_close(alone.scores, outputs[0].scores)


CASES = [
    ([(3, 2), (2, 3)], [True, True]),
    ([(5,), (1, 2)], [True, True]),  # uneven
    ([(4,), (0, 3)], [True, False]),  # no captions on one rank
]


def whole_batch(regions: list[tuple[int, ...]], captions: list[bool]) -> list[dict]:
    rows = batch(sum(regions, ()))
    spoken = [c for r, c in zip(regions, captions, strict=True) for _ in r]
    return [{**x, "captions": x["captions"] if keep else []} for x, keep in zip(rows, spoken, strict=True)]


def rank_losses(gather: str) -> list[tuple[dict, torch.Tensor]]:
    rank, results = dist.get_rank(), []
    for regions, captions in CASES:
        start = sum(len(r) for r in regions[:rank])
        rows = whole_batch(regions, captions)[start : start + len(regions[rank])]
        model = nn.parallel.DistributedDataParallel(student(gather=gather).train(), find_unused_parameters=True)
        losses = model(rows)
        sum(losses.values()).backward()
        results.append(({k: v.item() for k, v in losses.items()}, model.module.backbone.layer2[0].conv2.weight.grad))
    return results


@pytest.mark.slow
def test_gathering_all_equals_one_process() -> None:
    ranks = run_gloo(rank_losses, "all")
    for i, case in enumerate(CASES):
        model = student().train()
        losses = model(whole_batch(*case))
        sum(losses.values()).backward()
        gradient = model.backbone.layer2[0].conv2.weight.grad
        for name, value in losses.items():
            assert sum(r[i][0][name] for r in ranks) / 2 == pytest.approx(value.item(), rel=1e-4, abs=1e-6), (name, case)
        for rank in ranks:
            torch.testing.assert_close(rank[i][1], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


def test_it_is_registered() -> None:
    assert META_ARCH_REGISTRY.get("RegionCLIPPretraining") is RegionCLIPPretraining


def test_errors_name_the_cause() -> None:
    with pytest.raises(ConfigError, match="need a teacher"):
        student(teacher=None)
    with pytest.raises(ConfigError, match="either `concepts`"):
        student(concept_embeddings=torch.randn(3, DIM), concepts=CONCEPTS)
    with pytest.raises(ConfigError, match="of another CLIP"):
        student(concept_embeddings=torch.randn(3, DIM + 1))
    with pytest.raises(ConfigError, match="one above 0"):
        student(distill_weight=0.0, contrast_weight=0.0, image_text_weight=0.0)
    with pytest.raises(ConfigError, match="gather='some'"):
        student(gather="some")
    with pytest.raises(DataError, match="'0.jpg' brings no 'proposals'"):
        student().train()([{"image": batch()[0]["image"], "captions": CAPTIONS, "file_name": "0.jpg"}])
    with pytest.raises(VocabularyError, match="no names to choose from"):
        student().eval()(batch())


def test_random_texts_are_refused_when_training_begins() -> None:
    model = student().train()
    model.text_encoder.identity = "clip:RN50-quickgelu:random:1234"
    with pytest.raises(ConfigError, match="random weights"):
        model(batch())
    model.eval().set_vocabulary(["dog"])
    assert isinstance(model(batch())[0]["instances"].pred_boxes, Boxes)
