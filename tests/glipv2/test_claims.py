"""GLIPv2's claims: the parts around the plugin do what they say, and a quick run writes all arms of the table."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

from openvocab.data import get_records, get_vocabulary
from openvocab.data.catalog import unregister
from openvocab.errors import DataError
from openvocab.text import BertTextEncoder, HashedTextEncoder

from .conftest import build_tiny, picture


def test_kept_words_are_the_encoder_s(claims: ModuleType) -> None:
    shapes = import_module("glipv2_shapes")
    encoder = HashedTextEncoder(dim=12)
    kept = shapes.KeptText(encoder)
    texts = ["the red circle left of the blue square", "star", "star"]
    for _ in range(2):
        tokens = kept.tokenize(texts)
        found, expected = kept(tokens), encoder(tokens)
        torch.testing.assert_close(found.hidden * found.mask[..., None], expected.hidden * expected.mask[..., None])
    turned = shapes.KeptText(encoder, dim=5, texts=texts)
    assert turned.dim == 5 and turned(turned.tokenize(texts)).hidden.shape == (*found.mask.shape, 5)
    assert len(kept._kept) == 2 and not list(kept.parameters()) and kept.identity == encoder.identity


def test_the_arms_are_what_they_say(claims: ModuleType) -> None:
    shapes = import_module("glipv2_shapes")
    text = HashedTextEncoder(dim=12)
    names = {}
    for arm, (fusion, language) in shapes.FUSION.items():
        model = shapes.build_detector(text, fusion=fusion, language=language)
        names[arm] = {n for n, _ in model.head.named_parameters()}
    assert {n for n in names["deep fusion"] - names["no fusion"]} == {n for n in names["deep fusion"] if ".fusion." in n}
    assert {n for n in names["no fusion"] - names["late fusion"]} == {n for n in names["no fusion"] if ".language." in n}
    sentences = shapes.Sentences(5, text, shapes.QUICK)
    assert all(len(r["phrases"]) == 2 for r in sentences.test), "the thing that is meant, and its landmark"
    assert len({r["image_id"] for r in sentences.test}) == len(sentences.test) >= shapes.QUICK.test


def test_no_training_picture_holds_an_unseen_pair(claims: ModuleType, tmp_path: Path) -> None:
    shapes = import_module("glipv2_shapes")
    pairs = shapes.Pairs(tmp_path, 5, HashedTextEncoder(dim=12), shapes.QUICK)
    colors, kinds = (sorted(words) for words in zip(*(n.split() for n in shapes.NOVEL), strict=True))
    assert set(colors) == set(shapes.COLORS) and set(kinds) == set(shapes.SHAPES), "each word is in one unseen pair at least"
    for x in pairs.train:
        assert not set(x["vocabulary"].names) & set(shapes.NOVEL) and len(x["ignore_boxes"]) == 0
    names = get_vocabulary(pairs.name("test")).names
    there = {names[a["category_id"]] for r in get_records(pairs.name("test")) for a in r["annotations"]}
    assert there & set(shapes.NOVEL), "they are in the test"


def test_every_task_has_its_share_of_every_model(claims: ModuleType, tmp_path: Path) -> None:
    tasks = import_module("glipv2_tasks")
    turns = tasks.TakingTurns([[{"n": 0}, {"n": 1}, {"n": 2}], [{"n": 7}]])
    assert [x["n"] for x in turns] == [0, 7, 1, 7, 2, 7] and len(turns) == 6
    longer = import_module("glipv2_together")
    assert set(longer.ARMS) == set(tasks.ARMS) and longer.BUDGET.steps > tasks.Budget().steps, "the page of longer trainings"
    assert longer.prepare(tmp_path, True) == (tmp_path, tasks.QUICK) and longer.prepare(tmp_path, False)[1] == longer.BUDGET
    world = tasks.Tasks(tmp_path, 5, tasks.QUICK)
    (together,), alone = tasks.ARMS[tasks.TOGETHER], tasks.ARMS[tasks.ALONE]
    assert sorted(together) == sorted(t for names in alone for t in names), "the same tasks, once each"
    for names in (together, *alone):
        model = world.detector(names)
        assert (model.detector.mask_branch is not None) == ("detection" in names)
        assert set(model.heads) == set(names) - {"detection"}
    assert {x["task"] for x in world.train["vqa"]} == {"vqa"} and all(
        "gt_masks" in x["instances"].get_fields() for x in world.train["detection"]
    )
    assert len(world.train["caption"]) == 2 * tasks.QUICK.train and all(
        x["sentence"] in x["captions"] for x in world.train["caption"]
    )


def test_a_kept_trunk_is_the_trunk(claims: ModuleType) -> None:
    adapt = import_module("glipv2_adapt")
    model = build_tiny().eval()
    kept, images = adapt.KeptTrunk(model), [picture(64, 96, seed) for seed in range(3)]
    kept(images[:2])
    with torch.no_grad():
        expected, found = model.run_trunk(images), kept(images)
    for part in ("features", "valid", "anchors"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part))
    assert found.sizes == expected.sizes and len(kept.kept) == 3


def test_a_kept_tower_is_the_tower_without_dropout(claims: ModuleType) -> None:
    adapt = import_module("glipv2_adapt")
    model = build_tiny()
    for module in (m for m in model.modules() if isinstance(m, torch.nn.Dropout)):
        module.p = 0.5
    images, caption = [picture(64, 96, seed) for seed in range(3)], ["cat. dog"] * 3
    model.backbone.eval()
    trunk = adapt.KeptTrunk(model)
    kept = adapt.KeptTower(trunk, model.head.blocks)
    with torch.no_grad():
        language = model.text_encoder(model.text_encoder.tokenize(caption))
        seen = trunk(images)
        features, hidden = seen.features, language.hidden
        for block in model.eval().head.blocks:
            features, hidden = block(features, hidden, language.mask, seen.valid)
        for _ in range(2):
            found = kept(list(seen.features), language.hidden, language.mask, seen.valid)
            torch.testing.assert_close(found, (features, hidden))
    assert len(kept.kept) == 3 and not list(kept.parameters()), "once each; what is frozen is not trained by its block"


def test_few_directions_hold_almost_all_of_the_words(claims: ModuleType) -> None:
    """What the claims' setting says of the 96 directions, on sentences that did not span them."""
    shapes = import_module("glipv2_shapes")
    encoder = BertTextEncoder(source="minilm")
    texts = shapes.word_texts()
    basis = shapes.KeptText(encoder, dim=shapes.WORDS, texts=texts).basis
    tokens = encoder.tokenize(["the blue star above the green heart", "the yellow circle right of the red square"])
    words = encoder(tokens).hidden[tokens.attention_mask]
    left = (words - words @ basis @ basis.T - (words.mean(0) - words.mean(0) @ basis @ basis.T)).square().sum()
    assert left / (words - words.mean(0)).square().sum() < 0.05


