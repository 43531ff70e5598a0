"""The ROI heads alone: losses, detections, masks, sampling, and what is refused."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

from openvocab.errors import ConfigError, VocabularyError

from .tiny import CHANNELS, DIM, proposals, sample, tiny_backbone, tiny_heads, tiny_predictor, vectors

MAPS = {"res4": torch.randn(2, 128, 4, 6, generator=torch.Generator().manual_seed(0))}


def heads(mask: bool = False, **changes: object):
    torch.manual_seed(0)
    return tiny_heads(mask, **changes).borrow(tiny_backbone())


def truth(mask: bool = False, boxes: int = 2) -> list[Instances]:
    return [sample(i, boxes=boxes, mask=mask)["instances"] for i in range(2)]


@pytest.mark.parametrize("mask", [False, True])
def test_losses_and_their_gradients(mask: bool) -> None:
    made = heads(mask).train()
    found, losses = made(None, MAPS, [proposals(8), proposals(3, 1)], truth(mask))
    assert found == [] and set(losses) == {"loss_cls", "loss_box_reg"} | ({"loss_mask"} if mask else set())
    assert all(v.ndim == 0 and torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in made.parameters())
    assert made.region_features.attnpool.k_proj.weight.grad is not None


def test_statistics_go_to_the_trainers_storage_if_there_is_one() -> None:
    with EventStorage() as storage:
        heads().train()(None, MAPS, [proposals(8), proposals(3, 1)], truth())
    assert "roi_head/num_fg_samples" in storage.latest()


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("counts", [(0, 0), (4, 0)])
def test_pictures_without_boxes_and_regions(mask: bool, counts: tuple[int, int]) -> None:
    made, given = heads(mask), [proposals(n, i) for i, n in enumerate(counts)]
    _, losses = made.train()(None, MAPS, given, truth(mask, boxes=0))
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in made.parameters()), "all stay part of the graph"
    with torch.no_grad():
        found, _ = made.eval()(None, MAPS, given)
    assert [len(f) > 0 for f in found] == [n > 0 for n in counts]


@torch.no_grad()
def test_masks_do_not_know_names() -> None:
    made = heads(mask=True).eval()
    found, _ = made(None, MAPS, [proposals(5), proposals(2, 1)])
    for one in found:
        assert one.pred_masks.shape == (len(one), 1, 2 * 2, 2 * 2) and 0 <= one.pred_masks.min() <= one.pred_masks.max() <= 1
    maps = made.region_features.maps(MAPS, [f.pred_boxes for f in found])
    assert maps.shape[1] == CHANNELS
    wanted = made.mask_head.layers(maps).sigmoid()
    assert torch.allclose(torch.cat([f.pred_masks for f in found]), wanted, atol=1e-6)
    given = [Instances(f.image_size, pred_boxes=f.pred_boxes, pred_classes=f.pred_classes) for f in found]
    made.forward_with_given_boxes(MAPS, given)
    assert torch.allclose(given[0].pred_masks, found[0].pred_masks), "at boxes of the user's"


def test_sampling() -> None:
    made = heads(batch_size_per_image=8, positive_fraction=0.25)
    with EventStorage():
        for picture in made.label_and_sample_proposals([proposals(40), proposals(40, 1)], truth(boxes=6)):
            foreground = int((picture.gt_classes < 3).sum())
            assert len(picture) == 8 and 1 <= foreground <= 2
        for picture in heads(proposal_append_gt=False).label_and_sample_proposals([proposals(4), proposals(4)], truth()):
            assert len(picture) == 4


def test_the_number_of_classes_is_that_of_the_embeddings() -> None:
    made = heads()
    made.box_predictor.set_class_embeddings(vectors(11))
    assert made.num_classes == 11
    with EventStorage():
        sampled = made.label_and_sample_proposals([proposals(8), proposals(8)], truth())
    assert {11} < set(torch.cat([s.gt_classes for s in sampled]).tolist()) <= {0, 1, 11}, "background is the last"


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="region vectors are 16 wide and the box predictor takes 12: set its input_dim to 16"):
        heads(box_predictor=tiny_predictor(input_dim=12, embeddings=None))
    with pytest.raises(ConfigError, match="in training the inputs need 'instances'"):
        heads().train()(None, MAPS, [proposals(2), proposals(2)])
    made, given = heads(box_predictor=tiny_predictor(embeddings=None)), [proposals(2), proposals(2)]
    with pytest.raises(VocabularyError, match="no vocabulary is set: call set_class_embeddings before training"):
        made.train()(None, MAPS, given, truth())
    with pytest.raises(VocabularyError, match="no vocabulary is set"):
        made.eval()(None, MAPS, given)


def test_ground_truth_of_more_classes_than_names() -> None:
    """In the official code class K of a K-name model silently is background."""
    made = heads(box_predictor=tiny_predictor(embeddings=vectors(2)))
    with pytest.raises(VocabularyError, match=r"has class 2 and the vocabulary 2 names \(0-1\)"):
        made.train()(None, MAPS, [proposals(2), proposals(2)], truth(boxes=3))
    assert made.box_predictor.input_dim == DIM
