"""Teachers: the same logits whichever way they come, and the bridge's space kept by the small student."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances

from openvocab.bridge import Bridge
from openvocab.errors import ConfigError, DataError, VocabularyError, WeightsError
from openvocab.io import save_weights
from openvocab.modeling import TimmBackbone
from openvocab.text import HashedTextEncoder, embed_names
from openvocab.vocabulary import Vocabulary
from regionclip.pretraining import (
    BridgeTeacher,
    CLIPTeacher,
    ConceptPool,
    LabelTeacher,
    LiteRegionFeatures,
    embed_concepts,
)
from regionclip.pretraining.lite import CentredTextEncoder, mini_concepts
from regionclip.pretraining.pseudo_labels import PseudoLabeller
from regionclip.pretraining.teachers import WithWeights

from .tiny import CONCEPTS, DIM, boxes, tower

WORDS = HashedTextEncoder(dim=24)


@pytest.fixture(scope="module")
def bridge() -> Bridge:
    return Bridge(text_encoder=WORDS)


def image(height: int = 96, width: int = 96) -> torch.Tensor:
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 255
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 255).byte()


def test_the_bridge_as_a_teacher(bridge: Bridge) -> None:
    teacher = BridgeTeacher(bridge=bridge, concepts=CONCEPTS, temperature=0.07)
    found = [Instances((96, 96), proposal_boxes=boxes(2, 0)), Instances((96, 96), proposal_boxes=boxes(0, 1))]
    logits = teacher.region_logits([image(), image()], found)
    expected = bridge.score_regions(image(), found[0].proposal_boxes.tensor, list(CONCEPTS.names), temperature=0.07)
    torch.testing.assert_close(logits.softmax(1), expected)
    found[0].teacher_vectors = teacher.vectors(image(), found[0].proposal_boxes.tensor)
    found[1].teacher_vectors = torch.zeros(0, 24)
    torch.testing.assert_close(teacher.region_logits([torch.zeros(3, 1, 1)] * 2, found), logits)


def test_the_untrained_student_is_the_bridge(bridge: Bridge) -> None:
    """Of a whole picture of the bridge's size, pooled on its own grid, up to what ROIAlign blurs."""
    centred = CentredTextEncoder(encoder=WORDS)
    torch.testing.assert_close(centred.encode(centred.framed(["dog", "cat"])), bridge.encode(["dog", "cat"]))
    words = Vocabulary.from_names(["dog", "cat"])
    torch.testing.assert_close(embed_names(centred, words, "article")[0], bridge.encode(["dog", "cat"]))
    backbone = TimmBackbone(name="tf_efficientnet_lite0", out_indices=(3,), weights="package").eval()
    features = LiteRegionFeatures(text_encoder=centred).eval()
    pixels = image(224, 224)[None].float()
    with torch.no_grad():
        maps = backbone((pixels - 127) / 128)
        exact = torch.nn.functional.normalize(features.encode(maps["stage3"]), dim=-1)
        torch.testing.assert_close(exact, bridge.encode_pixels(pixels), atol=1e-4, rtol=0)
        pooled = features(maps, [torch.tensor([[0.0, 0.0, 224.0, 224.0]])])
        assert torch.cosine_similarity(pooled, exact).item() > 0.9
        assert features(maps, [torch.zeros(0, 4)]).shape == (0, 24)


def test_the_small_students_parts_learn_and_its_norms_do_not() -> None:
    torch.manual_seed(1)  # untrained logits can be so large that the best class has all the weight, and no gradient
    centred = CentredTextEncoder(encoder=WORDS, names=["a", "b", "c"])
    features = LiteRegionFeatures(text_encoder=centred, weights=None, names=["a", "b", "c"], topk=2).train()
    maps = {"stage3": torch.randn(1, 112, 6, 6)}
    features(maps, [torch.tensor([[0.0, 0.0, 90.0, 90.0]])]).square().sum().backward()
    assert features.projection.weight.grad.abs().sum() > 0 and features.classifier.weight.grad.abs().sum() > 0
    assert features.bn2.weight.grad is None and not features.bn2.training
    with pytest.raises(ConfigError, match="pooler_resolution=0"):
        LiteRegionFeatures(text_encoder=centred, pooler_resolution=0)


