"""Adapters, contexts and arms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from detection_hub import DatasetContext
from detection_hub.modeling import (
    ARMS,
    CategoryEmbeddings,
    DetectionHub,
    HubAdapter,
    LabelSpace,
    QueryAdapter,
    RegionWordAlignment,
    SemanticBias,
    to_pixels,
)
from openvocab.engine import build_adamw
from openvocab.errors import ConfigError, DataError, VocabularyError
from openvocab.text import HashedTextEncoder
from openvocab.vocabulary import Vocabulary

from ..conftest import ANIMALS, DIM, QUERIES, STAGES, TEXT, THINGS, awake, build_tiny, sample, tiny_head, tiny_hub

SIZES = [(64, 96), (64, 96)]


def spaces(hub: HubAdapter, *names: str) -> list[LabelSpace]:
    return [hub.space({"dataset": n}, None) for n in names]


@torch.no_grad()
def scores(model: DetectionHub, *inputs: dict) -> list[torch.Tensor]:
    """Logits (N, C) of each picture's own names."""
    model.eval()
    images = model.preprocess([x["image"] for x in inputs])
    features = model.backbone(images.tensor)
    which = [model.hub.space(x, None) for x in inputs]
    logits = model.run_decoder([features[f] for f in model.in_features], images.image_sizes, which)[0][-1][0]
    columns = [s.columns or range(len(s.vocabulary)) for s in which]
    return [row[:, list(c)] for row, c in zip(logits, columns, strict=True)]


# ---- zero start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS)
def test_a_fresh_hub_changes_nothing_to_the_last_bit(arm: str) -> None:
    """Sparse R-CNN with a classifier of fixed names: its logits and boxes with a hub in front equal those without."""
    model = build_tiny(arm, decoder=tiny_head(num_classes=7)).eval()
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, DIM, 64 // s, 96 // s, generator=generator) for s in (4, 8, 16)]
    queries, boxes = model.init_proposal_features.weight, model.init_proposal_boxes.weight
    plain = model.head(features, to_pixels(boxes.expand(2, -1, -1), SIZES), queries.expand(2, -1, -1))
    context = model.hub(spaces(model.hub, "animals", "things"), queries, boxes)
    adapted = model.head(features, to_pixels(context.boxes, SIZES), context.queries, context.kernels)
    for a, b in zip(plain, adapted, strict=True):
        assert torch.equal(a.logits, b.logits) and torch.equal(a.boxes, b.boxes) and torch.equal(a.features, b.features)


def test_an_awake_hub_changes_queries_boxes_kernels_and_names() -> None:
    model = awake(build_tiny())
    queries, boxes = model.init_proposal_features.weight, model.init_proposal_boxes.weight
    one, other = (model.hub(spaces(model.hub, n), queries, boxes) for n in ("animals", "things"))
    assert not torch.allclose(one.queries, queries[None], atol=1e-3) and not torch.allclose(one.boxes, boxes[None], atol=1e-3)
    assert not torch.allclose(one.queries, other.queries, atol=1e-3) and len(one.kernels) == STAGES
    assert bool((one.kernels[0].gain.abs() > 1e-3).any()) and not torch.equal(one.bias, other.bias)
    dog = [n.vocabulary.index("dog") for n in (ANIMALS, THINGS)]
    shades = [c.shade.of(c.text)[0, row] for c, row in zip((one, other), dog, strict=True)]
    assert torch.equal(one.text[0, dog[0]], other.text[0, dog[1]]) and not torch.allclose(*shades, atol=1e-3)


def test_a_name_moves_at_most_as_far_as_it_may() -> None:
    bias = SemanticBias(dim=DIM, text_dim=TEXT, limit=0.3)
    nn.init.normal_(bias.shift.weight, std=100.0)
    text = nn.functional.normalize(torch.randn(1, 50, TEXT), dim=-1)
    with torch.no_grad():
        moved = bias(text, torch.randn(1, 50, DIM), torch.randn(1, DIM)).of(text)
    assert torch.allclose(moved.norm(dim=-1), torch.ones(1, 50), atol=1e-5)
    angles = (moved * text).sum(-1).clamp(max=1).arccos()
    assert float(angles.max()) <= math.asin(0.3) + 1e-3  # what a shift of 0.3 can turn a vector of length 1 by
    assert float(angles.max()) > 0.2


