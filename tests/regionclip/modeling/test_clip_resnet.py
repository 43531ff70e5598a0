"""CLIP's ResNet: sizes of every variant, what freezes, and the same numbers as open_clip's."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from openvocab.errors import ConfigError, WeightsError
from openvocab.io import load_into
from regionclip.convert import VARIANTS, from_clip
from regionclip.modeling import AttentionPool2d, ModifiedResNet, build_offline_rpn, clip_stage

from .tiny import tiny_backbone

FACTS = {  # CLIP's table of models: channels of res2-res5, heads, D, side of the attention pool
    "RN50": ((256, 512, 1024, 2048), 32, 1024, 7),
    "RN101": ((256, 512, 1024, 2048), 32, 512, 7),
    "RN50x4": ((320, 640, 1280, 2560), 40, 640, 9),
}


@pytest.mark.parametrize("depth", FACTS)
def test_sizes_of_the_variants(depth: str) -> None:
    channels, heads, dim, side = FACTS[depth]
    with torch.device("meta"):
        network = ModifiedResNet(depth=depth, out_features=["res2", "res3", "res4", "res5"])
        found = network(torch.zeros(1, 3, 128, 192))
    shapes = network.output_shape()
    assert tuple(shapes[f"res{i}"].channels for i in (2, 3, 4, 5)) == channels
    assert [s.stride for s in shapes.values()] == [4, 8, 16, 32]
    for name, shape in shapes.items():
        assert found[name].shape == (1, shape.channels, 128 // shape.stride, 192 // shape.stride)
    pool = network.attnpool
    assert (pool.heads, pool.out_channels, pool.side, pool.channels) == (heads, dim, side, channels[-1])
    own = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    assert own == VARIANTS[depth].shapes(), "every key of CLIP's file, and no other"


def trained(module: nn.Module) -> tuple[int, int]:
    """(tensors, numbers) that are trained."""
    found = [p for p in module.parameters() if p.requires_grad]
    return len(found), sum(p.numel() for p in found)


def test_what_is_trained_of_the_full_detector() -> None:
    """As counted in the official detectors: with 5 numbers of box regression a dimension."""
    for depth, millions, whole in (("RN50", 38.03, 56.4), ("RN50x4", 86.54, 105.1)):
        with torch.device("meta"):
            network = ModifiedResNet(depth=depth)
            regression, rpn = nn.Linear(network.embed_dim, 4), build_offline_rpn(kind="c4")
        (tensors, numbers), (more, own) = trained(network), trained(regression)
        assert round((numbers + own) / 1e6, 2) == millions
        assert trained(rpn) == (0, 0)
        if depth == "RN50":
            assert tensors + more == 53
        count = sum(p.numel() for m in (network, regression, rpn) for p in m.parameters())
        # the official count has the text embeddings, as parameters
        assert abs(count / 1e6 - whole) < 0.2


@pytest.mark.parametrize("freeze_at", range(6))
def test_what_freezes(freeze_at: int) -> None:
    network = tiny_backbone(freeze_at=freeze_at)
    frozen = {n.partition(".")[0] for n, p in network.named_parameters() if not p.requires_grad}
    order = [{"conv1", "conv2", "conv3"}, {"layer1"}, {"layer2"}, {"layer3"}, {"layer4"}]
    assert frozen == set().union(*order[:freeze_at])
    assert not any("bn" in n for n, _ in network.named_parameters()), "norms are buffers"
    assert all(p.requires_grad for p in network.attnpool.parameters())


def randomised(network: nn.Module) -> nn.Module:
    """Give every batch norm statistics of its own."""
    for m in network.modules():
        if isinstance(m, (FrozenBatchNorm2d, nn.BatchNorm2d)):
            m.weight.data.uniform_(0.5, 1.5)
            m.bias.data.normal_()
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    return network.eval()


@torch.no_grad()
def test_open_clips_network_gives_the_same() -> None:
    pytest.importorskip("open_clip")
    from open_clip.modified_resnet import ModifiedResNet as Theirs

    torch.manual_seed(0)
    theirs = randomised(Theirs(layers=(1, 2, 1, 1), output_dim=16, heads=4, image_size=64, width=8))
    ours = tiny_backbone(blocks=(1, 2, 1, 1), out_features=["res5"]).eval()
    tensors, _ = from_clip({f"visual.{k}": v for k, v in theirs.state_dict().items()})
    load_into(ours, tensors, prefix="backbone.", strict=True)
    x = torch.randn(2, 3, 64, 64)
    vectors = ours.attnpool(ours(x)["res5"])
    expected = theirs(x)
    assert float((vectors - expected).abs().max() / expected.abs().max()) < 1e-5


def plain_block(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A bottleneck as published: convolution, norm, ReLU, each on its own."""
    y = torch.relu(block.bn1(block.conv1(x)))
    y = block.pool(torch.relu(block.bn2(block.conv2(y))))
    y = block.bn3(block.conv3(y))
    for layer in [block.pool, *block.downsample] if block.downsample is not None else []:
        x = layer(x)
    return torch.relu(x + y)


