from __future__ import annotations

import io
import os

import numpy as np
import pytest
import torch
from torch import nn

from openvocab.engine import Checkpointer, ModelEma, RunState, build_adamw, build_sgd, read_checkpoint
from openvocab.engine.randomness import random_state, seed_everything, set_random_state, untouched_randomness
from openvocab.errors import WeightsError
from openvocab.vocabulary import Vocabulary

from .toys import ToyDetector, toy_mapper, toy_records


class Loader:
    def __init__(self) -> None:
        self.position = 0

    def state_dict(self) -> dict:
        return {"position": self.position}

    def load_state_dict(self, state: dict) -> None:
        self.position = state["position"]


def a_run(*, ema: bool = True, lr: float = 0.1, build: object = build_adamw) -> RunState:
    model = ToyDetector()
    average = ModelEma(model, decay=0.9) if ema else None
    return RunState(model=model, optimizer=build(model=model, lr=lr), loader=Loader(), ema=average, config="a: 1\n")


def moved(run: RunState, steps: int = 3) -> RunState:
    batch = [toy_mapper(r) for r in toy_records(4)]
    for _ in range(steps):
        run.optimizer.zero_grad()
        sum(run.model(batch).values()).backward()
        run.optimizer.step()
        run.ema.update() if run.ema else None
        run.loader.position += 1
    return run


def through_a_file(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(a: dict, b: dict) -> bool:
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("ema", [True, False])
def test_a_run_comes_back_whole_through_a_file_of_plain_values(tmp_path, ema):
    saved = moved(a_run(ema=ema))
    saved.best = {"metric": "mean/AP50", "value": 3.5, "iteration": 2}
    path = Checkpointer(tmp_path).save("model_0000002.pth", saved.state_dict(3))
    content = torch.load(path, weights_only=True)
    loaded = a_run(ema=ema)
    assert loaded.load_state_dict(content) == 3
    assert same(loaded.model.state_dict(), saved.model.state_dict()) and same(loaded.weights(), saved.weights())
    assert loaded.loader.position == 3 and loaded.best == saved.best
    assert content["config"] == "a: 1\n"
    moments = [r.optimizer.state_dict()["state"] for r in (saved, loaded)]
    assert all(same(moments[0][i], moments[1][i]) for i in moments[0]) and len(moments[0]) > 0


def test_the_models_key_holds_the_averaged_weights():
    run = moved(a_run())
    content = run.state_dict(3)
    assert torch.equal(content["model"]["fit.weight"], run.ema.averages["fit.weight"])
    assert not torch.equal(content["model"]["fit.weight"], run.model.fit.weight)
    assert torch.equal(content["raw"]["fit.weight"], run.model.fit.weight)


def test_rates_of_the_present_config_hold_after_a_resume():
    saved, loaded = moved(a_run(lr=0.1)), a_run(lr=0.02)
    loaded.load_state_dict(saved.state_dict(3))
    assert {g["lr"] for g in loaded.optimizer.param_groups} == {0.02}


def test_the_vocabulary_travels_with_the_weights():
    run = a_run()
    run.model.vocabulary = Vocabulary.from_names(["cat", "dog"])
    assert Vocabulary.from_dict(run.state_dict(1)["vocabulary"]) == run.model.vocabulary


def test_another_model_or_optimizer_is_refused():
    content = through_a_file(moved(a_run()).state_dict(3))
    other = a_run()
    other.model.fit = torch.nn.Linear(7, 1)
    with pytest.raises(WeightsError, match="fit.weight"):
        other.load_state_dict(content)
    plain = a_run()
    content["optimizer"]["param_groups"] = content["optimizer"]["param_groups"][:1]
    with pytest.raises(WeightsError, match="optimizer"):
        plain.load_state_dict(content)


def test_another_tokenizer_is_refused(tmp_path):
    """The weights would fit, the words would be others."""
    run = a_run()
    run.model.text_encoder = nn.Module()
    run.model.text_encoder.tokenizer_id = "bert:of-the-training"
    content = through_a_file(run.state_dict(3))
    assert run.load_state_dict(content) == 3
    run.model.text_encoder.tokenizer_id = "bert:mine"
    with pytest.raises(WeightsError, match="trained with the tokenizer 'bert:of-the-training', this model has 'bert:mine'"):
        run.load_state_dict(content)


def test_random_state_continues_all_three_generators():
    import random

    seed_everything(5)
    state = random_state()
    first = random.random(), np.random.rand(), torch.rand(1).item()
    with untouched_randomness():
        random.random(), np.random.rand(3), torch.rand(9)
    second = random.random(), np.random.rand(), torch.rand(1).item()
    set_random_state(state)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == first
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == second


def test_no_seed_draws_one():
    seeds = {seed_everything(None) for _ in range(3)}
    assert len(seeds) == 3 and all(0 <= s < 2**31 for s in seeds)


def fill(folder: object, count: int, max_to_keep: int = 3) -> Checkpointer:
    checkpointer = Checkpointer(folder, max_to_keep=max_to_keep)
    for i in range(count):
        path = checkpointer.save(f"model_{i:07d}.pth", {"model": {}, "optimizer": {}, "iteration": i + 1})
        os.utime(path, (1000 + i, 1000 + i))
    return checkpointer


@pytest.mark.parametrize(("keep", "left"), [(2, [3, 4]), (1, [4]), (0, [0, 1, 2, 3, 4])])
def test_the_last_few_stay(tmp_path, keep, left):
    fill(tmp_path, 5, keep)
    assert sorted(p.name for p in tmp_path.glob("model_*.pth")) == [f"model_{i:07d}.pth" for i in left]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"


def test_a_resumed_run_goes_on_removing_old_files(tmp_path):
    fill(tmp_path, 3)
    checkpointer = Checkpointer(tmp_path, max_to_keep=3)
    checkpointer.latest()
    checkpointer.save("model_0000003.pth", {"model": {}, "optimizer": {}, "iteration": 4})
    assert sorted(p.name for p in tmp_path.glob("model_*.pth")) == [f"model_{i:07d}.pth" for i in (1, 2, 3)]


def test_files_of_other_kinds_are_never_removed(tmp_path):
    names = ["model_best.pth", "model_final.pth", "my_model_0000000.pth"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    fill(tmp_path, 5, 1)
    assert all((tmp_path / n).is_file() for n in names)


def test_nothing_to_resume_is_none(tmp_path):
    assert Checkpointer(tmp_path).latest() is None and Checkpointer(tmp_path / "absent").latest() is None


def test_weights_alone_cannot_be_resumed(tmp_path):
    torch.save({"fit.weight": torch.ones(1)}, tmp_path / "model_final.pth")
    with pytest.raises(WeightsError, match="init_checkpoint"):
        read_checkpoint(tmp_path / "model_final.pth")


def test_sgd_goes_on_with_its_moments():
    saved, loaded = moved(a_run(build=build_sgd)), a_run(build=build_sgd)
    loaded.load_state_dict(through_a_file(saved.state_dict(3)))
    torch.manual_seed(0)
    moved(saved)
    torch.manual_seed(0)
    moved(loaded)
    assert same(saved.model.state_dict(), loaded.model.state_dict())
