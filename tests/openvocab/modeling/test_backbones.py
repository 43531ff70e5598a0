"""timm and Swin backbones behind detectron2's interface."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone

from openvocab.errors import ConfigError, WeightsError
from openvocab.modeling import SwinTransformer, TimmBackbone, add_swin_config, add_timm_config
from openvocab.modeling.efficientnet_lite import lite_state_dict


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_shapes_are_what_output_shape_promises(name: str) -> None:
    backbone = TimmBackbone(name=name, out_indices=(2, 3, 4)).eval()
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, 64, 96))
    for key, spec in backbone.output_shape().items():
        assert maps[key].shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)
    assert backbone.size_divisibility == 32


def test_packaged_weights_fill_every_tensor() -> None:
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict(lite_state_dict("efficientnet_lite0"), strict=True)
    random, loaded = TimmBackbone(), TimmBackbone(weights="package")
    for key, value in loaded.state_dict().items():
        if key.endswith("weight") and value.ndim == 4:
            assert not torch.equal(value, random.state_dict()[key])


def test_an_unknown_lite_name_is_refused() -> None:
    with pytest.raises(WeightsError, match="efficientnet_lite9"):
        lite_state_dict("efficientnet_lite9")


def test_freezing() -> None:
    backbone = TimmBackbone(freeze_at=3).train()
    frozen = [n for n, p in backbone.named_parameters() if not p.requires_grad]
    assert any("conv_stem" in n for n in frozen) and any("blocks.1." in n for n in frozen)
    assert backbone.net.blocks[2][0].conv_pw.weight.requires_grad
    before = backbone.net.bn1.running_mean.clone()
    backbone(torch.rand(2, 3, 64, 64) * 9)
    assert torch.equal(before, backbone.net.bn1.running_mean)


def test_stages_that_nobody_asks_for_are_not_there() -> None:
    """Of the seven stages of EfficientNet, those up to stride 16 are five; the maps are those of the whole network."""
    part, whole = (TimmBackbone(out_indices=i, weights="package").eval() for i in ((2, 3), (2, 3, 4)))
    assert len(part.net.blocks) == 5 and len(whole.net.blocks) == 7
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = part(picture), whole(picture)
    assert set(ours) == {"stage2", "stage3"} and all(torch.equal(v, theirs[k]) for k, v in ours.items())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"name": "tf_efficientnet_lite00"}, "tf_efficientnet_lite0"),
        ({"weights": "imagenet"}, "package"),
        ({"name": "resnet18", "freeze_at": 2}, "freeze_at"),
    ],
)
def test_bad_options_name_the_value(options: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        TimmBackbone(**options)


def test_yaml_builds_both() -> None:
    cfg = get_cfg()
    add_timm_config(cfg)
    add_swin_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    assert list(build_backbone(cfg).output_shape()) == ["p3", "p4", "p5", "p6", "p7"]
    cfg.MODEL.SWIN.EMBED_DIM, cfg.MODEL.SWIN.DEPTHS, cfg.MODEL.SWIN.NUM_HEADS = 24, [1, 1, 1, 1], [1, 2, 4, 8]
    swin = BACKBONE_REGISTRY.get("build_swin_backbone")(cfg, ShapeSpec(channels=3))
    assert list(swin.output_shape()) == ["p1", "p2", "p3"]


def test_swin_mends_detectron2() -> None:
    from detectron2.modeling.backbone.swin import SwinTransformer as Stock

    size = {"embed_dim": 24, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 4, 8), "out_indices": (1, 2, 3)}
    ours = SwinTransformer(**size, drop_path_rate=0.5)
    stock = Stock(**size, drop_path_rate=0.0)
    stock.load_state_dict(ours.state_dict())
    x = torch.rand(1, 3, 45, 70)
    with torch.no_grad():
        for key, value in ours.eval()(x).items():
            assert torch.allclose(value, stock.eval()(x)[key], atol=1e-5)
    assert ours.size_divisibility == 32
    with pytest.raises(AttributeError):
        _ = stock.size_divisibility
    torch.manual_seed(0)
    ours.train()
    assert any(not torch.equal(ours(x)["p3"], ours(x)["p3"]) for _ in range(5))


def test_fused_window_attention_is_detectron2s() -> None:
    """Values and gradients, with shifted windows, windows that pad the picture, and two pictures."""
    size = {"embed_dim": 8, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 4, "drop_path_rate": 0.0}
    models = [SwinTransformer(**size, fused=fused, out_indices=(1, 2)) for fused in (True, False)]
    torch.nn.init.normal_(models[1].layers[0].blocks[1].attn.relative_position_bias_table)
    models[0].load_state_dict(models[1].state_dict())
    torch.manual_seed(0)
    x, outputs = torch.rand(2, 3, 44, 72), []
    for model in models:
        maps = model.train()(x)
        torch.manual_seed(1)
        sum((torch.randn(y.shape) * y).sum() for y in maps.values()).backward()
        outputs.append(maps)
    for key, value in outputs[1].items():
        assert torch.allclose(outputs[0][key], value, atol=1e-5)
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        if b.grad is not None:
            assert torch.allclose(a.grad, b.grad, atol=1e-4 * float(b.grad.abs().max()) + 1e-5), name


def test_channels_last_gives_the_same_maps_in_another_order() -> None:
    plain, other = (TimmBackbone(weights="package", channels_last=c).eval() for c in (False, True))
    picture = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = plain(picture), other(picture)
    for key, value in ours.items():
        assert theirs[key].is_contiguous(memory_format=torch.channels_last) and value.is_contiguous()
        assert torch.allclose(value, theirs[key], atol=1e-4 * float(value.abs().max()))
