"""Cosine classifier with a fixed zero background, class-agnostic boxes, and names that come and go."""

from __future__ import annotations

import logging

import pytest
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from openvocab.errors import ConfigError, VocabularyError, WeightsError
from openvocab.io import load_into
from regionclip.modeling import RegionPostProcessor, box_loss, classification_loss

from .tiny import DIM, proposals, some_boxes, tiny_predictor, vectors

KEY = "class_embeddings"


# ---- logits ---------------------------------------------------------------------------------------------------------


def test_logits_are_cosines_over_the_temperature_and_background_is_zero() -> None:
    predictor, x = tiny_predictor(temperature=0.01), torch.randn(5, DIM)
    logits, deltas = predictor(x)
    expected = torch.cosine_similarity(x[:, None], vectors()[None], dim=2) / 0.01
    assert torch.allclose(logits[:, :-1], expected, atol=1e-3)
    assert torch.equal(logits[:, -1], torch.zeros(5))
    assert logits.shape == (5, 4) and deltas.shape == (5, 4)


@settings(max_examples=20, deadline=None)
@given(names=st.integers(1, 7), scale=st.floats(0.01, 100), seed=st.integers(0, 1000))
def test_lengths_of_vectors_do_not_matter_to_logits_but_to_boxes(names: int, scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    predictor, x = tiny_predictor(embeddings=torch.randn(names, DIM)), torch.randn(3, DIM)
    logits, deltas = predictor(x)
    predictor.set_class_embeddings(predictor.class_embeddings * 7)
    again, moved = predictor(x * scale)
    assert logits.shape == (3, names + 1) and torch.allclose(logits, again, atol=1e-4)
    assert torch.allclose(moved, predictor.bbox_pred(x * scale)) and torch.allclose(deltas, predictor.bbox_pred(x))


def test_a_zero_vector_and_one_name() -> None:
    predictor = tiny_predictor(embeddings=vectors(1))
    assert predictor.class_embeddings.shape == (1, DIM) and predictor.num_classes == 1
    logits = predictor.classify(torch.zeros(2, DIM))
    assert torch.equal(logits, torch.zeros(2, 2)), "no direction, no preference"


def test_embeddings_are_kept_as_given_and_are_no_parameters() -> None:
    predictor = tiny_predictor(embeddings=vectors().double())
    assert torch.allclose(predictor.class_embeddings, vectors()) and predictor.class_embeddings.dtype is torch.float32
    assert {n for n, _ in predictor.named_parameters()} == {"bbox_pred.weight", "bbox_pred.bias"}
    assert set(predictor.state_dict()) == {KEY, "bbox_pred.weight", "bbox_pred.bias"}


# ---- names ----------------------------------------------------------------------------------------------------------


def test_any_length_at_any_time() -> None:
    predictor, x = tiny_predictor(embeddings=None), torch.randn(2, DIM)
    assert predictor.num_classes == 0
    with pytest.raises(VocabularyError, match="no vocabulary is set: call set_class_embeddings"):
        predictor(x)
    for count in (1, 65, 1203, 2):
        predictor.set_class_embeddings(vectors(count))
        assert predictor(x)[0].shape == (2, count + 1) and predictor.num_classes == count


def test_other_names_in_evaluation() -> None:
    predictor, x = tiny_predictor(), torch.randn(2, DIM)
    predictor.set_test_embeddings(vectors(7, seed=1))
    assert predictor.train()(x)[0].shape == (2, 4) and predictor.eval()(x)[0].shape == (2, 8)
    assert predictor.num_classes == 7 and predictor.train().num_classes == 3
    assert not any("test" in k for k in predictor.state_dict()), "they are not saved"
    predictor.set_test_embeddings(None)
    assert predictor.eval()(x)[0].shape == (2, 4)
    predictor.set_test_embeddings(vectors(7))
    predictor.set_class_embeddings(vectors(2))
    assert predictor.eval().num_classes == 2, "new names count everywhere"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.ones(DIM), r"\(16,\) do not fit: one name's vector must keep two axes, \(1, 16\)"),
        (torch.ones(3, 12), "they are 12 wide and this model's regions 16; .*RN50: 1024, RN101: 512, RN50x4: 640"),
        (torch.ones(0, DIM), r"\(0, 16\) do not fit"),
        (torch.ones(2, 2, DIM), "do not fit"),
        (torch.tensor(1.0), "do not fit"),
        (torch.cat([torch.ones(1, DIM), torch.zeros(1, DIM)]), r"rows \[1\] are zero or not finite"),
        (torch.full((2, DIM), float("nan")), r"rows \[0, 1\] are zero or not finite"),
    ],
)
def test_embeddings_that_do_not_fit(given: torch.Tensor, message: str) -> None:
    predictor = tiny_predictor()
    for put in (predictor.set_class_embeddings, predictor.set_test_embeddings, lambda e: tiny_predictor(embeddings=e)):
        with pytest.raises(VocabularyError, match=message):
            put(given)
    assert torch.equal(predictor.class_embeddings, vectors()) and predictor.test_embeddings is None


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="temperature=0 must be above 0"):
        tiny_predictor(temperature=0)


# ---- weight files ---------------------------------------------------------------------------------------------------


def loads() -> list:
    """Both ways in: ours, and torch's own."""
    return [load_into, lambda module, tensors: module.load_state_dict(tensors)]


