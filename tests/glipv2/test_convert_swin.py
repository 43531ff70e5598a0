"""An ImageNet Swin as the start of pretraining, against timm's network of the same weights."""

from __future__ import annotations

import pytest
import torch

from glipv2.convert import from_swin
from openvocab.errors import WeightsError
from openvocab.modeling import SwinTransformer

SIZE, DIM, DEPTHS, HEADS = 192, 12, (2, 2, 2, 2), (1, 2, 4, 4)


def released() -> dict[str, torch.Tensor]:
    """A small Swin in the names of microsoft/Swin-Transformer: those of detectron2, a classifier, and masks made at one size."""
    torch.manual_seed(0)
    net = SwinTransformer(embed_dim=DIM, depths=DEPTHS, num_heads=HEADS, window_size=3, out_indices=(3,))
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("norm3.")}
    for key, value in state.items():
        if value.is_floating_point():
            state[key] = torch.randn_like(value) * 0.2
    extra = {"norm.weight": torch.ones(8 * DIM), "norm.bias": torch.zeros(8 * DIM)}
    return {**state, **extra, "head.weight": torch.zeros(10, 8 * DIM), "layers.0.blocks.1.attn_mask": torch.zeros(64, 9, 9)}


def test_the_maps_are_those_of_timm() -> None:
    import timm
    from timm.models.swin_transformer import checkpoint_filter_fn

    theirs = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=SIZE, window_size=3, embed_dim=DIM, depths=DEPTHS, num_heads=HEADS, num_classes=10
    )
    source = released()
    found = theirs.load_state_dict(checkpoint_filter_fn(dict(source), theirs), strict=False)
    assert not found.unexpected_keys and all("head" in k or "index" in k or "mask" in k for k in found.missing_keys)
    tensors, report = from_swin(source, prefix="")
    assert len(report.dropped) == 4 and not report.unexpected
    ours = SwinTransformer(embed_dim=DIM, depths=DEPTHS, num_heads=HEADS, window_size=3, out_indices=(3,))
    found = ours.load_state_dict(tensors, strict=False)
    assert not found.unexpected_keys and sorted(found.missing_keys) == ["norm3.bias", "norm3.weight"]
    picture = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        wanted, got = theirs.eval().forward_features(picture), ours.eval()(picture)["p3"]
    assert torch.allclose(wanted.permute(0, 3, 1, 2), got, atol=1e-4)  # both behind a norm that is still the identity


def test_what_is_not_a_swin_is_refused_and_what_is_unknown_is_named() -> None:
    assert list(from_swin(released())[0])[0].startswith("backbone.bottom_up.patch_embed.")
    assert from_swin({**released(), "absolute_pos_embed": torch.zeros(1)})[1].unexpected == ["absolute_pos_embed"]
    with pytest.raises(WeightsError, match="microsoft/Swin-Transformer"):
        from_swin({"conv1.weight": torch.zeros(1)})
