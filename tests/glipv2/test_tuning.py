"""Tuning modes: what trains and what stays bit for bit, the prompt that travels with the weights, and the configs on a set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances

from glipv2.modeling import Chunking, GLIPv2
from glipv2.tuning import TRAINED, LearnedPrompt, TunedGLIPv2
from openvocab.config import instantiate, load_config
from openvocab.data import get_vocabulary
from openvocab.errors import ConfigError, PromptError, WeightsError
from openvocab.io import load_into
from openvocab.testing.quick import shapes_dataset
from openvocab.text import LanguageFeatures
from openvocab.text.base import TokenBatch
from openvocab.vocabulary import Vocabulary

from .conftest import build_tiny, picture

NAMES = ["cat", "dog"]
HEAD = ("head.bbox_pred.", "head.centerness.", "head.alignment.")


@pytest.fixture
def dataset() -> str:
    return shapes_dataset(num=8, image_size=64, split="tuning")


def build(**changes: object) -> TunedGLIPv2:
    return build_tiny(kind=TunedGLIPv2, **changes)


def sample(names: list[str] | Vocabulary, seed: int = 0) -> dict:
    vocabulary = names if isinstance(names, Vocabulary) else Vocabulary.from_names(names)
    truth = Instances((64, 96), gt_boxes=Boxes(torch.tensor([[8.0, 8.0, 56.0, 56.0], [30.0, 10.0, 90.0, 60.0]])))
    truth.gt_classes = torch.tensor([0, 1])
    return {"image": picture(64, 96, seed), "vocabulary": vocabulary, "instances": truth, "height": 64, "width": 96}


def step(model: GLIPv2, inputs: list[dict], steps: int = 2) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(model(inputs).values()).backward()
        optimizer.step()


@pytest.mark.parametrize("mode", list(TRAINED))
def test_only_what_is_meant_trains(dataset: str, mode: str) -> None:
    model = build(tuning=mode, dataset=dataset)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    step(model, [sample(model.vocabulary, 0), sample(model.vocabulary, 1)])
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all((p.grad is not None) == (n in trained) for n, p in model.named_parameters())
    if mode == "full":
        assert {"backbone.fpn_lateral3.weight", "head.blocks.0.fusion.attn.v_proj.weight", "head.bbox_pred.weight"} <= changed
    else:
        assert changed == trained, "frozen weights and running statistics are bit-equal"
        assert all(n.startswith(TRAINED[mode]) for n in trained)


def test_the_linear_probe_is_the_sheet_s_list() -> None:
    model = build(tuning="linear_probe")
    found = {n for n, p in model.named_parameters() if p.requires_grad}
    layers = {
        f"head.{layer}.{kind}" for layer in ("bbox_pred", "centerness", "alignment.projection") for kind in ("weight", "bias")
    }
    assert found == layers | {"head.alignment.log_scale", "head.alignment.bias_lang", "head.alignment.bias0"}
    assert model.state_dict().keys() == build_tiny().state_dict().keys(), "its weights fit the plain model"
    model.train()
    assert not model.backbone.training and not model.head.blocks.training and model.head.bbox_pred.training
    assert model.eval() is model and not model.training


def test_a_fresh_prompt_changes_nothing_and_speaks_for_one_caption(dataset: str) -> None:
    plain, model = build_tiny(), build(tuning="prompt", dataset=dataset)
    plain.eval(), model.eval()
    own, other = sample(model.vocabulary), sample(NAMES)
    for x in (own, other):
        assert same(plain([x])[0], model([x])[0])
    step(model, [own])
    model.eval()
    assert not same(plain([own])[0], model([own])[0])
    assert same(plain([other])[0], model([other])[0]), "another caption is as it was"
    tokens = len(model.learned_prompt.ids)
    moved = model.learned_prompt.offset.detach().abs().sum(dim=1) > 0
    assert moved[:tokens].all() and not moved[tokens:].any()


def same(a: dict, b: dict) -> bool:
    one, two = a["instances"], b["instances"]
    return torch.equal(one.scores, two.scores) and torch.equal(one.pred_boxes.tensor, two.pred_boxes.tensor)


def test_a_tuned_prompt_needs_no_data_set(dataset: str) -> None:
    model = build(tuning="prompt", dataset=dataset)
    x = sample(model.vocabulary)
    step(model, [x])
    expected, words = model.eval()([x])[0], model.vocabulary
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    fresh = build(tuning="prompt", dataset="a_set_that_is_nowhere")
    assert fresh.vocabulary is None and len(fresh.learned_prompt.ids) == 0
    assert load_into(fresh, weights, strict=True).missing == []
    assert torch.equal(fresh.learned_prompt.ids, model.learned_prompt.ids)
    assert same(fresh.eval()([{**x, "vocabulary": words}])[0], expected)
    plain = build_tiny()
    assert load_into(plain, weights).unexpected == ["learned_prompt.ids", "learned_prompt.offset"]


def test_a_failed_load_leaves_the_caption() -> None:
    prompt = LearnedPrompt(rows=4, dim=2)
    prompt.learn(torch.tensor([5, 6]))
    with pytest.raises(WeightsError, match="do not fit exactly"):
        load_into(prompt, {"ids": torch.tensor([1, 2, 3]), "other": torch.zeros(1)}, strict=True)
    assert prompt.ids.tolist() == [5, 6]


def test_the_offset_goes_to_the_learned_tokens_alone() -> None:
    prompt = LearnedPrompt(rows=4, dim=2).eval()
    prompt.learn(torch.tensor([5, 6]))
    with torch.no_grad():
        prompt.offset += torch.arange(8.0).view(4, 2)
    ids = torch.tensor([[5, 6, 0], [5, 6, 7], [6, 5, 0]])
    features = LanguageFeatures(hidden=torch.zeros(3, 3, 2), mask=ids > 0)
    found = prompt(features, TokenBatch(ids, ids > 0, torch.zeros(3, 3, 2))).hidden
    assert found.tolist() == [[[0, 1], [2, 3], [0, 0]], [[0, 0]] * 3, [[0, 0]] * 3], "not to padding, nor to other captions"
    short = LanguageFeatures(hidden=torch.zeros(1, 1, 2), mask=torch.ones(1, 1, dtype=torch.bool))
    assert prompt(short, TokenBatch(torch.tensor([[5]]), short.mask, torch.zeros(1, 1, 2))) is short


def test_what_cannot_be_tuned_is_refused(dataset: str) -> None:
    with pytest.raises(ConfigError, match="'linear' is unknown. Did you mean 'linear_probe'"):
        build(tuning="linear")
    with pytest.raises(ConfigError, match="model.prior=null"):
        build(tuning="prompt", prior=torch.nn.Identity())
    with pytest.raises(ConfigError, match="give TunedGLIPv2 the training set"):
        build(tuning="prompt").train()([sample(NAMES)])
    with pytest.raises(PromptError, match="one prompt is tuned, and a picture was asked for another"):
        build(tuning="prompt", dataset=dataset).train()([sample(NAMES)])
    with pytest.raises(ConfigError, match="need 5 prompts, and one can be tuned"):
        build(tuning="prompt", dataset=dataset, chunking=Chunking(max_names=2))


@pytest.mark.parametrize("mode", list(TRAINED))
def test_configs_take_any_registered_set(dataset: str, mode: str) -> None:
    changes = [
        f"dataloader.train.sources.0.name={dataset}",
        "dataloader.shots=1",
        "dataloader.shot_seed=3",
        f"model.dataset={dataset}",
    ]
    cfg = load_config(f"glipv2/adapt/{mode}", [*changes, "dataloader.train.num_workers=0", "dataloader.dataset=aquarium"])
    source = instantiate(cfg.dataloader.train.sources[0])
    assert source.name == dataset and source.select.shots == 1 and source.select.seed == 3
    assert cfg.dataloader.test.adapted.loader.dataset == cfg.dataloader.test.adapted.evaluator.dataset_name == "aquarium_val"
    assert cfg.model.tuning == mode and cfg.model.prior is None
    assert source.mapper.prompt is None and cfg.train.init_checkpoint == "zoo://default"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["linear_probe", "prompt"])
def test_a_tuned_checkpoint_comes_back_through_the_predictor(dataset: str, mode: str, tmp_path: Path) -> None:
    """The user's way: tune, forget the data set, load, ask."""
    from openvocab import load_predictor
    from openvocab.engine import train

    sets = [f"{k}={dataset}" for k in ("dataloader.train.sources.0.name", "model.dataset")]
    changes = ["dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0", "~dataloader.test", "train.device=cpu"]
    more = [f"train.output_dir={tmp_path}", "train.max_iter=2", "train.amp.enabled=false"]
    train(load_config(f"glipv2/adapt/{mode}", [*sets, *changes, *more]))
    names, image = get_vocabulary(dataset).names, picture(64, 64, 3).permute(1, 2, 0).numpy()
    weights, elsewhere = tmp_path / "model_final.pth", ["model.dataset=a_set_that_is_nowhere"]
    tuned = load_predictor(f"glipv2/adapt/{mode}", weights=weights, overrides=elsewhere, device="cpu", score_threshold=0)
    assert tuned.vocabulary.names == names
    start = load_predictor("default", overrides=["model.prior=null"], device="cpu", score_threshold=0)
    before, after = start(image, tuned.vocabulary), tuned(image)
    assert len(after) and not (len(before) == len(after) and (before.scores == after.scores).all())
    frozen, own = start.model.state_dict(), tuned.model.state_dict()
    trained = {n for n, p in tuned.model.named_parameters() if p.requires_grad}
    assert {n for n, v in frozen.items() if not torch.equal(v, own[n])} == trained - {"learned_prompt.offset"}
