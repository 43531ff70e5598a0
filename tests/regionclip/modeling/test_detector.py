"""The whole detector: regions, batches, masks, training, and errors that name the cause (names: test_detector_names)."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess

from openvocab.errors import ConfigError, DataError
from openvocab.testing import tiny_picture
from regionclip.modeling import CLIP_MEAN, CLIP_STD, RegionCLIP, RegionFeatures, RegionPostProcessor

from .tiny import (
    NAMES,
    assert_same,
    build_tiny,
    detect,
    pooler,
    proposals,
    sample,
    tiny_backbone,
    tiny_heads,
    tiny_predictor,
    tiny_rpn,
)

# ---- regions --------------------------------------------------------------------------------------------------------


def test_detections_in_the_size_asked_for() -> None:
    found, doubled = detect(build_tiny(), sample(), sample(height=128, width=192))
    assert found.image_size == (64, 96) and doubled.image_size == (128, 192)
    assert 0 < len(found) <= 20 and set(found.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
    assert (found.scores[1:] <= found.scores[:-1]).all() and int(found.pred_classes.max()) < len(NAMES)
    assert torch.allclose(doubled.pred_boxes.tensor, 2 * found.pred_boxes.tensor, atol=1e-3)


def test_proposals_that_are_given_go_before_the_rpn() -> None:
    model = build_tiny()
    own = model.offline_rpn([sample()["image"]])[0]
    (free,), (given,) = detect(model, sample()), detect(model, sample(proposals=own))
    assert_same(free, given)
    model.offline_rpn = None
    (again,) = detect(model, sample(proposals=own))
    assert_same(free, again)
    (other,) = detect(model, sample(proposals=proposals(3)))
    assert len(other) and not torch.equal(other.scores, free.scores)


def test_some_pictures_bring_proposals() -> None:
    model, asked = build_tiny(), []
    model.offline_rpn.register_forward_pre_hook(lambda _, args: asked.append(len(args[0])))
    inputs = [sample(0), sample(1, proposals=proposals(4)), sample(2)]
    mixed = detect(model, *inputs)
    assert asked == [2]
    for x, found in zip(inputs, mixed, strict=True):
        assert_same(found, detect(model, x)[0])


def test_boxes_of_the_ground_truth_are_never_moved() -> None:
    heads = tiny_heads(box_predictor=tiny_predictor(postprocessor=RegionPostProcessor(score_threshold=0.0, nms_threshold=1.0)))
    torch.nn.init.normal_(heads.box_predictor.bbox_pred.weight)
    model, x = build_tiny(roi_heads=heads, rpn=None, regions="gt"), sample(boxes=3)
    (found,) = detect(model, x)
    assert len(found) == 3 * len(NAMES)
    distance = torch.cdist(found.pred_boxes.tensor, x["instances"].gt_boxes.tensor, p=float("inf")).min(dim=1).values
    assert float(distance.max()) < 1e-3
    losses = model.train()([x])
    assert losses["loss_cls"] > 0, "they are proposals in training, too"


def test_pictures_without_a_box() -> None:
    found = detect(build_tiny(mask=True), sample(proposals=proposals(0)), sample(1, proposals=proposals(2)))
    assert len(found[0]) == 0 and len(found[1]) > 0 and found[0].pred_masks.shape == (0, 64, 96)


# ---- batches --------------------------------------------------------------------------------------------------------


def test_the_other_pictures_of_a_batch_do_not_matter() -> None:
    """But for the frame that they are padded to: maps see a bit of it, as in the official code."""
    model, sizes = build_tiny(), [(64, 96), (80, 64), (64, 64)]
    inputs = [sample(i, size=s) for i, s in enumerate(sizes)]
    together = detect(model, *inputs)
    for i, found in enumerate(together):
        others = [x if j == i else {"image": torch.zeros_like(x["image"])} for j, x in enumerate(inputs)]
        assert len(found) and found.image_size == sizes[i]
        assert_same(found, detect(model, *others)[i])


def test_a_batch_is_its_pictures_one_by_one() -> None:
    model, inputs = build_tiny(), [sample(i) for i in range(3)]
    for x, found in zip(inputs, detect(model, *inputs), strict=True):
        assert_same(found, detect(model, x)[0])


def test_pictures_are_normalised_then_padded_with_zeros() -> None:
    model, pictures = build_tiny(), [tiny_picture(64, 96), tiny_picture(80, 64)]
    batch = model.preprocess(pictures)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    assert batch.shape == (2, 3, 80, 96)
    assert torch.allclose(batch[1, :, :80, :64], (pictures[1] - mean) / std, atol=1e-5)
    assert not batch[0, :, 64:].any() and not batch[1, :, :, 64:].any()
    # CLIP's own constants, in 0-255
    assert [m / 255 for m in CLIP_MEAN] == pytest.approx([0.48145466, 0.4578275, 0.40821073], abs=1e-7)
    assert [s / 255 for s in CLIP_STD] == pytest.approx([0.26862954, 0.26130258, 0.27577711], abs=1e-7)


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [False, True])
def test_training_makes_the_loss_fall(mask: bool) -> None:
    torch.manual_seed(0)
    model, batch = build_tiny(mask=mask).train(), [sample(i, mask=mask) for i in range(2)]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02, momentum=0.9)
    seen = []
    for _ in range(12):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        seen.append(sum(losses.values()).item())
    assert set(losses) == {"loss_cls", "loss_box_reg"} | ({"loss_mask"} if mask else set())
    assert sum(seen[-3:]) < 0.8 * sum(seen[:3])


def test_what_is_trained() -> None:
    """Stem, layer1, norms, RPN and text embeddings stay; all else gets a gradient."""
    model = build_tiny(mask=True).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sum(model([sample(mask=True)]).values()).backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None}
    assert trained == {n for n, p in model.named_parameters() if p.requires_grad}
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed <= trained
    assert {n.partition(".")[0] for n in trained} == {"backbone", "roi_heads"}
    assert not any(n.startswith(("backbone.conv", "backbone.layer1.")) or ".bn" in n for n in trained)
    kinds = {".".join(n.split(".")[:2]) for n in trained}
    assert kinds == {
        "backbone.layer2", "backbone.layer3", "backbone.layer4", "backbone.attnpool", "roi_heads.box_predictor",
        "roi_heads.mask_head",
    }  # fmt: skip


def test_masks_of_detections() -> None:
    (found,) = detect(build_tiny(mask=True), sample(height=128, width=192))
    assert found.pred_masks.shape == (len(found), 128, 192) and found.pred_masks.dtype is torch.bool
    for mask, box in zip(found.pred_masks, found.pred_boxes.tensor, strict=True):
        rows, columns = torch.nonzero(mask, as_tuple=True)
        if len(rows):
            assert columns.min() >= box[0] - 1 and columns.max() <= box[2] and rows.min() >= box[1] - 1 and rows.max() <= box[3]


def test_a_copy_is_whole() -> None:
    model = build_tiny()
    twin = copy.deepcopy(model)
    assert twin.roi_heads.region_features.res5 is twin.backbone.layer4
    assert_same(*(detect(m, sample())[0] for m in (model, twin)), atol=0)
    assert set(twin.state_dict()) == set(model.state_dict())
    assert {k.partition(".")[0] for k in model.state_dict()} == {"backbone", "roi_heads", "offline_rpn"}


def test_postprocessing_is_detectron2s() -> None:
    model, x = build_tiny(), sample(proposals=proposals(5))
    with torch.no_grad():
        features = model.eval().backbone(model.preprocess([x["image"]]))
        found = model.roi_heads.predict(features, [x["proposals"]])[0]
    assert_same(detector_postprocess(found, 32, 48), detect(model, {**x, "height": 32, "width": 48})[0])


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_no_boxes_to_look_at() -> None:
    with pytest.raises(DataError, match="3.png brings no 'proposals'; build the model with an offline_rpn, or give them"):
        detect(build_tiny(rpn=None), sample(3))
    with pytest.raises(DataError, match="picture 0 of the batch brings no 'instances'; keep the annotations at test time"):
        detect(build_tiny(rpn=None, regions="gt"), {"image": tiny_picture(64, 96)})
    with pytest.raises(DataError, match="in training each input needs 'instances'"):
        build_tiny().train()([{"image": tiny_picture(64, 96)}])


@pytest.mark.parametrize("fusion", ["sqrt_logit", "sqrt_sigmoid"])
def test_true_boxes_have_no_rpn_score_to_multiply_with(fusion: str) -> None:
    heads = tiny_heads(box_predictor=tiny_predictor(postprocessor=RegionPostProcessor(score_fusion=fusion)))
    with pytest.raises(ConfigError, match=f"regions='gt' with score_fusion='{fusion}': .*set score_fusion='none'"):
        build_tiny(roi_heads=heads, regions="gt")


def test_options_that_are_not_known() -> None:
    with pytest.raises(ConfigError, match="regions='random' must be one of rpn, gt, input_format='RGB'"):
        build_tiny(regions="random")
    with pytest.raises(ConfigError, match="input_format='HSV' RGB or BGR"):
        build_tiny(input_format="HSV")
    with pytest.raises(ConfigError, match="is of pictures in 0-1, as in official configs; .* multiply .* by 255"):
        build_tiny(pixel_mean=[0.48, 0.46, 0.41], pixel_std=[0.27, 0.26, 0.28])


def test_a_backbone_without_region_layers_and_a_pooler_of_another_clip() -> None:
    with pytest.raises(ConfigError, match="has no layer4 and attnpool to lend"):
        RegionCLIP(backbone=tiny_backbone(region_layers=False), roi_heads=tiny_heads(), offline_rpn=tiny_rpn())
    heads = tiny_heads(region_features=RegionFeatures(pooler=pooler(14)))
    with pytest.raises(ConfigError, match="gives 14 x 14 cells; .* needs a pooler of 4"):
        build_tiny(roi_heads=heads)
