"""Masks of the whole detector: pooling, which boxes teach, batches, sizes, referring phrases, freezing."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import BitMasks, Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st

from glipv2 import add_glipv2_config
from glipv2.modeling import GLIPv2, GLIPv2MaskHead, MaskBranch, MaskConvs, MaskPooler, RegionWordAlignment
from openvocab.errors import ConfigError
from openvocab.prompting import Caption
from openvocab.vocabulary import Vocabulary

from .conftest import CHANNELS, LANG, build_tiny, picture

WHOLE = Caption("the red circle left of the square", (((0, 33),),))


def build_branch(**changes: object) -> MaskBranch:
    """A branch that fits `build_tiny`."""
    torch.manual_seed(1)
    alignment = RegionWordAlignment(channels=CHANNELS, lang_dim=LANG, prior_prob=None)
    head = GLIPv2MaskHead(trunk=MaskConvs(channels=CHANNELS, num_convs=1), alignment=alignment, channels=CHANNELS)
    return MaskBranch(**{"pooler": MaskPooler(), "head": head, **changes})


def build(branch: dict | None = None, **changes: object) -> GLIPv2:
    """A tiny detector with masks; plain convolutions, for speed."""
    return build_tiny(mask_branch=build_branch(**(branch or {})), deformable=False, **changes)


def sample(height: int, width: int, seed: int = 0, **more: object) -> dict:
    """A training input with two boxes and their masks."""
    result = Instances((height, width))
    result.gt_boxes = Boxes(torch.tensor([[4.0, 6.0, 60.0, 50.0], [30.0, 20.0, 90.0, 80.0]]))
    result.gt_classes = torch.tensor([0, 1])
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, 6:50, 4:30], masks[1, 20:50, 30:90] = True, True
    result.gt_masks = BitMasks(masks)
    names = Vocabulary.from_names(["cat", "dog"])
    return {"image": picture(height, width, seed), "instances": result, "vocabulary": names, **more}


def detect(model: GLIPv2, inputs: list[dict]) -> list[Instances]:
    with torch.no_grad():
        return [x["instances"] for x in model.eval()(inputs)]


# ---- pooling ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(
    corners=st.lists(st.tuples(*[st.floats(0, 500, width=32)] * 2, *[st.floats(1, 700, width=32)] * 2), max_size=6),
    first=st.integers(0, 6),
)
def test_aligned_pooling_is_detectron2s(corners: list[tuple], first: int) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 3, 128 // 2**i, 160 // 2**i, generator=generator) for i in range(5)]
    boxes = torch.tensor(corners).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    parts = [boxes[:first], boxes[first:]]
    theirs = ROIPooler(7, [1 / s for s in (8, 16, 32, 64, 128)], 2, "ROIAlignV2")
    ours = MaskPooler(output_size=7)
    assert torch.allclose(ours(maps, parts), theirs(maps, [Boxes(b) for b in parts]), atol=1e-5)


def test_a_published_box_ends_at_its_last_pixel() -> None:
    """A map that grows by one a cell: the value is the mean position in cells, so the reading shows in it."""
    ramp = torch.arange(20.0).expand(1, 1, 20, 20).contiguous()
    box = [torch.tensor([[16.0, 16.0, 49.0, 49.0]])]
    aligned, official = (MaskPooler(strides=(8,), official=o)([ramp], box).mean() for o in (False, True))
    assert float(aligned) == pytest.approx((16 + 49) / 2 / 8 - 0.5, abs=1e-4)
    assert float(official) == pytest.approx((16 + 48) / 2 / 8, abs=1e-4)


def test_strides_must_be_a_pyramid() -> None:
    for strides in ((8, 32), (10, 20), (), (16, 8)):
        with pytest.raises(ConfigError, match="twice"):
            MaskPooler(strides=strides)


# ---- which boxes teach --------------------------------------------------------------------------------------------


def test_true_boxes_and_those_near_them_teach() -> None:
    truth = sample(96, 96)["instances"]
    near, far = torch.tensor([[32.0, 20.0, 90.0, 80.0]]), torch.tensor([[0.0, 60.0, 20.0, 90.0]])
    chosen = build_branch().select(truth, torch.cat([far, near]))
    assert chosen.gt_classes.tolist() == [0, 1, 1]
    assert torch.equal(chosen.proposal_boxes.tensor, torch.cat([truth.gt_boxes.tensor, near]))
    assert torch.equal(chosen.gt_masks.tensor[2], truth.gt_masks.tensor[1])
    assert len(build_branch(max_boxes=1).select(truth, near)) == 1
    assert len(build_branch().select(truth[:0], near)) == 0


def test_two_things_in_one_box_keep_their_masks() -> None:
    truth = sample(96, 96)["instances"]
    truth.gt_boxes = Boxes(truth.gt_boxes.tensor[[1, 1]])
    assert build_branch().select(truth, torch.zeros(0, 4)).gt_classes.tolist() == [0, 1]


# ---- the detector -------------------------------------------------------------------------------------------------


def test_masks_have_the_size_of_the_picture_and_lie_in_their_boxes() -> None:
    x = {"image": picture(96, 128), "vocabulary": Vocabulary.from_names(["cat", "dog"]), "height": 48, "width": 200}
    found = detect(build(), [x])[0]
    assert len(found) and found.pred_masks.shape == (len(found), 48, 200) and found.pred_masks.dtype == torch.bool
    for box, mask in zip(found.pred_boxes.tensor, found.pred_masks, strict=True):
        ys, xs = mask.nonzero(as_tuple=True)
        if len(xs):
            assert xs.min() >= box[0] - 1 and xs.max() <= box[2] + 1 and ys.min() >= box[1] - 1 and ys.max() <= box[3] + 1


def test_a_batch_equals_its_pictures_alone() -> None:
    names = Vocabulary.from_names(["red bus", "dog", "tree house"])
    inputs = [{"image": picture(96, 128), "caption": WHOLE}, {"image": picture(90, 120, 1), "vocabulary": names}]
    model = build()
    for together, x in zip(detect(model, inputs), inputs, strict=True):
        alone = detect(model, [x])[0]
        assert len(alone) == len(together) > 0
        assert (alone.pred_masks != together.pred_masks).float().mean() < 1e-4


def test_boxes_are_as_without_masks() -> None:
    x = {"image": picture(96, 128), "vocabulary": Vocabulary.from_names(["cat", "dog"])}
    with_masks, plain = build(), build_tiny(deformable=False)
    plain.load_state_dict(with_masks.state_dict(), strict=False)
    found, expected = detect(with_masks, [x])[0], detect(plain, [x])[0]
    assert torch.equal(found.scores, expected.scores) and not expected.has("pred_masks")


def test_nothing_found_has_no_masks() -> None:
    model = build()
    model.postprocessor.score_threshold = 1.0
    found = detect(model, [{"image": picture(64, 64), "caption": WHOLE}])[0]
    assert found.pred_masks.shape == (0, 64, 64)


@pytest.mark.parametrize("branch", [{}, {"fused": False}, {"detach": True}])
def test_losses_and_their_reach(branch: dict) -> None:
    model = build(branch).train()
    losses = model([sample(96, 128), sample(128, 96, 1)])
    assert set(losses) == {"loss_alignment", "loss_box", "loss_centerness", "loss_mask"}
    losses["loss_mask"].backward()
    reached = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum()}
    assert reached == ({"mask_branch"} if branch.get("detach") else {"backbone", "head", "mask_branch"})


def test_every_parameter_is_reached() -> None:
    for inputs in ([sample(96, 128)], [without_boxes(sample(96, 128))]):
        model = build().train()
        sum(model(inputs).values()).backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def without_boxes(x: dict) -> dict:
    return {**x, "instances": x["instances"][torch.zeros(2, dtype=torch.bool)]}


def test_a_referring_phrase_teaches() -> None:
    x = sample(96, 128, caption=WHOLE)
    x["instances"] = x["instances"][[0]]
    assert build().train()([x])["loss_mask"] > 0


def test_a_frozen_detector_stays_as_it_is() -> None:
    model = build(frozen_detector=True).train()
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"mask_branch"}
    assert not model.backbone.training and not model.head.training and model.mask_branch.training
    losses = model([sample(96, 128)])
    assert set(losses) == {"loss_mask"}
    losses["loss_mask"].backward()
    with pytest.raises(ConfigError, match="mask_branch"):
        build_tiny(frozen_detector=True)


def test_16_bits() -> None:
    """Boxes keep their digits; the loss stays near that of 32."""
    exact, rounded = (build().train() for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = rounded([sample(96, 128)])["loss_mask"]
    loss.backward()
    assert torch.isfinite(loss) and abs(float(loss.detach() - exact([sample(96, 128)])["loss_mask"])) < 0.05
    assert all(torch.isfinite(p.grad).all() for p in rounded.mask_branch.parameters())


def test_yaml_with_masks() -> None:
    """MODEL.MASK_ON is the switch, as in detectron2's own configs."""
    cfg = get_cfg()
    add_glipv2_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE, cfg.MODEL.MASK_ON = "GLIPv2", "cpu", True
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.TIMM.NAME = "build_timm_fpn_backbone", 32, "test_efficientnet"
    options = {"NUM_BLOCKS": 1, "OFFICIAL": False, "DEFORMABLE": False, "TEXT_ENCODER": "hashed", "LANGUAGE_HEADS": 2}
    for key, value in {**options, "ATTENTION_DIM": 32, "ATTENTION_HEADS": 2, "LANGUAGE_FFN": 32, "MASK_FUSED": False}.items():
        setattr(cfg.MODEL.GLIPV2, key, value)
    model = build_model(cfg)
    branch = model.mask_branch
    assert not branch.fused and not branch.pooler.official and branch.pooler.strides == (8, 16, 32, 64, 128)
    assert branch.head.alignment.projection.in_features == model.text_encoder.dim and len(branch.head.trunk.layers) == 4
    cfg.MODEL.MASK_ON = False
    assert build_model(cfg).mask_branch is None


def test_masks_are_learned() -> None:
    """Two shapes that differ from their boxes: the left half of one, the upper half of the other."""
    model, batch = build(frozen_detector=True).train(), [sample(96, 128)]
    optimizer = torch.optim.AdamW(model.mask_branch.parameters(), lr=1e-2)
    history = []
    for _ in range(15):
        loss = model(batch)["loss_mask"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[-1] < 0.7 * history[0]
