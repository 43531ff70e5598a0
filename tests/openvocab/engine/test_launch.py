from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.utils import comm
from torch import Tensor, nn

from openvocab.engine import build_sgd, launch, train
from openvocab.errors import ConfigError, DataError

from .toys import SIZE, ToyDetector, toy_config

SOON = timedelta(seconds=90)


class Plain(ToyDetector):
    """Without batch statistics and dropout, whose values depend on how a batch is shared out."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        self.input_norm = nn.Identity()
        self.extra = nn.Linear(SIZE, SIZE)

    def forward(self, batch: list[dict]) -> dict[str, Tensor] | list[dict]:
        if self.training:
            note = Path(self.log) / f"{comm.get_world_size()}_{comm.get_rank()}.json"
            note.write_text(json.dumps([b["image_id"] for b in batch]))
            batch = [{**b, "x": b["x"] + torch.tanh(self.extra(b["x"]))} for b in batch]
        return super().forward(batch)


def plain_model(*, log: str) -> Plain:
    model = Plain()
    model.log = log
    return model


def train_one_step(folder: str, log: str) -> dict:
    cfg = toy_config(folder, max_iter=1, checkpointer={"period": 1})
    cfg.model = L(plain_model)(log=log)
    cfg.optimizer = L(build_sgd)(lr=1.0, momentum=0.0, weight_decay=0.0)
    cfg.lr_multiplier = L(_one)()
    return train(cfg)


class _one:
    def __call__(self, where: float) -> float:
        return 1.0


@pytest.mark.slow
def test_two_processes_make_the_gradients_of_one(tmp_path):
    """With lr 1 the first step is the gradient."""
    train_one_step(str(tmp_path / "one"), str(tmp_path))
    launch(train_one_step, (str(tmp_path / "two"), str(tmp_path)), cpu_procs=2, timeout=SOON)
    one, two = (torch.load(tmp_path / n / "model_final.pth", weights_only=True) for n in ("one", "two"))
    assert all(torch.allclose(one["model"][k], two["model"][k], atol=1e-6) for k in one["model"])
    torch.manual_seed(1)
    assert not torch.allclose(one["model"]["extra.weight"], plain_model(log="").extra.weight)  # it was a step
    whole, first, second = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("1_0", "2_0", "2_1"))
    assert len(first) == len(second) and sorted(first + second) == sorted(whole)
    assert len(two["rng"]) == 2 and not torch.equal(two["rng"][0]["torch"], two["rng"][1]["torch"])
    assert (tmp_path / "two" / "log.txt.rank1").is_file() and len(list((tmp_path / "two").glob("metrics.json"))) == 1


def fail_on_one(rank: int) -> None:
    if comm.get_rank() == rank:
        raise DataError("the file on rank 1 is bad")
    comm.synchronize()


@pytest.mark.slow
def test_a_typed_error_of_a_process_arrives_as_it_is():
    with pytest.raises(DataError, match="the file on rank 1 is bad"):
        launch(fail_on_one, (1,), cpu_procs=2, timeout=SOON)


def add(a: int, b: int) -> int:
    return a + b


def test_one_process_is_a_call():
    assert launch(add, (1, 2)) == launch(add, (1, 2), cpu_procs=1) == 3


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"num_gpus": 64}, ["--num-gpus 64", "--cpu-procs"]),
        ({"num_gpus": 2, "cpu_procs": 2}, ["exclude"]),
        ({"cpu_procs": 1, "num_machines": 2}, ["--dist-url"]),
        ({"cpu_procs": 1, "num_machines": 2, "machine_rank": 2}, ["--machine-rank 2"]),
    ],
)
def test_numbers_that_do_not_fit_are_named(how, words):
    with pytest.raises(ConfigError) as error:
        launch(add, (1, 2), **how)
    assert all(w in str(error.value) for w in words)
