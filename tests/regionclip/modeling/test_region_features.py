"""Regions through res5 and the attention pool: whose layers, in what chunks, and what does not fit."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.structures import Boxes
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.errors import ConfigError
from openvocab.testing import TinyBackbone
from regionclip.modeling import AttentionPool2d, RegionFeatures, clip_stage
from regionclip.modeling.region_features import chunks

from .tiny import CHANNELS, DIM, SIDE, pooler, some_boxes, tiny_backbone

MAPS = {"res4": torch.randn(2, 128, 4, 6, generator=torch.Generator().manual_seed(0))}


def own_layers(attnpool: bool = True) -> dict:
    torch.manual_seed(0)
    layers = {"res5": clip_stage(in_channels=128, channels=64, blocks=1)}
    return layers | ({"attnpool": AttentionPool2d(side=SIDE, channels=CHANNELS, heads=4, out_channels=DIM)} if attnpool else {})


def borrowed(**options: object) -> RegionFeatures:
    return RegionFeatures(pooler=pooler(), **options).borrow(tiny_backbone())


def test_shapes_and_the_way_through() -> None:
    features, boxes = borrowed(), [some_boxes(3), some_boxes(2, 1)]
    maps, found = features.maps(MAPS, boxes), features(MAPS, boxes)
    assert maps.shape == (5, CHANNELS, SIDE, SIDE) and found.shape == (5, DIM) and found.dtype is torch.float32
    assert features.out_channels == DIM
    assert torch.allclose(found, features.vectors(maps), atol=1e-6)
    network = tiny_backbone()
    assert torch.allclose(maps, network.layer4(pooler()([MAPS["res4"]], boxes)), atol=1e-5)
    tensors = features(MAPS, [b.tensor for b in boxes])
    assert torch.equal(tensors, found), "bare tensors of boxes will do"


@torch.no_grad()
@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(0, 7), min_size=2, max_size=2), size=st.integers(1, 9))
def test_chunks_change_nothing(counts: list[int], size: int) -> None:
    boxes = [some_boxes(n, i) for i, n in enumerate(counts)]
    whole = borrowed(chunk_size=10**6)(MAPS, boxes)
    assert whole.shape == (sum(counts), DIM)
    assert torch.allclose(borrowed(chunk_size=size)(MAPS, boxes), whole, atol=1e-5)


@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=4), size=st.integers(1, 7))
def test_cuts_are_whole_and_in_order(counts: list[int], size: int) -> None:
    given_boxes = [Boxes(torch.full((n, 4), i) + torch.arange(n)[:, None] / 10) for i, n in enumerate(counts)]
    parts = list(chunks(given_boxes, size))
    assert all(len(p) == len(counts) and sum(map(len, p)) <= size for p in parts)
    assert all(sum(map(len, p)) == size for p in parts[:-1])
    for i, b in enumerate(given_boxes):
        assert torch.equal(torch.cat([p[i].tensor for p in parts]), b.tensor)


def test_borrowed_layers_stay_the_backbones() -> None:
    network = tiny_backbone()
    features = RegionFeatures(pooler=pooler())
    assert features.borrows and features.borrow(network) is features
    assert not list(features.parameters()) and not features.state_dict()
    twin = copy.deepcopy(torch.nn.ModuleList([network, features]))
    assert twin[1].res5 is twin[0].layer4 and twin[1].res5 is not network.layer4, "a copy borrows of the copied backbone"
    features(MAPS, [some_boxes(2), some_boxes(1)]).sum().backward()
    assert network.layer4[0].conv1.weight.grad is not None and network.attnpool.q_proj.weight.grad is not None


def test_own_layers_are_its_own() -> None:
    features = RegionFeatures(pooler=pooler(), **own_layers())
    assert not features.borrows and features.out_channels == DIM
    assert {n.partition(".")[0] for n, _ in features.named_parameters()} == {"res5", "attnpool"}
    with pytest.raises(ConfigError, match="have a res5 of their own"):
        features.borrow(tiny_backbone())


def test_without_an_attention_pool_cells_are_averaged() -> None:
    features, boxes = RegionFeatures(pooler=pooler(), **own_layers(attnpool=False)), [some_boxes(2), some_boxes(1)]
    features.attnpool = None
    assert features.out_channels is None
    assert torch.allclose(features(MAPS, boxes), features.maps(MAPS, boxes).mean(dim=(2, 3)), atol=1e-6)


@torch.no_grad()
def test_bfloat16_in_evaluation_only() -> None:
    boxes = [some_boxes(4), some_boxes(3, 1)]
    exact, rough = borrowed().eval(), borrowed(dtype="bfloat16").eval()
    wanted, found = exact(MAPS, boxes), rough(MAPS, boxes)
    assert found.dtype is torch.float32 and not torch.equal(found, wanted)
    assert torch.cosine_similarity(found, wanted).min() > 0.99
    assert torch.equal(rough.train()(MAPS, boxes), exact.train()(MAPS, boxes))


def test_nothing_to_run_regions_through() -> None:
    with pytest.raises(ConfigError, match=r"no res5 yet: call borrow\(backbone\)"):
        RegionFeatures(pooler=pooler())(MAPS, [some_boxes(1), some_boxes(1)])
    with pytest.raises(ConfigError, match="TinyBackbone has no layer4 and attnpool to lend: use a ModifiedResNet"):
        RegionFeatures(pooler=pooler()).borrow(TinyBackbone())
    with pytest.raises(ConfigError, match="ModifiedResNet has no layer4 and attnpool"):
        RegionFeatures(pooler=pooler()).borrow(tiny_backbone(region_layers=False))


def test_a_pooler_of_another_clip() -> None:
    with pytest.raises(ConfigError, match="gives 14 x 14 cells; .* needs a pooler of 4"):
        RegionFeatures(pooler=pooler(14)).borrow(tiny_backbone())
    features = RegionFeatures(pooler=pooler(8), **own_layers())
    with pytest.raises(ConfigError, match="2 x 2 cells, not 256 and 4 x 4"):
        features(MAPS, [some_boxes(1), some_boxes(1)])


@pytest.mark.parametrize("options", [{"dtype": "float16"}, {"chunk_size": 0}])
def test_options(options: dict) -> None:
    with pytest.raises(ConfigError, match="must be one of float32, bfloat16, and chunk_size"):
        RegionFeatures(pooler=pooler(), **options)
    with pytest.raises(ConfigError, match="attnpool without a res5"):
        RegionFeatures(pooler=pooler(), attnpool=own_layers()["attnpool"])
