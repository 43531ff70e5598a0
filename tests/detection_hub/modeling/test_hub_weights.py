"""What travels with a hub's weights: data sets, their vectors, and whose text encoder it was."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from detection_hub import DatasetContext
from detection_hub.modeling import CategoryEmbeddings
from openvocab.errors import WeightsError
from openvocab.io import load_into
from openvocab.text import HashedTextEncoder

from ..conftest import ANIMALS, TEXT, THINGS, awake, build_tiny, sample, tiny_hub
from .test_hub import scores


def saved(model: nn.Module) -> dict:
    """The state dict, through a file that runs nothing."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


@pytest.mark.parametrize("way", ["load_into", "strict load_into", "load_state_dict"])
def test_weights_bring_their_data_sets_along(way: str) -> None:
    trained = awake(build_tiny())
    extra = DatasetContext.create("extra", ["owl"], flags=["parts"], evaluator="lvis", sources=["extra_val"])
    trained.hub.register_datasets([extra])
    expected = scores(trained, sample("animals"))[0], scores(trained, sample("extra"))[0]
    fresh = build_tiny(tiny_hub(datasets=[], embeddings=CategoryEmbeddings(text_encoder=HashedTextEncoder(dim=TEXT))), seed=5)
    if way == "load_state_dict":
        fresh.load_state_dict(saved(trained))
    else:
        report = load_into(fresh, saved(trained), strict="strict" in way)
        assert not report.missing and not report.mismatched and not report.unexpected
    assert fresh.hub.datasets == trained.hub.datasets and fresh.hub.find("extra_val").evaluator == "lvis"
    assert torch.equal(scores(fresh, sample("animals"))[0], expected[0])
    assert torch.equal(scores(fresh, sample("extra"))[0], expected[1])


def test_the_models_own_data_sets_win_and_keep_their_vectors() -> None:
    trained = awake(build_tiny())
    changed = DatasetContext.create("animals", ["cat", "owl"], flags=["loose"])
    fresh = build_tiny(tiny_hub(datasets=[changed]), seed=5)
    load_into(fresh, saved(trained), strict=True)
    assert fresh.hub.datasets["animals"] == changed and fresh.hub.datasets["things"] == THINGS
    assert torch.equal(fresh.hub.vectors.vectors["animals"], trained.hub.vectors.vectors["animals"])
    more = build_tiny(tiny_hub(datasets=[ANIMALS, THINGS, DatasetContext.create("new", ["x"])]))
    report = load_into(more, saved(trained))
    assert report.missing == ["hub.vectors.biases.new", "hub.vectors.vectors.new"]


def test_a_failed_load_leaves_no_data_set_behind() -> None:
    trained = awake(build_tiny())
    trained.hub.register_datasets([DatasetContext.create("extra", ["owl"])])
    fresh = build_tiny(tiny_hub(datasets=[THINGS]), seed=5)
    before = saved(fresh)
    state = saved(trained)
    state["hub.vectors.vectors.extra"][0] = float("nan")
    with pytest.raises(WeightsError, match="vectors.extra"):
        load_into(fresh, state)
    after = saved(fresh)
    assert list(fresh.hub.datasets) == ["things"] and list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)
    load_into(fresh, saved(trained), strict=True)
    assert set(fresh.hub.datasets) == {"animals", "things", "extra"}


def test_detectron2s_checkpointer_brings_the_data_sets_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It throws away entries that differ in size from the model's own, and metadata of other data sets would."""
    trained, fresh = awake(build_tiny()), build_tiny(tiny_hub(datasets=[]))
    DetectionCheckpointer(trained, str(tmp_path)).save("model")
    DetectionCheckpointer(fresh).load(str(tmp_path / "model.pth"))
    assert list(fresh.hub.datasets) == ["animals", "things"] and "hub." not in caplog.text
    assert torch.equal(scores(fresh, sample("things"))[0], scores(trained, sample("things"))[0])


def test_a_source_that_is_another_data_sets_here(caplog: pytest.LogCaptureFixture) -> None:
    """Both conventions of one split, or a name that the model uses for another's split."""
    mine = DatasetContext.create("blood", ["cell"], sources=["animals_train"])
    model = build_tiny(tiny_hub(datasets=[mine]))
    load_into(model, saved(build_tiny()))
    assert set(model.hub.datasets) == {"animals", "things", "blood"} and model.hub.find("animals_train") == mine
    assert "'animals_train' means this model's data set 'blood'" in caplog.text
    taken = build_tiny(tiny_hub(datasets=[DatasetContext.create("blood", ["cell"], sources=["things"])]))
    with pytest.raises(WeightsError, match="'things' is a source of 'blood' here"):
        load_into(taken, saved(build_tiny()))
    assert list(taken.hub.datasets) == ["blood"]


def test_metadata_that_cannot_be_read() -> None:
    state = saved(build_tiny())
    state["hub.metadata"] = torch.tensor([1, 2, 3], dtype=torch.uint8)
    with pytest.raises(WeightsError, match="metadata"):
        load_into(build_tiny(), state)


def test_other_text_encoders_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    other = CategoryEmbeddings(text_encoder=HashedTextEncoder(dim=TEXT, seed=7))
    load_into(build_tiny(tiny_hub(embeddings=other)), saved(build_tiny()))
    assert "text encoder" in caplog.text