@pytest.mark.slow
def test_a_quick_run_measures_every_arm(claims: ModuleType, tmp_path: Path) -> None:
    options = ["--quick", "--seeds", "1", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    assert claims.main(["glipv2", *options]) == 0
    result = json.loads((tmp_path / "out" / "glipv2.json").read_text())
    paper = claims.load_paper("glipv2")
    assert result["quick"] and result["seeds"] == [0] and list(result["arms"]) == list(paper.ARMS)
    every = [(m, v) for row in result["arms"].values() for m, found in row.items() for v in found["values"]]
    assert all(0 <= v <= (1000 if "CIDEr" in m else 100) for m, v in every if v == v)
    shares = {arm: row["trained"]["mean"] for arm, row in result["arms"].items() if "trained" in row}
    assert shares["zero-shot"] == 0 < min(shares["prompt tuning"], shares["linear probe"]) < 1 < shares["full tuning"] <= 100
    here = import_module("glipv2_adapt").load_sets(import_module("glipv2_adapt").QUICK)
    assert {f"{name}: 1 shots" for name in here} <= set(result["arms"]["prompt tuning"])
    assert "A quick run" in (tmp_path / "out" / "glipv2.md").read_text()


def test_without_the_sets_their_part_is_left_out(
    claims: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    adapt = import_module("glipv2_adapt")
    for variable in ("OPENVOCAB_SHARED_DATA", "DETECTRON2_DATASETS"):
        monkeypatch.setenv(variable, str(tmp_path))
    for name in adapt.SETS:
        for split in ("train", "val"):
            unregister(f"{name}_{split}")  # an earlier test may have found it
    with pytest.raises(DataError):
        adapt.Adapting("bccd", adapt.QUICK)
    assert adapt.load_sets(adapt.QUICK) == {}
    assert "few-shot curves leave out deeppcb" in caplog.text and "OPENVOCAB_SHARED_DATA" in caplog.text