@pytest.mark.parametrize("std", [0.0, 0.1, 100.0])
def test_scores_against_shaded_names_are_those_against_the_written_out_vectors(std: float) -> None:
    """In values and in all gradients; a bias that says nothing changes no bit of a score."""
    torch.manual_seed(0)
    bias = SemanticBias(dim=DIM, text_dim=TEXT)
    align = RegionWordAlignment(dim=DIM, text_dim=TEXT, num_stages=2)
    for parameter in bias.shift.parameters():
        nn.init.normal_(parameter, std=std)
    text = nn.functional.normalize(torch.randn(2, 9, TEXT), dim=-1)
    features = [torch.randn(2, 5, DIM, requires_grad=True) for _ in range(2)]
    names, vectors = torch.randn(2, 9, DIM), torch.randn(2, DIM)
    weights, parameters = torch.randn(2, 5, 9), [*features, *bias.parameters(), *align.parameters()]

    def judged(*, written_out: bool) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
        u = bias.shift((bias.of_name(names) + bias.of_dataset(vectors)[:, None]).relu())
        full = nn.functional.normalize(text + 0.3 * u / (TEXT + u.square().sum(-1, keepdim=True)).sqrt(), dim=-1)
        shade = bias(text, names, vectors)
        plain = {"text": full} if written_out else {"text": text, "shade": shade}
        logits = align(features, dataset_bias=torch.zeros(2), **plain)
        return logits, torch.autograd.grad(sum((x * weights).sum() for x in logits), parameters)

    for a, b in zip(*(sum(map(list, judged(written_out=w)), []) for w in (True, False)), strict=True):
        assert torch.allclose(a, b, atol=2e-4, rtol=1e-3)
    if not std:
        plain = align(features, text, torch.zeros(2))
        assert all(torch.equal(a, b) for a, b in zip(plain, judged(written_out=False)[0], strict=True))


def test_every_parameter_has_a_gradient_whatever_is_in_the_batch() -> None:
    for arm in ARMS:
        for inputs in ([sample("animals")], [sample("nowhere", vocabulary=["a", "b"])], [sample("things", boxes=0)]):
            model = build_tiny(arm).train()
            sum(model(inputs).values()).backward()
            assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None], arm


# ---- contexts ---------------------------------------------------------------------------------------------------------


def test_a_batch_mixes_data_sets_and_each_picture_gets_what_it_gets_alone() -> None:
    model = awake(build_tiny())
    inputs = [sample("animals", 0), sample("things", 1), sample("animals", 2), sample("things", 3, vocabulary=["cup"])]
    together = scores(model, *inputs)
    for x, found in zip(inputs, together, strict=True):
        assert torch.allclose(scores(model, x)[0], found, atol=2e-4)  # logits up to 13
    with torch.no_grad():
        assert {int(c) for x in model([inputs[3]]) for c in x["instances"].pred_classes} == {0}


def test_the_order_of_data_sets_means_nothing() -> None:
    one, other = (awake(build_tiny(tiny_hub(datasets=d))) for d in ([ANIMALS, THINGS], [THINGS, ANIMALS]))
    other.load_state_dict(one.state_dict())
    assert torch.equal(scores(one, sample("things"))[0], scores(other, sample("things"))[0])


def test_an_unknown_data_set_is_judged_by_its_names_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = awake(build_tiny())
    for _ in range(2):
        found = scores(model, sample("animal", vocabulary=ANIMALS.vocabulary))[0]
    assert caplog.text.count("does not know the data set 'animal'") == 1 and "'animals'" in caplog.text
    assert torch.equal(found, scores(model, sample("", vocabulary=ANIMALS.vocabulary))[0])
    assert not torch.allclose(found, scores(model, sample("animals"))[0], atol=1e-4)


