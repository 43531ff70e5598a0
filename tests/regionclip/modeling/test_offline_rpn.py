"""The offline RPN: its own pictures, its own mode, no gradients; three kinds, and a user's own."""

from __future__ import annotations

import logging

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.structures import ImageList
from torchvision.ops import box_iou

from openvocab.errors import ConfigError
from openvocab.testing import tiny_picture
from regionclip.modeling import build_offline_rpn, offline_rpn_from_cfg
from regionclip.modeling.offline_rpn import BGR_MEAN, FrozenBottleneck

from .tiny import build_tiny, tiny_rpn

PICTURES = [tiny_picture(64, 96, 0), tiny_picture(80, 64, 1)]


@pytest.mark.parametrize("kind", ["c4", "fpn", "fpn_lsj"])
def test_proposals_of_each_kind(kind: str) -> None:
    found = tiny_rpn(kind)(PICTURES)
    for p, picture in zip(found, PICTURES, strict=True):
        assert p.image_size == tuple(picture.shape[1:]) and 0 < len(p) <= 12
        boxes, (height, width) = p.proposal_boxes.tensor, p.image_size
        assert (boxes >= 0).all() and (boxes[:, 0::2] <= width).all() and (boxes[:, 1::2] <= height).all()
        assert (p.objectness_logits[1:] <= p.objectness_logits[:-1]).all()


@torch.no_grad()
def test_folded_norms_are_detectron2s_numbers() -> None:
    torch.manual_seed(0)
    shape = {"in_channels": 6, "out_channels": 8, "bottleneck_channels": 4, "stride": 2, "stride_in_1x1": True, "norm": "FrozenBN"}
    theirs, ours = BottleneckBlock(**shape), FrozenBottleneck(**shape)
    for norm in (m for m in theirs.modules() if isinstance(m, FrozenBatchNorm2d)):
        for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            value.uniform_(0.5, 2)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 6, 9, 8)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    theirs.conv3.norm.bias.add_(1)
    ours.conv3.norm.bias.data.add_(1)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5), "a change counts at once"


@torch.no_grad()
def test_pictures_are_turned_to_bgr_and_lose_its_mean() -> None:
    rpn, seen = tiny_rpn("fpn"), []
    rpn.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    rpn(PICTURES)
    assert seen[0].shape == (2, 3, 96, 96), "padded to the FPN's 32"
    wanted = PICTURES[1].flip(0).float() - torch.tensor(BGR_MEAN).view(3, 1, 1)
    assert torch.allclose(seen[0][1, :, :80, :64], wanted) and not seen[0][1, :, 80:].any()
    bgr = tiny_rpn("fpn", image_format="BGR")
    for a, b in zip(rpn(PICTURES), bgr([p.flip(0) for p in PICTURES]), strict=True):
        assert torch.equal(a.proposal_boxes.tensor, b.proposal_boxes.tensor)


def test_c4_pictures_are_not_padded_further() -> None:
    rpn, seen = tiny_rpn("c4"), []
    rpn.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    rpn(PICTURES)
    assert seen == [(2, 3, 80, 96)]


def test_frozen_and_always_in_evaluation() -> None:
    model = build_tiny().train()
    rpn = model.offline_rpn
    assert model.training and not any(m.training for m in rpn.modules())
    assert not any(p.requires_grad for p in rpn.parameters())
    found = rpn(PICTURES)
    assert not found[0].proposal_boxes.tensor.requires_grad and not found[0].objectness_logits.requires_grad


def test_training_and_evaluation_propose_alike() -> None:
    rpn = tiny_rpn()
    evaluated, trained = rpn.eval()(PICTURES), rpn.train()(PICTURES)
    assert all(torch.equal(a.proposal_boxes.tensor, b.proposal_boxes.tensor) for a, b in zip(evaluated, trained, strict=True))


def test_limits() -> None:
    assert len(tiny_rpn(post_nms_topk=5)(PICTURES)[0]) == 5
    picture = tiny_picture(256, 384)
    for threshold in (0.9, 0.3):
        found = tiny_rpn(nms_thresh=threshold, post_nms_topk=1000)([picture])[0].proposal_boxes.tensor
        ious = box_iou(found, found).fill_diagonal_(0)
        assert threshold - 0.3 < float(ious.max()) <= threshold


def test_random_weights_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tiny_rpn()(PICTURES)
    assert "random weights" in caplog.text and "--rpn" in caplog.text
    caplog.clear()
    rpn = tiny_rpn()
    rpn.load_state_dict(tiny_rpn(seed=6).state_dict())
    with caplog.at_level(logging.WARNING):
        rpn(PICTURES)
    assert "random weights" not in caplog.text


def test_a_users_own_network() -> None:
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 7
    rpn = offline_rpn_from_cfg(cfg)
    assert rpn.flip and rpn.pixel_mean.flatten().tolist() == pytest.approx(cfg.MODEL.PIXEL_MEAN)
    images = [(p.flip(0).float() - rpn.pixel_mean) for p in PICTURES]
    batch = ImageList.from_tensors(images, rpn.backbone.size_divisibility)
    with torch.no_grad():
        wanted = rpn.proposal_generator(batch, rpn.backbone(batch.tensor), None)[0]
    for a, b in zip(rpn(PICTURES), wanted, strict=True):
        # pixels; not to the last bit: ours lays the maps out channels last
        assert len(a) == 7 and torch.allclose(a.proposal_boxes.tensor, b.proposal_boxes.tensor, atol=5e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"kind": "lsj"}, "kind='lsj' is not one of c4, fpn, fpn_lsj"), ({"depth": 34}, "depth=34 is not one of 50, 101")],
)
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_offline_rpn(**options)
    with pytest.raises(ConfigError, match="image_format='HSV'"):
        build_offline_rpn(image_format="HSV")
