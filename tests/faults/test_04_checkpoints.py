"""Promise 4, the training side: saving never costs the good file, and a resume falls back to the newest readable checkpoint."""

from __future__ import annotations

import logging
import os

import pytest
import torch

from openvocab.engine import Checkpointer, checkpoint, train
from openvocab.errors import WeightsError
from tests.openvocab.engine.toys import toy_config


def content(iteration: int) -> dict:
    return {"model": {"w": torch.full((1000,), float(iteration))}, "optimizer": {}, "iteration": iteration}


@pytest.fixture
def three(tmp_path) -> Checkpointer:
    checkpointer = Checkpointer(tmp_path)
    for i in (9, 19, 29):
        path = checkpointer.save(f"model_{i:07d}.pth", content(i + 1))
        os.utime(path, (1000 + i, 1000 + i))
    return checkpointer


def full_disk(obj: object, file: object) -> None:
    file.write(b"half of a checkpoint")
    raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_the_old_file_and_the_tag(three, monkeypatch):
    before = {p.name: p.read_bytes() for p in three.folder.iterdir()}
    monkeypatch.setattr(checkpoint.torch, "save", full_disk)
    for name in ("model_0000029.pth", "model_0000039.pth"):
        with pytest.raises(OSError, match="No space left"):
            three.save(name, content(40))
    assert {p.name: p.read_bytes() for p in three.folder.iterdir()} == before


def test_a_full_disk_during_training_leaves_a_run_that_resumes(tmp_path, monkeypatch):
    real, saves = torch.save, []

    def second_fails(obj: object, file: object) -> None:
        saves.append(1)
        (full_disk if len(saves) == 2 else real)(obj, file)

    monkeypatch.setattr(checkpoint.torch, "save", second_fails)
    with pytest.raises(OSError, match="No space left"):
        train(toy_config(tmp_path, checkpointer={"period": 3}, eval_period=-1))
    assert sorted(p.name for p in tmp_path.glob("*model*")) == ["model_0000002.pth"]
    train(toy_config(tmp_path, checkpointer={"period": 3}, eval_period=-1), resume=True)
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 10


def truncate(path: object) -> None:
    path.write_bytes(path.read_bytes()[:700])


DAMAGES = {
    "truncated": truncate,
    "empty": lambda p: p.write_bytes(b""),
    "garbage": lambda p: p.write_bytes(b"\x00\x01 no zip" * 99),
    "gone": lambda p: p.unlink(),
    "other content": lambda p: torch.save([1, 2], p),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_file_falls_back_and_says_so(three, damage):
    newest = three.folder / "model_0000029.pth"
    DAMAGES[damage](newest)
    if newest.exists():
        os.utime(newest, (2000, 2000))
    said: list[str] = []
    path, found = Checkpointer(three.folder).latest(say=said.append)
    assert path.name == "model_0000019.pth" and found["iteration"] == 20
    assert damage == "gone" or (len(said) == 1 and "model_0000029.pth" in said[0])


@pytest.mark.parametrize("tag", [b"", b"model_0000999.pth", b"\xff\xfe\x00", None, b"../../etc/passwd"])
def test_a_broken_tag_does_not_matter(three, tag):
    file = three.folder / "last_checkpoint"
    file.unlink() if tag is None else file.write_bytes(tag)
    assert Checkpointer(three.folder).latest()[0].name == "model_0000029.pth"


def test_the_tag_names_which_to_take(three):
    (three.folder / "last_checkpoint").write_text("model_0000009.pth\n")
    assert Checkpointer(three.folder).latest()[1]["iteration"] == 10


def test_leftovers_of_a_killed_write_are_ignored(three):
    (three.folder / ".model_0000039.pth.tmp").write_bytes(b"half")
    assert Checkpointer(three.folder).latest()[0].name == "model_0000029.pth"


def test_when_none_can_be_read_it_is_an_error_that_names_them(three):
    for path in three.folder.glob("*.pth"):
        truncate(path)
    with pytest.raises(WeightsError) as error:
        Checkpointer(three.folder).latest()
    assert all(f"model_00000{i}9.pth" in str(error.value) for i in range(3))


def test_a_checkpoint_that_would_run_code_is_not_read(three, tmp_path):
    class Evil:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {tmp_path}/ran",)

    evil = three.folder / "model_0000029.pth"
    torch.save({**content(30), "x": Evil()}, evil)
    os.utime(evil, (2000, 2000))
    assert Checkpointer(three.folder).latest()[0].name == "model_0000019.pth" and not (tmp_path / "ran").exists()


def test_the_log_of_a_resume_says_which_file(tmp_path, caplog):
    train(toy_config(tmp_path, checkpointer={"period": 4}, eval_period=-1))
    truncate(tmp_path / "model_final.pth")
    with caplog.at_level(logging.INFO):
        train(toy_config(tmp_path, checkpointer={"period": 4}, eval_period=-1), resume=True)
    assert "model_final.pth is damaged" in caplog.text and "resumed from" in caplog.text
    assert "model_0000007.pth after 8 of 10 iterations" in caplog.text
