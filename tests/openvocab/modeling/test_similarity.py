"""Similarity classifiers by value, and in detectron2's own heads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from openvocab.errors import ConfigError, VocabularyError
from openvocab.modeling import SimilarityClassifier, SimilarityConv, set_class_embeddings, with_classifier


def test_logits_are_cosines_over_the_temperature() -> None:
    text, x = torch.randn(5, 8), torch.randn(3, 8)
    logits = SimilarityClassifier(in_features=8, embeddings=text, temperature=0.01)(x)
    expected = F.normalize(x) @ F.normalize(text).t() / 0.01
    assert torch.allclose(logits[:, :5], expected, atol=1e-3)
    assert (logits[:, 5] == 0).all()


@pytest.mark.parametrize(("background", "columns"), [("zero", 5), ("learned", 5), ("none", 4)])
def test_columns(background: str, columns: int) -> None:
    classifier = SimilarityClassifier(in_features=6, text_dim=9, project=True, background=background)
    classifier.set_embeddings(torch.randn(4, 9))
    assert classifier(torch.randn(2, 6)).shape == (2, columns)


def test_vocabulary_may_change_length_and_is_not_saved() -> None:
    classifier = SimilarityClassifier(in_features=8, embeddings=torch.randn(3, 8))
    classifier.set_embeddings(torch.randn(1203, 8))
    assert classifier(torch.randn(2, 8)).shape == (2, 1204)
    assert "embeddings" not in classifier.state_dict()


@pytest.mark.parametrize(
    "bad", [torch.zeros(2, 8), torch.randn(8), torch.randn(2, 7), torch.full((1, 8), float("nan")), torch.zeros(0, 8)]
)
def test_bad_embeddings_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(VocabularyError):
        SimilarityClassifier(in_features=8).set_embeddings(bad)


@pytest.mark.parametrize("options", [{"background": "some"}, {"temperature": 0.0}, {"text_dim": 9}])
def test_bad_options_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        SimilarityClassifier(in_features=8, **options)


def test_no_vocabulary_is_an_error() -> None:
    with pytest.raises(VocabularyError, match="set_embeddings"):
        SimilarityClassifier(in_features=8)(torch.randn(1, 8))


def test_in_a_stock_fast_rcnn_head() -> None:
    head = with_classifier(
        head=FastRCNNOutputLayers(
            ShapeSpec(channels=16), box2box_transform=Box2BoxTransform((10, 10, 5, 5)), num_classes=3, cls_agnostic_bbox_reg=True
        ),
        classifier=SimilarityClassifier(in_features=16, embeddings=torch.randn(3, 16), temperature=0.1),
    )
    scores, deltas = head(torch.randn(7, 16))
    assert scores.shape == (7, 4) and deltas.shape == (7, 4)
    assert set_class_embeddings(head, torch.randn(10, 16)) == 1
    assert head.num_classes == 10
    proposals = Instances((50, 50))
    proposals.proposal_boxes = Boxes(torch.rand(7, 4) * 20 + torch.tensor([0, 0, 25, 25]))
    proposals.gt_boxes, proposals.gt_classes = proposals.proposal_boxes, torch.tensor([0, 9, 10, 10, 4, 10, 2])
    with EventStorage():
        losses = head.losses(head(torch.randn(7, 16, requires_grad=True)), [proposals])
    assert all(torch.isfinite(v) for v in losses.values())
    found, _ = head.inference(head(torch.randn(7, 16)), [proposals])
    assert len(found) == 1


def test_in_a_stock_retinanet_head() -> None:
    anchors = DefaultAnchorGenerator(sizes=[[32, 64]], aspect_ratios=[1.0], strides=[8])
    head = RetinaNetHead(input_shape=[ShapeSpec(channels=16)], num_classes=3, num_anchors=anchors.num_anchors[0], conv_dims=[16])
    with_classifier(head=head, classifier=SimilarityConv(in_channels=16, num_anchors=2, text_dim=12))
    set_class_embeddings(head, torch.randn(5, 12))
    logits, deltas = head([torch.randn(2, 16, 4, 6)])
    assert logits[0].shape == (2, 2 * 5, 4, 6) and deltas[0].shape == (2, 8, 4, 6)
    logits[0].sum().backward()
    assert head.cls_score.conv.weight.grad is not None


def test_replacing_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="cls_logits"):
        with_classifier(head=torch.nn.Linear(1, 1), classifier=torch.nn.Identity(), name="cls_logits")
    with pytest.raises(VocabularyError, match="with_classifier"):
        set_class_embeddings(torch.nn.Linear(1, 1), torch.randn(2, 2))
