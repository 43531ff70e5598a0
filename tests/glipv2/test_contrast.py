"""Inter-image contrast: who is right for whom, the value of the loss, its gradients, and what the detector makes of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glipv2.modeling import RegionWordContrast
from glipv2.modeling.contrast import (
    NO_WORD,
    ContrastBatch,
    PicturePhrases,
    bidirectional_cross_entropy,
    contrast_targets,
    gathered,
    phrase_key,
    token_words,
)
from openvocab.errors import ConfigError
from openvocab.prompting import Caption

from .conftest import CHANNELS, LANG
from .test_detector import sample

DIM = 8


def text(names: list[str], is_vocabulary: bool, boxes: list[int], tokens: int | None = None) -> PicturePhrases:
    """Phrases of one token each, behind one special token."""
    maps = torch.zeros(len(names), tokens or len(names) + 2, dtype=torch.bool)
    for i in range(len(names)):
        maps[i, i + 1] = True
    return PicturePhrases(maps, names, torch.tensor(boxes, dtype=torch.long), is_vocabulary)


def together(texts: list[PicturePhrases], seed: int = 0) -> ContrastBatch:
    """A batch with one random region a box and random words."""
    generator = torch.Generator().manual_seed(seed)
    width = max(t.token_map.shape[1] for t in texts)
    mask = torch.stack([torch.arange(width) < t.token_map.shape[1] for t in texts])
    boxes = [t.box_phrases for t in texts]
    regions = torch.nn.functional.normalize(torch.randn(sum(map(len, boxes)), DIM, generator=generator), dim=-1)
    words = torch.nn.functional.normalize(torch.randn(len(texts), width, DIM, generator=generator), dim=-1)
    return gathered(regions, words, mask, boxes, texts)


def contrast(**changes: object) -> RegionWordContrast:
    torch.manual_seed(2)
    return RegionWordContrast(**{"visual_dim": CHANNELS, "lang_dim": LANG, "embed_dim": DIM, **changes})


def with_caption(text: str, phrases: list[str], seed: int = 0) -> dict:
    """A training picture whose two boxes belong to phrases of a sentence."""
    spans = tuple(((text.index(p), text.index(p) + len(p)),) for p in phrases)
    x = sample(96, 128, phrases, seed)
    del x["vocabulary"]
    return {**x, "caption": Caption(text, spans)}


# ---- targets ------------------------------------------------------------------------------------------------------


def test_a_text_is_known_again() -> None:
    assert phrase_key("The  Red bus") == phrase_key("red BUS") == phrase_key("a red\nbus") < 2**63
    assert phrase_key("bus") != phrase_key("red bus")
    assert phrase_key("a") == phrase_key("A") != phrase_key("the"), "a lone article is a word"


def test_names_of_other_pictures_are_right_too() -> None:
    positive, ignored = contrast_targets(together([text(["cat", "dog"], True, [0, 1]), text(["bus", "cat"], True, [0])]))
    # columns: [CLS] cat dog [SEP] of the first picture, [CLS] bus cat [SEP] of the second
    assert positive.int().tolist() == [[0, 1, 0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0]]
    assert not ignored.any()


@pytest.mark.parametrize("first_is_vocabulary", [True, False])
def test_sentences_neither_reward_nor_punish_the_same_words(first_is_vocabulary: bool) -> None:
    texts = [text(["cat"], first_is_vocabulary, [0]), text(["the cat", "bus"], False, [0, 1])]
    positive, ignored = contrast_targets(together(texts))
    # columns: [CLS] cat [SEP] and padding of the first picture, [CLS] "the cat" bus [SEP] of the second
    assert positive.int().tolist() == [[0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0]]
    assert ignored.int().tolist() == [[0, 0, 0, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]]


def test_two_things_of_one_sentence_stay_apart() -> None:
    positive, ignored = contrast_targets(together([text(["a man", "a man"], False, [0, 1])]))
    assert positive.int().tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]] and not ignored.any()


WORDS = st.lists(st.sampled_from(["cat", "dog", "bus", "a cat"]), min_size=1, max_size=3)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(WORDS, st.booleans(), st.lists(st.integers(0, 2), max_size=3)), min_size=1, max_size=4))
def test_targets_are_those_of_the_rule(pictures: list[tuple[list[str], bool, list[int]]]) -> None:
    texts = [text(names, is_list, [b for b in boxes if b < len(names)]) for names, is_list, boxes in pictures]
    batch = together(texts)
    positive, ignored = (t.unflatten(1, batch.mask.shape) for t in contrast_targets(batch))
    row = 0
    for i, own in enumerate(texts):
        for box in own.box_phrases.tolist():
            for j, other in enumerate(texts):
                for p, name in enumerate(other.names):
                    same = phrase_key(name) == phrase_key(own.names[box])
                    right = p == box if i == j else same and own.is_vocabulary and other.is_vocabulary
                    assert bool(positive[row, j, p + 1]) is right
                    assert bool(ignored[row, j, p + 1]) is (i != j and same and not right)
            row += 1
    assert int(positive.sum() + ignored.sum()) <= positive[..., 1:].numel() and not positive[..., 0].any()


def of_words(names: list[str], is_vocabulary: bool, boxes: list[int]) -> PicturePhrases:
    """Phrases of as many tokens as they have words, between two special ones, all padded to nine tokens."""
    spelled = [name.split() for name in names]
    maps, ids, start = torch.zeros(len(names), 9, dtype=torch.bool), torch.zeros(9, dtype=torch.long), 1
    for row, words in zip(maps, spelled, strict=True):
        row[start : start + len(words)] = True
        ids[start : start + len(words)] = torch.tensor([VOCABULARY.index(w) + 1 for w in words])
        start += len(words)
    return PicturePhrases(maps, names, torch.tensor(boxes, dtype=torch.long), is_vocabulary, ids)


VOCABULARY = ["red", "blue", "green", "cat", "bus"]
PAIRS = st.lists(st.sampled_from(["red cat", "blue cat", "red bus", "cat", "green bus"]), min_size=1, max_size=3)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(PAIRS, st.booleans(), st.lists(st.integers(0, 2), max_size=3)), min_size=1, max_size=4))
def test_words_of_names_are_right_wherever_they_stand(pictures: list[tuple[list[str], bool, list[int]]]) -> None:
    texts = [of_words(names, is_list, [b for b in boxes if b < len(names)]) for names, is_list, boxes in pictures]
    batch = together(texts)
    by_name, before = contrast_targets(batch)
    positive, ignored = contrast_targets(batch, "words")
    assert torch.equal(before, ignored) and not (positive & ignored).any() and not (by_name & ~positive).any()
    more, row = (positive & ~by_name).unflatten(1, batch.mask.shape), 0
    for own in texts:
        for box in own.box_phrases.tolist():
            mine = set(own.token_words[own.token_map[box]].tolist())
            for j, other in enumerate(texts):
                for t, word in enumerate(other.token_words.tolist()):
                    right = own.is_vocabulary and other.is_vocabulary and word in mine
                    if not by_name.unflatten(1, batch.mask.shape)[row, j, t]:
                        assert bool(more[row, j, t]) is right
            row += 1


def test_the_detector_says_its_tokens_and_words_change_the_loss() -> None:
    from .conftest import build_tiny

    batch, found = [sample(96, 128, ["red cat", "red bus"], 0), sample(96, 128, ["blue cat"], 1)], {}
    for kind in ("names", "words"):
        model = build_tiny(contrast=contrast(propagate=kind)).train()
        found[kind] = float(model(batch)["loss_inter"].detach())
    assert math.isfinite(found["words"]) and abs(found["words"] - found["names"]) > 1e-4


def test_pieces_of_a_word_are_that_word() -> None:
    spans = torch.tensor([[0, 0], [0, 3], [4, 7], [7, 9], [9, 10], [11, 14], [0, 0]])  # [CLS] red cir ##cl . red [SEP]
    found = token_words("Red circl. red", spans).tolist()
    assert found[1] == found[5] == phrase_key("red") and found[2] == found[3] == phrase_key("circl")
    assert found[0] == found[4] == found[6] == NO_WORD


def test_words_need_tokens() -> None:
    with pytest.raises(ConfigError, match="token_words"):
        contrast_targets(together([text(["cat"], True, [0])]), "words")


# ---- value and gradients ------------------------------------------------------------------------------------------


def test_the_value_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    positive = torch.tensor([[True, False, False], [True, True, False]])
    rows = [math.log(math.exp(2) + 1 + math.exp(1)) - 2, math.log(2 + math.exp(1)) - 0.5]
    columns = [math.log(math.exp(2) + 1) - 1, math.log(1 + math.exp(1)) - 1]
    expected = (sum(rows) + sum(columns)) / 2 / 2
    assert float(bidirectional_cross_entropy(logits, positive)) == pytest.approx(expected, rel=1e-6)


@torch.no_grad()
def test_what_is_ignored_changes_nothing() -> None:
    """The only region is a cat; the words "the cat" of another picture's sentence may be anything, "bus" may not."""
    batch = together([text(["cat"], True, [0]), text(["the cat", "bus"], False, [])])
    changes = {}
    for column in (1, 2):
        moved = replace(batch, words=batch.words.clone())
        moved.words[1, column] *= -1
        for kind in ("ignore", "negative"):
            module = contrast(same_text=kind)
            changes[column, kind] = abs(float(module.loss(moved) - module.loss(batch)))
    assert changes[1, "ignore"] == 0.0 and min(changes[1, "negative"], changes[2, "ignore"], changes[2, "negative"]) > 1e-4