def test_the_pool_of_the_small_student_knows_captions_coco_and_imagenet() -> None:
    pool = mini_concepts()
    assert pool.counts[0] > 10 and set(Vocabulary.builtin("coco").names) <= set(pool.names)
    assert {"man", "kitchen"} <= set(pool.names), "nouns of captions that are no class of either"
    assert len(pool) > 1200


def test_the_truth_as_a_teacher() -> None:
    teacher = LabelTeacher(names=["zebra", "Dog"], concepts=CONCEPTS)
    found = Instances((64, 64), proposal_boxes=boxes(3, 0), gt_classes=torch.tensor([1, 0, 1]))
    labels = PseudoLabeller(0.1)(teacher.region_logits([], [found]))
    assert [CONCEPTS.names[i] for i in labels.labels] == ["dog", "zebra", "dog"] and labels.keep.all()
    with pytest.raises(VocabularyError, match="lacks \\['lamp'\\]"):
        LabelTeacher(names=["lamp"], concepts=CONCEPTS)
    with pytest.raises(DataError, match="gt_classes"):
        teacher.region_logits([], [Instances((64, 64), proposal_boxes=Boxes(torch.zeros(0, 4)))])


def test_weights_and_embeddings_may_come_from_files(tmp_path: Path) -> None:
    backbone, features = tower(5)
    save_weights(tmp_path / "clip.safetensors", {f"backbone.{k}": v for k, v in backbone.state_dict().items()})
    vectors = embed_concepts(CONCEPTS, HashedTextEncoder(dim=DIM))
    torch.save(vectors, tmp_path / "concepts.pth")
    found = [Instances((64, 64), proposal_boxes=boxes(3, 0))]
    ready = CLIPTeacher(backbone=backbone, region_features=features, concept_embeddings=vectors)
    other, others = tower(6)
    reading = CLIPTeacher(
        backbone=other,
        region_features=others,
        concept_embeddings=tmp_path / "concepts.pth",
        weights=tmp_path / "clip.safetensors",
    )
    picture = [image(64, 64)]
    torch.testing.assert_close(reading.region_logits(picture, found), ready.region_logits(picture, found))
    missing = CLIPTeacher(backbone=other, region_features=others, concept_embeddings=vectors, weights=tmp_path / "no.safetensors")
    with pytest.raises(WeightsError, match="no.safetensors"):
        missing.region_logits(picture, found)


def test_a_network_reads_its_weights_when_it_is_first_used(tmp_path: Path) -> None:
    layer, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    save_weights(tmp_path / "a.safetensors", {**{f"rpn.{k}": v for k, v in layer.state_dict().items()}, "more": torch.ones(1)})
    network = WithWeights(network=other, weights=tmp_path / "a.safetensors", prefix="rpn.")
    torch.testing.assert_close(network(torch.ones(1, 2)), layer(torch.ones(1, 2)))
    assert not network.train().training and not any(p.requires_grad for p in network.parameters())
    with pytest.raises(WeightsError):
        WithWeights(network=torch.nn.Linear(3, 3), weights=tmp_path / "a.safetensors", prefix="rpn.")(torch.ones(1, 3))


def test_labels_below_the_threshold_are_dropped_and_all_kept_if_none_passes(caplog) -> None:
    logits = torch.tensor([[0.0, 0.1, 0.0], [5.0, 0.0, 0.0]])
    some = PseudoLabeller(0.5)(logits)
    assert some.keep.tolist() == [False, True] and some.labels.tolist() == [0] and some.probs.shape == (1, 3)
    labeller = PseudoLabeller(0.999)
    none = labeller(logits)
    assert none.keep.all() and none.confident == 0 and "all are kept" in caplog.text and labeller.nothing_passed == 1
    assert PseudoLabeller(0.5)(torch.zeros(0, 3)).labels.shape == (0,)
    with pytest.raises(ConfigError, match="threshold=-1"):
        PseudoLabeller(-1)


def test_a_pool_of_other_sizes_is_refused() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        BridgeTeacher(bridge=Bridge(text_encoder=WORDS), concepts=ConceptPool(("a",), (1,)), temperature=0.0)
