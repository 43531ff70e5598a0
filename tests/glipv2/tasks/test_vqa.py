"""Answers: shapes, the loss by its definition, padding, another list of answers, learning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from glipv2.tasks import GLIPv2Tasks, VQAHead
from openvocab.errors import ConfigError, DataError, InputError, WeightsError
from openvocab.io import load_into
from tests.glipv2.conftest import CHANNELS, LANG, picture

from .conftest import ANSWERS, build_detector, build_tasks, question


def test_the_loss_is_binary_cross_entropy_with_soft_targets() -> None:
    model = build_tasks().train()
    head, samples = model.heads["vqa"], [question(), question("is there a star ?", 1)]
    samples[1]["answers"] = {"yes": 1.0, "blue": 1.0}  # "blue" is no answer of the list, nor is "two"
    targets = head.targets(samples)
    assert targets.tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]
    p = head.logits(model.detector, samples).detach().sigmoid()
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum() / 2
    assert float(head.loss(model.detector, samples).detach()) == pytest.approx(float(expected), rel=1e-4)


def test_batches_with_padded_questions_give_what_each_gives_alone() -> None:
    model = build_tasks().eval()
    texts = ("what color is it ?", "is there a large red star left of the blue ring ?", "how many things are there ?")
    samples = [question(text, seed) for seed, text in enumerate(texts)]
    with torch.no_grad():
        together = model.heads["vqa"].logits(model.detector, samples)
        for row, x in zip(together, samples, strict=True):
            assert torch.allclose(model.heads["vqa"].logits(model.detector, [x])[0], row, atol=1e-5)


def test_answers_come_with_scores_and_candidates() -> None:
    model = build_tasks().eval()
    with torch.no_grad():
        (output,) = model([{"task": "vqa", "image": picture(64, 96), "question": "is there a star ?"}])
    assert output["answer"] in ANSWERS and len(output["candidates"]) == 4
    scores = [s for _, s in output["candidates"]]
    assert scores == sorted(scores, reverse=True) and output["candidates"][0] == (output["answer"], output["score"])


def test_both_question_and_picture_matter() -> None:
    model = build_tasks().eval()
    with torch.no_grad():
        first, text, seen = (
            model.heads["vqa"].logits(model.detector, [x])
            for x in (question(), question("is there a star ?"), question(seed=1))
        )
    assert not torch.allclose(first, text, atol=1e-4) and not torch.allclose(first, seen, atol=1e-4)


def test_a_few_steps_learn() -> None:
    model = build_tasks().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    samples = [question(seed=0), question(seed=1), question("is there a star ?", 0)]
    for x, answer in zip(samples, ("red", "2", "no"), strict=True):
        x["answers"] = {answer: 1.0}
    for _ in range(20):
        optimizer.zero_grad()
        model.heads["vqa"].loss(model.detector, samples).backward()
        optimizer.step()
    with torch.no_grad():
        assert [o["answer"] for o in model.eval()(samples)] == ["red", "2", "no"]


def test_classes_are_bound_to_their_answers() -> None:
    """Weights of another list, or of the same one in another order, would answer wrongly without a word."""
    options = {"lang_dim": LANG, "channels": CHANNELS, "hidden_dim": 24}
    saved = build_tasks().state_dict()
    other = GLIPv2Tasks(detector=build_detector(), heads=[VQAHead(answers=ANSWERS[::-1], **options)])
    with pytest.raises(WeightsError, match="another list of answers"):
        load_into(other, saved)
    same = GLIPv2Tasks(detector=build_detector(), heads=[VQAHead(answers=ANSWERS, **options)])
    assert not load_into(same, saved).missing


def test_answers_from_a_file_are_read_when_they_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    options = {"lang_dim": LANG, "channels": CHANNELS, "num_levels": 5, "hidden_dim": 24, "dropout": 0.0}
    model = GLIPv2Tasks(detector=build_detector(), heads=[VQAHead(answers=str(path), num_answers=4, **options)])
    with pytest.raises(DataError, match="python -m openvocab.data.answers"):
        model.train()([question()])
    path.write_text(json.dumps(["yes", "no"]))
    with pytest.raises(ConfigError, match="num_answers=4"):
        model([question()])
    path.write_text(json.dumps(ANSWERS))
    assert model([question()])["loss_vqa"] > 0
    fresh = GLIPv2Tasks(detector=build_detector(), heads=[VQAHead(answers=str(path), num_answers=4, **options)])
    load_into(fresh, model.state_dict())
    path.write_text(json.dumps(ANSWERS[::-1]))
    with pytest.raises(WeightsError, match="another list of answers"):
        fresh.eval()([question()])


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_answers"):
        VQAHead(answers="answers.json")
    with pytest.raises(ConfigError, match="different answers"):
        VQAHead(answers=["yes", "yes"])
    with pytest.raises(InputError, match="'question'"):
        build_tasks().eval()([{"task": "vqa", "image": picture(64, 96), "question": " "}])
    bare = question()
    del bare["answers"]
    with pytest.raises(InputError, match="needs 'answers'"):
        build_tasks().train()([bare])