def test_padding_is_no_word() -> None:
    short, long = text(["cat"], True, [0]), text(["bus", "dog", "hat"], True, [0, 1])
    batch = together([short, long])
    before = contrast().loss(batch).detach()
    batch.words = batch.words.clone()
    batch.words[0, 3:] = 100.0
    assert torch.equal(contrast().loss(batch).detach(), before)


def test_no_region_anywhere_is_zero_with_a_graph() -> None:
    module = contrast()
    pyramid = [torch.randn(1, CHANNELS, 2, 2)]
    nothing = torch.full((4,), -1)
    losses = module(pyramid, torch.randn(1, 3, LANG), torch.ones(1, 3, dtype=torch.bool), [nothing], [text(["cat"], True, [])])
    losses["loss_inter"].backward()
    assert float(losses["loss_inter"].detach()) == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def test_at_most_so_many_regions_a_picture() -> None:
    module, matched = contrast(max_regions=5), torch.zeros(50, dtype=torch.long)
    torch.manual_seed(0)
    first = module._choose(matched)
    torch.manual_seed(0)
    assert len(first) == 5 == len(first.unique()) and torch.equal(module._choose(matched), first)
    assert len(module._choose(matched[:3])) == 3


def test_impossible_settings() -> None:
    with pytest.raises(ConfigError, match="positive"):
        contrast(same_text="positive")
    with pytest.raises(ConfigError, match="propagate='word'"):
        contrast(propagate="word")
    with pytest.raises(ConfigError, match="max_regions=0"):
        contrast(max_regions=0)


