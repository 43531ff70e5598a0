"""Promise 6: a loss that is not finite stops every process before the step, names the cause, and dumps the batch."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.utils import comm

from openvocab.engine import launch, train
from openvocab.errors import NonFiniteLossError
from tests.openvocab.engine.toys import ToyDetector, toy_config

BUILT: list[ToyDetector] = []


class Remembered(ToyDetector):
    """Keeps its weights as they were before the forward that fails."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        BUILT.append(self)
        self.before: dict = {}

    def forward(self, batch: list[dict]) -> object:
        self.before = {n: p.detach().clone() for n, p in self.named_parameters()}
        return super().forward(batch)

    def unmoved(self) -> bool:
        return all(torch.equal(p, self.before[n]) and bool(torch.isfinite(p).all()) for n, p in self.named_parameters())


def failing(folder: object, image_id: int, **train_keys: object) -> object:
    cfg = toy_config(folder, max_iter=40, eval_period=-1, **train_keys)
    cfg.model = L(Remembered)(fail_at=image_id)
    return cfg


@pytest.mark.parametrize("keys", [{}, {"accumulate": 3}, {"amp": {"enabled": True}}, {"log_period": 1000}])
def test_no_step_is_made_and_the_cause_is_named(tmp_path, keys):
    with pytest.raises(NonFiniteLossError) as error:
        train(failing(tmp_path, 7, **keys))
    assert BUILT[-1].unmoved()
    text = str(error.value)
    assert "loss_fit=nan" in text and "loss_size" not in text
    assert "image_id=7" in text and "picture_7.jpg" in text and "lr=" in text and "nonfinite_batch.json" in text
    dump = json.loads((tmp_path / "nonfinite_batch.json").read_text())
    assert {"image_id": 7, "file_name": "picture_7.jpg"} in dump["processes"][0]["images"]
    assert dump["processes"][0]["losses"]["loss_fit"] == "nan" and dump["lr"] > 0
    assert not (tmp_path / "model_final.pth").exists()


def watched(folder: str) -> None:
    rank = comm.get_rank()
    try:
        train(failing(folder, 7))
    except NonFiniteLossError as error:
        note = {"unmoved": BUILT[-1].unmoved(), "saw_it": 7 in BUILT[-1].seen, "text": str(error)}
        (Path(folder) / f"note{rank}.json").write_text(json.dumps(note))
        raise


@pytest.mark.slow
def test_all_processes_stop_when_one_has_it(tmp_path):
    with pytest.raises(NonFiniteLossError, match="image_id=7"):
        launch(watched, (str(tmp_path),), cpu_procs=2, timeout=timedelta(seconds=90))
    notes = [json.loads((tmp_path / f"note{r}.json").read_text()) for r in (0, 1)]
    assert sorted(n["saw_it"] for n in notes) == [False, True]
    assert all(n["unmoved"] for n in notes) and notes[0]["text"] == notes[1]["text"]
    assert len(json.loads((tmp_path / "nonfinite_batch.json").read_text())["processes"]) == 2
