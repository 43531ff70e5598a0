"""The mask head by itself: phrases, loss, empty pictures, a stock R-CNN, the yaml form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import build_mask_head
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from glipv2 import add_glipv2_config
from glipv2.modeling import GLIPv2MaskHead, MaskConvs, MaskHourglasses, RegionWordAlignment
from glipv2.modeling.mask_head import PhraseWords, mask_loss
from openvocab.errors import ConfigError, DataError, VocabularyError
from openvocab.modeling import set_class_embeddings

CHANNELS, LANG, SIDE = 8, 12, 14


def build_head(trunk: nn.Module | None = None, seed: int = 0) -> GLIPv2MaskHead:
    """A head with random weights, no bias of it zero."""
    torch.manual_seed(seed)
    alignment = RegionWordAlignment(channels=CHANNELS, lang_dim=LANG, log_scale=0.3, prior_prob=None)
    head = GLIPv2MaskHead(trunk=trunk or MaskConvs(channels=CHANNELS, num_convs=2), alignment=alignment, channels=CHANNELS)
    for parameter in head.parameters():
        if parameter.ndim == 1 and len(parameter) > 1:
            nn.init.normal_(parameter, std=0.3)
    return head


def truth(count: int, classes: int = 2, size: int = 32, seed: int = 0) -> Instances:
    """`count` random boxes with random masks."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 10
    boxes = torch.cat([low, low + 5 + torch.rand(count, 2, generator=generator) * 15], dim=1)
    result = Instances((size, size), proposal_boxes=Boxes(boxes))
    result.gt_classes = torch.arange(count) % classes
    result.gt_masks = BitMasks(torch.rand(count, size, size, generator=generator) > 0.5)
    return result


@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_a_phrase_is_the_mean_of_its_tokens(data: st.DataObject) -> None:
    """The published order: logits of all tokens, then their mean."""
    tokens, phrases = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 4))
    rows = st.lists(st.booleans(), min_size=tokens, max_size=tokens).filter(any)
    token_map = torch.tensor([data.draw(rows) for _ in range(phrases)])
    head, generator = build_head(), torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    hidden = torch.randn(tokens, LANG, generator=generator)
    pixels = torch.randn(phrases, CHANNELS, 6, 6, generator=generator)
    with torch.no_grad():
        ours = head.logits(pixels, head.words(hidden, token_map))
        normed = F.normalize(hidden, dim=-1)
        vectors, bias = head.alignment.projection(normed / 2), normed @ head.alignment.bias_lang
        each = torch.einsum("rchw,tc->rthw", pixels, vectors) / head.alignment.log_scale.exp() + bias[None, :, None, None]
    for row in range(phrases):
        assert torch.allclose(ours[row], each[row, token_map[row]].mean(dim=0), atol=1e-5)


@pytest.mark.parametrize("trunk", [MaskConvs(channels=CHANNELS, num_convs=3, num_groups=4),
                                   MaskHourglasses(channels=CHANNELS, num_blocks=2, num_groups=2)])  # fmt: skip