# ---- in the detector ----------------------------------------------------------------------------------------------


def hybrid() -> list[dict]:
    """Names, a sentence, a picture without boxes, and names again."""
    empty = sample(64, 96, ["cat", "dog"], 2)
    empty["instances"] = empty["instances"][:0]
    sentence = with_caption("a red hat beside the old dog", ["red hat", "the old dog"], 1)
    return [sample(96, 128, ["cat", "dog"]), sentence, empty, sample(128, 96, ["dog", "bus", "red hat"], 3)]


def test_without_it_nothing_changes(tiny) -> None:
    plain, with_it = tiny().train()(hybrid()), tiny(contrast=contrast()).train()(hybrid())
    assert set(with_it) - set(plain) == {"loss_inter"}
    for name, value in plain.items():
        assert torch.equal(value, with_it[name]), name


def test_gradients_reach_both_towers_and_not_the_fusion(tiny) -> None:
    model = tiny(contrast=contrast()).train()
    loss = model(hybrid())["loss_inter"]
    loss.backward()
    assert loss > 0 and all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.contrast.parameters())
    assert model.backbone.fpn_lateral3.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.head.blocks.parameters()), "pre-fusion features only"


def test_it_is_learned(tiny) -> None:
    model = tiny(contrast=contrast(log_scale=-2.0), deformable=False).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    history = []
    for _ in range(20):
        loss = model(hybrid())["loss_inter"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[-1] < 0.7 * history[0]


def test_phrases_without_boxes_are_wrong_words_only(tiny) -> None:
    """A sentence of which nothing is boxed: no region asks for its words, and training goes on."""
    unboxed = with_caption("a red hat beside the old dog", ["red hat", "the old dog"], 1)
    unboxed["instances"] = unboxed["instances"][:0]
    model = tiny(contrast=contrast(), deformable=False).train()
    alone, beside = model(hybrid()[:1])["loss_inter"], model([hybrid()[0], unboxed])["loss_inter"]
    assert 0 < float(alone.detach()) < float(beside.detach()) and model([unboxed])["loss_inter"] == 0


def test_a_frozen_detector_cannot_be_pretrained(tiny) -> None:
    from .test_mask_branch import build_branch

    with pytest.raises(ConfigError, match="contrast and mlm must be None"):
        tiny(contrast=contrast(), mask_branch=build_branch(), frozen_detector=True)
