"""The attention pool in its folded form against the published order, and against torch's own attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.errors import ConfigError
from regionclip.modeling import AttentionPool2d


def pool(side: int = 3, heads: int = 4, seed: int = 0) -> AttentionPool2d:
    torch.manual_seed(seed)
    made = AttentionPool2d(side=side, channels=8 * heads, heads=heads, out_channels=12).double()
    for layer in (made.k_proj, made.q_proj, made.v_proj, made.c_proj):
        torch.nn.init.normal_(layer.bias)
    return made


@settings(max_examples=20, deadline=None)
@given(side=st.integers(1, 4), heads=st.sampled_from([1, 2, 4]), count=st.integers(0, 3), seed=st.integers(0, 100))
def test_the_folded_form_is_the_published_one(side: int, heads: int, count: int, seed: int) -> None:
    made = pool(side, heads, seed)
    x = torch.randn(count, 8 * heads, side, side, dtype=torch.float64)
    assert made(x).shape == (count, 12)
    assert torch.allclose(made(x), made.all_queries(x), atol=1e-12)


def test_gradients_are_the_published_ones() -> None:
    found = {}
    for form in ("forward", "all_queries"):
        made = pool()
        x = torch.randn(2, 32, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
        (getattr(made, form)(x) ** 2).sum().backward()
        found[form] = {"x": x.grad, **{n: p.grad for n, p in made.named_parameters()}}
    assert set(found["forward"]) == set(found["all_queries"])
    for name, value in found["forward"].items():
        assert value is not None and torch.allclose(value, found["all_queries"][name], atol=1e-10), name


def test_torchs_attention_agrees() -> None:
    made, x = pool(), torch.randn(2, 32, 3, 3, dtype=torch.float64)
    tokens = x.flatten(2).permute(2, 0, 1)
    tokens = torch.cat([tokens.mean(dim=0, keepdim=True), tokens]) + made.positional_embedding[:, None]
    layers = (made.q_proj, made.k_proj, made.v_proj)
    expected, _ = F.multi_head_attention_forward(
        tokens[:1], tokens, tokens, 32, made.heads, None, torch.cat([layer.bias for layer in layers]), None, None, False, 0.0,
        made.c_proj.weight, made.c_proj.bias, use_separate_proj_weight=True, q_proj_weight=made.q_proj.weight,
        k_proj_weight=made.k_proj.weight, v_proj_weight=made.v_proj.weight, need_weights=False,
    )  # fmt: skip
    assert torch.allclose(made(x), expected[0], atol=1e-12)


def test_another_side_is_refused_with_the_poolers_size() -> None:
    with pytest.raises(ConfigError, match="3 x 3 cells, not 32 and 4 x 4.*14 for RN50 and RN101, 18 for RN50x4"):
        pool()(torch.zeros(1, 32, 4, 4, dtype=torch.float64))
    with pytest.raises(ConfigError, match="maps of 32 channels"):
        pool()(torch.zeros(1, 16, 3, 3, dtype=torch.float64))
    with pytest.raises(ConfigError, match="heads=3 do not divide .* 32 channels"):
        AttentionPool2d(channels=32, heads=3)