@pytest.mark.parametrize("load", loads(), ids=["load_into", "load_state_dict"])
def test_a_files_names_are_taken_if_none_were_set(load) -> None:
    file = tiny_predictor(embeddings=vectors(5)).state_dict()
    predictor = tiny_predictor(embeddings=None)
    load(predictor, file)
    assert torch.equal(predictor.class_embeddings, vectors(5))
    load(predictor, tiny_predictor(embeddings=vectors(2, seed=3)).state_dict())
    assert torch.equal(predictor.class_embeddings, vectors(2, seed=3)), "and those of the next file"
    predictor.set_class_embeddings(vectors(9))
    assert predictor.num_classes == 9


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("load", loads(), ids=["load_into", "load_state_dict"])
def test_names_that_were_set_survive_a_file_of_others(load, count: int, caplog: pytest.LogCaptureFixture) -> None:
    """The official code takes the file's whenever there are as many, without a word."""
    other = tiny_predictor(embeddings=vectors(count, seed=4))
    nn.init.ones_(other.bbox_pred.bias)
    file = other.state_dict()
    predictor = tiny_predictor()
    with caplog.at_level(logging.INFO):
        load(predictor, file)
    assert torch.equal(predictor.class_embeddings, vectors()) and predictor.bbox_pred.bias.eq(1).all()
    assert f"embeddings of {count} names are not taken: 3 names were set" in caplog.text
    assert torch.equal(file[KEY], vectors(count, seed=4)), "the file's tensors stay what they were"


def test_a_load_that_fails_leaves_everything() -> None:
    predictor = tiny_predictor(embeddings=None)
    before = {k: v.clone() for k, v in predictor.state_dict().items()}
    with pytest.raises(WeightsError, match="do not fit exactly"):
        load_into(predictor, {KEY: vectors(5), "odd": torch.ones(1)}, strict=True)
    assert predictor.num_classes == 0 and all(torch.equal(v, before[k]) for k, v in predictor.state_dict().items())


def test_a_file_of_another_clip() -> None:
    with pytest.raises(WeightsError, match=r"class_embeddings' has the shape \(4, 12\) .*the file is of another CLIP"):
        load_into(tiny_predictor(embeddings=None), {KEY: torch.ones(4, 12)})


# ---- losses and detections ------------------------------------------------------------------------------------------


def labelled(counts: tuple[int, ...], seed: int = 0) -> list[Instances]:
    generator, rows = torch.Generator().manual_seed(seed), []
    for i, count in enumerate(counts):
        found = proposals(count, seed + i)
        found.gt_classes = torch.randint(0, 4, (count,), generator=generator)
        found.gt_boxes = some_boxes(count, seed + 10 + i)
        rows.append(found)
    return rows


def test_losses_are_their_parts() -> None:
    predictor, sampled = tiny_predictor(focal_gamma=0.5, background_weight=0.2, smooth_l1_beta=0.1), labelled((6, 4))
    logits, deltas = predictor(torch.randn(10, DIM))
    losses = predictor.losses((logits, deltas), sampled)
    labels = torch.cat([s.gt_classes for s in sampled])
    boxes, truth = (torch.cat([s.get(k).tensor for s in sampled]) for k in ("proposal_boxes", "gt_boxes"))
    targets = predictor.box2box_transform.get_deltas(boxes, truth)
    assert set(losses) == {"loss_cls", "loss_box_reg"}
    assert torch.allclose(losses["loss_cls"], classification_loss(logits, labels, focal_gamma=0.5, background_weight=0.2))
    assert torch.allclose(losses["loss_box_reg"], box_loss(deltas, targets, labels, background=3, beta=0.1))


def test_pictures_without_ground_truth_and_without_regions() -> None:
    predictor, sampled = tiny_predictor(), labelled((3, 0))
    sampled[0].gt_classes[:] = 3
    sampled[0].remove("gt_boxes")
    losses = predictor.losses(predictor(torch.randn(3, DIM)), sampled)
    assert losses["loss_cls"] > 0 and losses["loss_box_reg"] == 0
    sum(losses.values()).backward()
    assert predictor.bbox_pred.weight.grad is not None


def test_no_regression_no_loss_of_it() -> None:
    predictor = tiny_predictor(regress_boxes=False)
    assert set(predictor.losses(predictor(torch.randn(4, DIM)), labelled((4,)))) == {"loss_cls"}
    assert not any(p.requires_grad for p in predictor.parameters())


@torch.no_grad()
def test_boxes_move_alike_for_all_names_or_not_at_all() -> None:
    predictor = tiny_predictor(postprocessor=RegionPostProcessor(score_threshold=0.0, nms_threshold=1.0)).eval()
    nn.init.normal_(predictor.bbox_pred.weight, std=0.5)
    given, x = [proposals(4), proposals(2, 1)], torch.randn(6, DIM)
    found, rows = predictor.inference(x, given)
    deltas = predictor.bbox_pred(x).split([4, 2])
    for one, kept, d, p in zip(found, rows, deltas, given, strict=True):
        assert len(one) == 3 * len(p), "each name at each proposal"
        moved = Boxes(predictor.box2box_transform.apply_deltas(d, p.proposal_boxes.tensor))
        moved.clip(p.image_size)
        assert torch.allclose(one.pred_boxes.tensor, moved.tensor[kept])
    still, rows = predictor.inference(x, given, regress_boxes=False)
    assert torch.equal(still[0].pred_boxes.tensor, given[0].proposal_boxes.tensor[rows[0]])


@torch.no_grad()
def test_a_picture_may_have_names_of_its_own() -> None:
    predictor = tiny_predictor(postprocessor=RegionPostProcessor(score_threshold=0.0)).eval()
    given, x, other = [proposals(4), proposals(4)], torch.randn(4, DIM).repeat(2, 1), vectors(9, seed=8)
    (own, changed), _ = predictor.inference(x, given, embeddings={1: other})
    predictor.set_class_embeddings(other)
    (wanted, _), _ = predictor.inference(x, given)
    assert own.pred_classes.max() < 3 and torch.equal(changed.pred_classes, wanted.pred_classes)
    assert torch.equal(changed.scores, wanted.scores)