def test_flags_alone_reach_a_data_set_nobody_knows() -> None:
    model = awake(build_tiny())
    words = {"vocabulary": ANIMALS.vocabulary}
    found = [scores(model, sample("", **words, **more))[0] for more in ({}, {"flags": ["loose"]}, {"flags": {"fit": "tight"}})]
    assert not torch.allclose(found[0], found[1], atol=1e-4) and not torch.allclose(found[1], found[2], atol=1e-4)


def test_a_new_data_set_starts_as_its_names_and_flags() -> None:
    model = awake(build_tiny())
    expected = scores(model, sample("", vocabulary=["owl", "bat"], flags=["loose"]))[0]
    model.register_dataset("night", ["owl", "bat"], ["loose"])
    assert torch.allclose(scores(model, sample("night"))[0], expected, atol=1e-6)
    with pytest.raises(ConfigError, match="'night' already"):
        model.register_dataset("night", ["owl"])


def test_what_a_data_set_may_be_called() -> None:
    model = build_tiny()
    model.hub.register_datasets([DatasetContext.create("a.b/c", ["x"])])
    assert "a.b/c" in model.hub.vectors
    with pytest.raises(ConfigError, match="called 'animals'"):
        tiny_hub(datasets=[ANIMALS, ANIMALS])
    with pytest.raises(ConfigError, match="called 'animals_train'"):
        model.hub.register_datasets([DatasetContext.create("animals_train", ["x"])])
    assert model.hub.find("animals_train") == ANIMALS  # a source
    assert "animals_train" not in model.hub.datasets


