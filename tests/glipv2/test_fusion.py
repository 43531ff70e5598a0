"""Bidirectional attention: the folded form against the published one, in values and gradients, with every mask, bias and clamp."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from glipv2.modeling import BiAttention, VisionLanguageFusion, fusion
from openvocab.errors import ConfigError

V, L = 12, 20


def pair(**options: object) -> tuple[BiAttention, BiAttention]:
    """A folded and a published module of the same weights; biases are not zero."""
    torch.manual_seed(0)
    options = {"visual_dim": V, "lang_dim": L, "embed_dim": 24, "num_heads": 3, "dropout": 0.0, **options}
    folded, published = (BiAttention(**options, form=form) for form in ("folded", "published"))
    for parameter in published.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    folded.load_state_dict(published.state_dict())
    return folded, published


def inputs(batch: int, cells: int, tokens: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, cells, V, generator=generator), torch.randn(batch, tokens, L, generator=generator)


def masks(batch: int, cells: int, tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    """Words and cells that count; the first of each row always does."""
    generator = torch.Generator().manual_seed(seed)
    words, places = (torch.rand(batch, n, generator=generator) > 0.4 for n in (tokens, cells))
    words[:, 0] = places[:, 0] = True
    return words, places


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], atol: float = 2e-6) -> bool:
    return all(torch.allclose(x, y, atol=atol) for x, y in zip(a, b, strict=True))


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3), cells=st.integers(1, 40), tokens=st.integers(1, 9), padded=st.booleans(), seed=st.integers(0, 99)
)
def test_values(batch: int, cells: int, tokens: int, padded: bool, seed: int) -> None:
    folded, published = pair()
    v, hidden = inputs(batch, cells, tokens, seed)
    words, places = masks(batch, cells, tokens, seed)
    places = places if padded else None
    with torch.no_grad():
        assert same(folded(v, hidden, words, places), published(v, hidden, words, places))


def test_gradients() -> None:
    results = []
    for module in pair():
        v, hidden = (t.requires_grad_() for t in inputs(2, 17, 5))
        delta_v, delta_l = module(v, hidden, *masks(2, 17, 5, 0))
        torch.manual_seed(1)
        (torch.randn(delta_v.shape) * delta_v).sum().add((torch.randn(delta_l.shape) * delta_l).sum()).backward()
        results.append({"v": v.grad, "l": hidden.grad, **{n: p.grad for n, p in module.named_parameters()}})
    for name, theirs in results[1].items():
        ours = results[0][name]
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()) + 1e-7), name


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest score may come first, last or in between: later blocks correct what earlier ones summed."""
    monkeypatch.setattr(fusion, "MIN_CELLS", 4)
    monkeypatch.setattr(fusion, "BLOCK_SCORES", 1)
    folded, published = pair()
    for loud in (0, 9, 22):
        v, hidden = inputs(2, 23, 4)
        v[:, loud] *= 8
        words, places = masks(2, 23, 4, 1)
        places[0, 4:12] = False  # two whole blocks outside the picture
        with torch.no_grad():
            assert len(folded._blocks(23, 1)) == 6
            assert same(folded(v, hidden, words, places), published(v, hidden, words, places), 5e-5)
            assert same(folded(v, hidden, words, None), published(v, hidden, words, None), 5e-5)


def test_clamps_of_the_released_code() -> None:
    folded, published = pair()
    v, hidden = inputs(1, 9, 4)
    with torch.no_grad():
        found, expected = (m(v * 3e4, hidden * 3e4, torch.ones(1, 4, dtype=torch.bool)) for m in (folded, published))
        published.v_proj.weight.mul_(1e-3), published.v_proj.bias.mul_(1e-3)
        unclamped = published(v * 3e4, hidden * 3e4, torch.ones(1, 4, dtype=torch.bool))
    for a, b, c in zip(found, expected, unclamped, strict=True):
        scale = float(b.abs().max())
        assert float((a - b).abs().max()) < 1e-4 * scale
        assert float((b - c).abs().max()) > 0.1 * scale  # the clamp made ties


def test_a_bias_of_the_words_passes_through_dropout() -> None:
    """Weights that dropout has scaled no longer sum to 1, and the bias of the values is weighted by what is left."""

    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0.5

    results = []
    for module in pair():
        module.dropout = Halved()
        results.append(module(*inputs(1, 11, 3), torch.ones(1, 3, dtype=torch.bool)))
    assert same(*results)


def test_padding_tokens_may_be_dropped() -> None:
    """Words that nothing looks at change neither the cells nor the other words."""
    for module in pair():
        v, hidden = inputs(1, 30, 9)
        mask = torch.arange(9)[None] < 4
        with torch.no_grad():
            padded, dropped = module(v, hidden, mask), module(v, hidden[:, :4], mask[:, :4])
        assert same((padded[0], padded[1][:, :4]), dropped)


def test_the_form_follows_from_the_number_of_tokens() -> None:
    glip = BiAttention()
    assert all(glip.folds(t) for t in (1, 25, 256, 2000))
    narrow = BiAttention(visual_dim=128, lang_dim=384, embed_dim=256, num_heads=4)
    assert narrow.folds(20) and narrow.folds(127) and not narrow.folds(128)  # 4 x 128 T against 256 (128 + T)
    assert not BiAttention(form="published").folds(1)


def test_16_bits_stay_near() -> None:
    folded, published = pair()
    v, hidden = inputs(2, 50, 6)
    mask = torch.ones(2, 6, dtype=torch.bool)
    with torch.no_grad():
        exact = published(v, hidden, mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = folded(v, hidden, mask)
    assert all(float((a - b).abs().max() / b.abs().max()) < 0.03 for a, b in zip(rounded, exact, strict=True))


def test_a_training_step_drops_weights() -> None:
    module = VisionLanguageFusion(attention=BiAttention(visual_dim=V, lang_dim=L, embed_dim=24, num_heads=3, dropout=0.5),
                                  visual_dim=V, lang_dim=L)  # fmt: skip
    levels, words = [torch.randn(1, V, 3, 4), torch.randn(1, V, 1, 2)], torch.randn(1, 5, L)
    mask = torch.ones(1, 5, dtype=torch.bool)
    first, second = (module.train()(levels, words, mask)[0][0] for _ in range(2))
    assert not torch.equal(first, second)
    first, second = (module.eval()(levels, words, mask)[0][0] for _ in range(2))
    assert torch.equal(first, second)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="fast"):
        BiAttention(form="fast")
    with pytest.raises(ConfigError, match="multiple"):
        BiAttention(embed_dim=100, num_heads=8)
