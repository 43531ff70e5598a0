"""Regions in the cheaper order: the same numbers as ROIAlign and the stage behind it, never out of date; where it stands back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor, nn

from regionclip.modeling import RegionFeatures, clip_stage
from regionclip.modeling.projected_regions import ProjectedRegions

from .test_clip_resnet import randomised
from .tiny import pooler, some_boxes, tiny_backbone

SHAPE = (2, 128, 5, 7)


def maps(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def boxes_of_all_kinds() -> list[Boxes]:
    """Inside, as large as the picture, over its edge, outside it, without area."""
    strange = [[0, 0, 112, 80], [-20, -9, 60, 40], [90, 70, 150, 120], [500, 500, 600, 600], [8, 8, 8, 40], [40, 8, 40, 8]]
    return [Boxes(torch.cat([some_boxes(4).tensor, torch.tensor(strange).float()])), some_boxes(3, 1)]


def region_features(size: int = 4, ratio: int = 0, **options: object) -> tuple[RegionFeatures, nn.Module]:
    torch.manual_seed(0)
    network = randomised(tiny_backbone(blocks=(1, 1, 1, 2)))
    align = ROIPooler(output_size=size, scales=(1 / 16,), sampling_ratio=ratio, pooler_type="ROIAlignV2")
    return RegionFeatures(pooler=align, **options).borrow(network).eval(), network


def plain(features: RegionFeatures, x: Tensor, boxes: list[Boxes]) -> Tensor:
    """The published order."""
    return features.res5(features.pooler([x], boxes))


def assert_near(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    assert float((found - wanted).abs().max()) < 1e-5 * max(float(wanted.abs().max()), 1.0)


@torch.no_grad()
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("size", [4, 5])  # average pooling drops a row and a column of 5
def test_the_order_changes_nothing(size: int, ratio: int) -> None:
    features, _ = region_features(size, ratio, chunk_size=4)
    x, boxes = maps(), boxes_of_all_kinds()
    assert ProjectedRegions.fits(features.res5, features.pooler, [x], boxes)
    assert_near(features.maps({"res4": x}, boxes), plain(features, x, boxes))


@torch.no_grad()
def test_a_stage_without_stride() -> None:
    stage = randomised(clip_stage(in_channels=128, channels=8, blocks=2, stride=1))
    features, boxes = RegionFeatures(pooler=pooler(), res5=stage), boxes_of_all_kinds()
    assert_near(features.maps({"res4": maps()}, boxes), plain(features, maps(), boxes))


@torch.no_grad()
def test_no_regions_at_all() -> None:
    features, _ = region_features()
    assert features.maps({"res4": maps()}, [Boxes(torch.zeros(0, 4))] * 2).shape == (0, 256, 2, 2)


def weights_in_place(network: nn.Module) -> None:
    network.layer4[0].conv1.weight.mul_(1.5)


def weights_behind_torchs_back(network: nn.Module) -> None:
    network.layer4[0].downsample[0].weight.data.mul_(-1)  # no version counter sees this


def norms_in_place(network: nn.Module) -> None:
    network.layer4[0].bn1.running_var.mul_(3)


def norms_replaced(network: nn.Module) -> None:
    network.layer4[1].bn3.bias = network.layer4[1].bn3.bias + 1


def loaded(network: nn.Module) -> None:
    network.load_state_dict(randomised(tiny_backbone(seed=9, blocks=(1, 1, 1, 2))).state_dict())


def trained(network: nn.Module) -> None:
    network.train()
    with torch.enable_grad():
        network.layer4(torch.randn(1, 128, 4, 4)).sum().backward()
    torch.optim.SGD(network.layer4.parameters(), lr=1e-3).step()
    network.eval()


CHANGES = [weights_in_place, weights_behind_torchs_back, norms_in_place, norms_replaced, loaded, trained]


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_folded_weights_are_never_out_of_date(change: Callable[[nn.Module], None], dtype: str) -> None:
    features, network = region_features(dtype=dtype)
    x, boxes = {"res4": maps()}, boxes_of_all_kinds()
    before = features.maps(x, boxes)
    change(network)
    after = features.maps(x, boxes)
    assert not torch.allclose(before, after, atol=1e-3)
    if dtype == "float32":
        assert_near(after, plain(features, x["res4"], boxes))
    fresh = RegionFeatures(pooler=features.pooler, dtype=dtype).borrow(network).eval()
    assert torch.equal(after, fresh.maps(x, boxes))


@torch.no_grad()
def test_other_types_of_numbers() -> None:
    features, network = region_features()
    x, boxes = maps(), boxes_of_all_kinds()
    before = features.maps({"res4": x}, boxes)
    network.double()
    assert torch.allclose(features.maps({"res4": x.double()}, boxes), before.double(), atol=1e-4)
    network.float()
    assert torch.equal(features.maps({"res4": x}, boxes), before)


def test_gradients_go_the_plain_way() -> None:
    features, network = region_features()
    x, boxes = maps().requires_grad_(), boxes_of_all_kinds()
    found = {}
    for way in (lambda: features.maps({"res4": x}, boxes), lambda: plain(features, x, boxes)):
        y = way()
        found[way] = (y.detach(), *torch.autograd.grad((y**2).sum(), [x, network.layer4[0].conv1.weight]))
    ours, theirs = found.values()
    for a, b in zip(ours, theirs, strict=True):
        assert_near(a, b)


def test_where_it_stands_back() -> None:
    features, network = region_features()
    x, boxes, stage, align = maps(), boxes_of_all_kinds(), network.layer4, features.pooler

    def fits(stage: nn.Module = stage, align: nn.Module = align, x: Tensor = x, boxes: list[Boxes] = boxes) -> bool:
        return ProjectedRegions.fits(stage, align, [x], boxes)

    assert not fits(), "a gradient is asked for"
    with torch.no_grad():
        assert fits()
        assert not fits(nn.Sequential(*stage)) and not fits(nn.Identity())
        assert not fits(clip_stage(in_channels=128, channels=32, blocks=1, stride=1)), "no convolution in the shortcut"
        assert not fits(x=x.double()) and not fits(x=x.to("meta"))
        assert not fits(boxes=[Boxes(torch.full((1, 4), float("nan")))])
        assert not fits(align=ROIPooler(4, (1 / 16,), 0, "ROIAlign")), "the form that is not aligned"
        assert not fits(align=ROIPooler(4, (1 / 8, 1 / 16), 0, "ROIAlignV2")) and not fits(align=nn.Identity())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not fits()
        seen: list[nn.Module] = []
        handle = stage[1].register_forward_hook(lambda m, *_: seen.append(m))
        features.maps({"res4": x}, boxes)
        assert seen == [stage[1]], "a hook is called"
        handle.remove()
        assert fits()