def test_the_order_of_a_list_moves_no_average_of_an_optimizer() -> None:
    """State is saved by place, so that places may not depend on how a config lists its data sets."""
    found = []
    for datasets in ([ANIMALS, THINGS], [THINGS, ANIMALS]):
        torch.manual_seed(0)
        found.append(dict(tiny_hub(datasets=datasets).named_parameters()))
    assert list(found[0]) == list(found[1])
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0]), "nor do initial values"


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"semantic_limit": 1.0}, "semantic_limit=1.0"), ({"flag_dropout": 3.0}, "flag_dropout=3.0"), ({"vector_dropout": -1}, "-1")],
)
def test_shares_and_limits_are_checked(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_hub(**changes)


def test_a_hub_for_another_decoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_stages=3, and this one has dim=16, num_stages=2"):
        build_tiny(tiny_hub(num_stages=3))


def test_scores_keep_their_digits_under_autocast() -> None:
    """Cosines times up to 100: bfloat16 has three digits."""
    model = awake(build_tiny())
    torch.nn.init.constant_(model.hub.align.log_scale, math.log(100.0))
    features = [torch.randn(1, QUERIES, DIM)]
    with torch.no_grad():
        queries, boxes = model.init_proposal_features.weight, model.init_proposal_boxes.weight
        context = model.eval().hub(spaces(model.hub, "animals"), queries, boxes)
        plain = model.hub.align(features, context.text, context.bias, shade=context.shade)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            names = model.hub.to_token(context.text)
            shade = model.hub.semantic(context.text, names, context.bias.new_zeros(1, DIM))
            low = model.hub.align(features, context.text, context.bias, shade=context.shade)[0]
    assert low.dtype == plain.dtype == torch.float32 and shade.length.dtype == torch.float32
    length = shade.of(context.text).norm(dim=-1)
    assert torch.allclose(length, torch.ones_like(length), atol=1e-5)
    assert float((low - plain).abs().max()) < 1.5  # the projections of features are in bfloat16 all the same


def test_nothing_to_look_for() -> None:
    with pytest.raises(VocabularyError, match="nothing to look for"):
        build_tiny()([sample("")])
    only = build_tiny(tiny_hub(datasets=[THINGS])).eval()
    assert only.hub.space({}, None).context == THINGS
    with pytest.raises(ConfigError, match="arm='ful'.*'full'"):
        tiny_hub(arm="ful")


def test_dropped_vectors_and_flags() -> None:
    """With everything dropped, training pictures look like those of a data set that nobody knows."""
    hub = tiny_hub(vector_dropout=1.0, flag_dropout=1.0)
    space = hub.space({"dataset": "animals"}, None)
    assert hub.train()._key(space)[1:] == (None, ()) and hub.eval()._key(space)[1:] == ("animals", ANIMALS.flags)
    hub = tiny_hub(vector_dropout=1.0)
    assert hub.train()._key(space)[1:] == (None, ANIMALS.flags)


# ---- arms -------------------------------------------------------------------------------------------------------------


def test_static_arms_know_no_data_set_and_naive_has_one_list_of_names() -> None:
    for arm in ("naive", "masked"):
        model = awake(build_tiny(arm))
        words = ANIMALS.vocabulary
        assert torch.equal(scores(model, sample("animals"))[0], scores(model, sample("things", vocabulary=words))[0])
        assert model.hub.vectors is None and model.hub.query_adapter is None
    naive = build_tiny("naive").hub
    assert naive.union().names == ("cat", "dog", "zebra", "cup")
    space = naive.space({"dataset": "things"}, None)
    assert space.columns == (3, 1) and len(space.scored) == 4 and space.policy == "exhaustive"


def test_lang_sees_names_only_and_id_the_data_set_only() -> None:
    lang, ident = awake(build_tiny("lang")), awake(build_tiny("id"))
    same = DatasetContext.create("same", ANIMALS.vocabulary)
    for model in (lang, ident):
        model.hub.register_datasets([same])
    pair = [[scores(m, sample(n))[0] for n in ("animals", "same")] for m in (lang, ident)]
    assert torch.equal(*pair[0]) and not torch.allclose(*pair[1], atol=1e-4)
    queries, boxes = ident.init_proposal_features.weight, ident.init_proposal_boxes.weight
    one = ident.hub([ident.hub.space({"dataset": "animals"}, None)], queries, boxes)
    two = ident.hub([ident.hub.space({"dataset": "animals", "vocabulary": ["cup"]}, None)], queries, boxes)
    assert torch.equal(one.queries, two.queries) and torch.equal(one.kernels[0].shift, two.kernels[0].shift)


# ---- names as vectors -------------------------------------------------------------------------------------------------


def test_names_are_centred_by_a_mean_that_stays() -> None:
    embeddings = CategoryEmbeddings(text_encoder=HashedTextEncoder(dim=TEXT), templates=None)
    embeddings.fit([Vocabulary.from_names(["owl"])])
    mu = embeddings.mu.clone()
    assert float(mu.norm()) > 0.05
    embeddings.fit([Vocabulary.from_names(["something", "else"])])
    assert torch.equal(embeddings.mu, mu)
    rows = embeddings(Vocabulary.builtin("coco"))
    assert torch.allclose(rows.norm(dim=1), torch.ones(80), atol=1e-5) and float(rows.mean(0).norm()) < 0.05
    assert embeddings(Vocabulary.from_names(["owl"])).shape == (1, TEXT)


def test_templates_are_the_vocabularys_own_or_the_hubs() -> None:
    encoder = HashedTextEncoder(dim=TEXT)
    bare = CategoryEmbeddings(text_encoder=encoder, templates=None, reference=None, centered=False)
    filled = CategoryEmbeddings(text_encoder=encoder, templates=["a {} here"], reference=None, centered=False)
    own = Vocabulary.from_names(["cat"], templates=["a {} here"])
    plain = Vocabulary.from_names(["cat"])
    assert torch.equal(bare(own), filled(plain)) and torch.equal(bare(own), filled(own)) and not torch.equal(bare(plain), bare(own))
    with pytest.raises(ConfigError, match="frozen=True"):
        encoder.frozen = False
        CategoryEmbeddings(text_encoder=encoder)


def test_memory_of_names_is_bounded() -> None:
    embeddings = CategoryEmbeddings(text_encoder=HashedTextEncoder(dim=TEXT), reference=None, templates=None)
    for i in range(40):
        embeddings(Vocabulary.from_names([f"name {i}"]))
    assert len(embeddings._kept) == 16
    several = [DatasetContext.create(f"set {i}", [f"name {i}"]) for i in range(40)]
    hub = tiny_hub(datasets=several, embeddings=embeddings)
    for data in several:
        hub.embeddings(data.vocabulary)
    calls = []
    embeddings._encode = calls.append
    for data in several:
        hub.embeddings(data.vocabulary)
    assert not calls and len(embeddings._kept) <= 56, "all data sets' names are kept, and a few others"


# ---- what evaluation keeps --------------------------------------------------------------------------------------------


def test_contexts_are_kept_in_evaluation_and_never_stale() -> None:
    model = awake(build_tiny()).eval()
    queries, boxes = model.init_proposal_features.weight, model.init_proposal_boxes.weight
    count = []
    model.hub.query_adapter.register_forward_hook(lambda *_: count.append(1))
    with torch.no_grad():
        for _ in range(3):
            first = model.hub(spaces(model.hub, "animals"), queries, boxes).queries
        assert len(count) == 1
        for change in (lambda p: p.add_(0.1), lambda p: setattr(p, "data", p.data + 0.1)):
            change(model.hub.query_adapter.attention.out_proj.bias)
            after = model.hub(spaces(model.hub, "animals"), queries, boxes).queries
            assert not torch.allclose(first, after, atol=1e-3)
            first = after
    assert len(count) == 3


@pytest.mark.parametrize("training", [True, False])
def test_an_evaluation_after_a_training_step_sees_the_new_weights(training: bool) -> None:
    """Also where all parts stay in evaluation while they are tuned; torch's fused AdamW changes parameters in silence."""
    model = awake(build_tiny()).eval()
    x = sample("animals", boxes=2)
    first = scores(model, x)[0]
    optimizer = build_adamw(model=model.hub, lr=0.05)
    model.train()
    if not training:
        model.hub.eval()
    sum(model([x]).values()).backward()
    optimizer.step()
    after = scores(model, x)[0]
    model.hub._kept.clear()
    assert torch.equal(after, scores(model, x)[0]) and not torch.allclose(first, after, atol=1e-3)


# ---- tuning -----------------------------------------------------------------------------------------------------------


def test_tuning_trains_one_vector_and_one_bias() -> None:
    model = awake(build_tiny())
    model.register_dataset("night", ["owl", "bat"], ["loose"])
    before = {n: p.clone() for n, p in model.named_parameters()}
    tuned = model.tune_only("night")
    optimizer = torch.optim.SGD(tuned, lr=0.1)
    sum(model.train()([sample("night")]).values()).backward()
    optimizer.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {"hub.vectors.vectors.night", "hub.vectors.biases.night"}
    assert [m for m in model.modules() if m.training] == [model], "what is frozen stays as in prediction: dropout, batch norms"
    with pytest.raises(DataError, match="no data set 'day'"):
        model.tune_only("day")
    with pytest.raises(ConfigError, match="arm 'lang'"):
        build_tiny("lang").tune_only("animals")


def test_the_query_adapter_alone() -> None:
    adapter = QueryAdapter(dim=DIM, num_heads=4)
    queries, boxes = torch.randn(5, DIM), torch.rand(5, 4)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    tokens = torch.randn(2, 3, DIM)
    out = adapter(queries, boxes, tokens, mask)
    assert torch.equal(out[0], queries.expand(2, -1, -1)) and torch.equal(out[1], boxes.expand(2, -1, -1))
    nn.init.normal_(adapter.attention.out_proj.weight)
    out = adapter(queries, None, tokens, mask)
    alone = adapter(queries, None, tokens[1:, :1], mask[1:, :1])
    assert out[1] is None and torch.allclose(out[0][1], alone[0][0], atol=1e-5)