def test_shapes_and_gradients(trunk: nn.Module) -> None:
    torch.manual_seed(4)  # one with which no layer of few channels is dead, whatever the state when tests were collected
    for module in trunk.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    head = build_head(trunk).train()
    features = torch.randn(5, CHANNELS, SIDE, SIDE)
    words = head.words(torch.randn(6, LANG), torch.eye(6, dtype=torch.bool)[:2])
    losses = head(features, [truth(2), truth(3, seed=1)], [words, words])
    losses["loss_mask"].backward()
    assert set(losses) == {"loss_mask"} and torch.isfinite(losses["loss_mask"])
    assert [n for n, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    found = [Instances((32, 32), pred_classes=torch.tensor([1, 0])), Instances((32, 32), pred_classes=torch.tensor([0, 0, 1]))]
    with torch.no_grad():
        result = head.eval()(features, found, [words, words])
    assert [r.pred_masks.shape for r in result] == [(2, 1, 28, 28), (3, 1, 28, 28)]
    assert all(0 < float(m) < 1 for r in result for m in r.pred_masks.flatten()[:20])


@pytest.mark.parametrize("trunk", [None, MaskHourglasses(channels=CHANNELS, num_blocks=1, num_groups=2)])
def test_no_boxes_cost_nothing_and_reach_every_parameter(trunk: nn.Module | None) -> None:
    """Where other processes have boxes, this one must still take part in the sum of gradients."""
    head = build_head(trunk).train()
    words = head.words(torch.randn(3, LANG), torch.eye(3, dtype=torch.bool))
    loss = head(torch.zeros(0, CHANNELS, SIDE, SIDE), [truth(0)], [words])["loss_mask"]
    loss.backward()
    assert loss == 0 and all(p.grad is not None for p in head.parameters())


def test_the_loss_is_the_mean_over_boxes_with_a_mask() -> None:
    logits, both = torch.randn(5, 28, 28), [truth(2), truth(3, seed=1)]
    targets = torch.cat([t.gt_masks.crop_and_resize(t.proposal_boxes.tensor, 28) for t in both]).float()
    assert torch.allclose(mask_loss(logits, both), F.binary_cross_entropy_with_logits(logits, targets))
    both[0].gt_is_box_mask, both[1].gt_is_box_mask = torch.tensor([True, False]), torch.tensor([False, False, True])
    kept = [1, 2, 3]
    assert torch.allclose(mask_loss(logits, both), F.binary_cross_entropy_with_logits(logits[kept], targets[kept]))
    both[0].gt_is_box_mask, both[1].gt_is_box_mask = torch.ones(2, dtype=torch.bool), torch.ones(3, dtype=torch.bool)
    assert mask_loss(logits, both) == 0


def test_polygons_teach_too() -> None:
    sample = truth(1)
    left, top, right, bottom = sample.proposal_boxes.tensor[0].tolist()
    sample.gt_masks = PolygonMasks([[[left, top, right, top, right, bottom, left, bottom]]])
    loss = mask_loss(torch.full((1, 28, 28), 5.0), [sample])
    assert float(loss) == pytest.approx(float(F.softplus(torch.tensor(-5.0))), rel=0.02)


def test_pictures_without_masks_are_refused() -> None:
    sample = truth(1)
    sample.remove("gt_masks")
    with pytest.raises(DataError, match="with_masks=True"):
        mask_loss(torch.zeros(1, 28, 28), [sample])


def test_it_is_a_mask_head_of_a_stock_rcnn() -> None:
    """As `StandardROIHeads` calls it, with class embeddings for words."""
    head = build_head()
    assert ROI_MASK_HEAD_REGISTRY.get("GLIPv2MaskHead") is GLIPv2MaskHead
    features = torch.randn(2, CHANNELS, SIDE, SIDE)
    with pytest.raises(VocabularyError, match="set_class_embeddings"):
        head(features, [truth(2)])
    assert set_class_embeddings(nn.Sequential(head), torch.randn(3, LANG)) == 1
    assert head.train()(features, [truth(2)])["loss_mask"] > 0
    found = Instances((32, 32), pred_boxes=truth(2).proposal_boxes, pred_classes=torch.tensor([2, 0]))
    assert head.eval()(features, [found])[0].pred_masks.shape == (2, 1, 28, 28)
    with pytest.raises(VocabularyError, match="class 3.*3 names"):
        head(features, [Instances((32, 32), pred_classes=torch.tensor([3, 0]))])
    with pytest.raises(VocabularyError, match="expected"):
        head.set_class_embeddings(torch.randn(3, LANG + 1))


def test_in_standard_roi_heads() -> None:
    from detectron2.modeling.roi_heads import StandardROIHeads

    roi_heads = StandardROIHeads(
        box_in_features=["p3"], box_pooler=nn.Identity(), box_head=nn.Identity(), box_predictor=nn.Identity(),
        mask_in_features=["p3", "p4"], mask_pooler=ROIPooler(14, [1 / 8, 1 / 16], 2, "ROIAlignV2"), mask_head=build_head(),
        num_classes=3, batch_size_per_image=8, positive_fraction=0.5, proposal_matcher=None,
    )  # fmt: skip
    set_class_embeddings(roi_heads, torch.randn(3, LANG))
    maps = {"p3": torch.randn(1, CHANNELS, 8, 8), "p4": torch.randn(1, CHANNELS, 4, 4)}
    found = Instances((64, 64), pred_boxes=Boxes(torch.tensor([[4.0, 4.0, 60.0, 30.0]])), pred_classes=torch.tensor([1]))
    assert roi_heads.eval().forward_with_given_boxes(maps, [found])[0].pred_masks.shape == (1, 1, 28, 28)


@pytest.mark.parametrize("hourglass", [False, True])
def test_yaml(hourglass: bool) -> None:
    cfg = get_cfg()
    add_glipv2_config(cfg)
    cfg.MODEL.ROI_MASK_HEAD.NAME = "GLIPv2MaskHead"
    cfg.MODEL.GLIPV2.MASK_WORD_DIM, cfg.MODEL.GLIPV2.MASK_HOURGLASS = LANG, hourglass
    head = build_mask_head(cfg, ShapeSpec(channels=32))
    assert len(head.trunk.blocks if hourglass else head.trunk.layers) == 4
    words = PhraseWords(torch.randn(4, 32), torch.zeros(4))
    found = head.eval()(torch.randn(1, 32, SIDE, SIDE), [Instances((9, 9), pred_classes=torch.tensor([3]))], [words])
    assert found[0].pred_masks.shape == (1, 1, 28, 28)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_groups=3"):
        MaskConvs(channels=8, num_groups=3)
    with pytest.raises(ConfigError, match="num_groups=16"):
        MaskHourglasses(channels=8)
    with pytest.raises(ConfigError, match="depth=0"):
        MaskHourglasses(channels=32, depth=0)