def test_a_stage_with_folded_norms_is_the_plain_one() -> None:
    torch.manual_seed(0)
    stage = randomised(clip_stage(in_channels=6, channels=4, blocks=2)).double()
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64, requires_grad=True)
    plain = x
    for block in stage:
        plain = plain_block(block, plain)
    folded, inputs = stage(x), [x, *stage.parameters()]
    assert folded.shape == (2, 16, 4, 4) and torch.allclose(folded, plain, atol=1e-12)
    ours, theirs = (torch.autograd.grad((y**2).sum(), inputs) for y in (folded, plain))
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


def test_weights_that_change_count_at_once() -> None:
    stage, x = randomised(clip_stage(in_channels=6, channels=4, blocks=1)), torch.randn(1, 6, 8, 8)
    with torch.no_grad():
        before = stage(x)
        stage[0].conv2.weight.mul_(2)
        changed = stage(x)
        stage[0].bn3.bias.add_(1)
        again = stage(x)
    assert not torch.allclose(before, changed) and not torch.allclose(changed, again)


@pytest.mark.parametrize(("own", "other"), [("RN50", "RN101"), ("RN101", "RN50"), ("RN50", "RN50x4")])
@pytest.mark.parametrize("region_layers", [True, False])
def test_the_tower_of_another_clip_is_refused(own: str, other: str, region_layers: bool) -> None:
    """Nine tenths of RN50's tensors fit into RN101 and the reverse: a count of matches would not tell."""
    with torch.device("meta"):
        network = ModifiedResNet(depth=own, region_layers=region_layers)
        given = {f"backbone.{k}": torch.zeros(v) for k, v in VARIANTS[other].shapes().items()}
        with pytest.raises(WeightsError, match=f"of {other} and the model is built for {own}: take the file of {own}"):
            load_into(nn.ModuleDict({"backbone": network}), given)
        whole = {k: torch.zeros(v) for k, v in VARIANTS[own].shapes().items()}
        assert load_into(network, whole, allow_nonfinite=True).missing == []


def test_odd_sizes_are_rounded_down() -> None:
    network = tiny_backbone(out_features=["res2", "res3", "res4", "res5"])
    with torch.no_grad():
        found = network(torch.zeros(1, 3, 75, 101))  # 38 x 51 after the stem's convolutions
    assert [tuple(v.shape[-2:]) for v in found.values()] == [(19, 25), (9, 12), (4, 6), (2, 3)]
    stage = clip_stage(in_channels=8, channels=4, blocks=2)
    assert stage(torch.zeros(1, 8, 18, 14)).shape == (1, 16, 9, 7)


def test_only_what_stock_heads_need() -> None:
    assert hasattr(tiny_backbone(), "layer4") and isinstance(tiny_backbone().attnpool, AttentionPool2d)
    lean = tiny_backbone(region_layers=False)
    assert lean.attnpool is None and not hasattr(lean, "layer4")
    loss = lean(torch.zeros(1, 3, 64, 64))["res4"].sum()
    loss.backward()
    assert all(p.grad is not None for p in lean.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": "RN50X4"}, "'RN50X4' is not one of RN50, .*RN50x4"),
        ({"depth": 50}, "'50' is not one of"),
        ({"out_features": ["res6"]}, r"\['res6'\] must be some of res2"),
        ({"out_features": []}, "must be some of"),
        ({"freeze_at": 6}, "freeze_at=6 must lie between 0"),
    ],
)
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModifiedResNet(**options)
