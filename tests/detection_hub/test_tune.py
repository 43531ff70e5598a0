"""One more data set for a trained hub: what is trained, what is written, and prediction with no data set on the disk."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import LazyCall as L
from PIL import Image

from detection_hub.data import HubDataset
from detection_hub.tune import tuning_config
from openvocab import load_predictor
from openvocab.config import instantiate, load_config
from openvocab.data.catalog import unregister
from openvocab.engine import train
from openvocab.errors import ConfigError, DataError, WeightsError, cli_main
from openvocab.io import load_weights
from openvocab.predictor import Predictor
from openvocab.testing import tiny_picture
from tests.openvocab.colours import ColourDetector

from .conftest import awake, build_tiny
from .data.conftest import SIZES, register, shapes, truth  # noqa: F401  a fixture

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from tests.detection_hub.conftest import build_tiny

model = L(build_tiny)()
train = dict(device="cpu", log_period=10)
dataloader = dict(test=dict(x=dict(loader=dict(mapper=dict(augmentations=[L(T.NoOpTransform)()])))))
"""
OWN = ("hub.vectors.vectors.night", "hub.vectors.biases.night")


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Path]:
    """A config, and weights of a hub that knows animals and things."""
    config, weights = tmp_path / "config.py", tmp_path / "hub.pth"
    config.write_text(CONFIG)
    model = awake(build_tiny()).eval()
    with torch.no_grad():
        model([{"image": tiny_picture(64, 64), "dataset": "animals"}])  # as training does, it finds the mean of all names
    torch.save({"model": model.state_dict()}, weights)
    return config, weights


def night(**more: object) -> object:
    return L(HubDataset)(**{"name": "night", "train": shapes("A"), "test": shapes("A", "val"), "flags": ["loose"], **SIZES, **more})


def tune(trained: tuple[Path, Path], output: Path, **more: object) -> dict[str, torch.Tensor]:
    config, weights = trained
    options = {"dataset": night(), "weights": weights, "output_dir": output, "steps": 6, "lr": 0.05, **more}
    train(tuning_config(load_config(config), **options))
    return load_weights(output / "model_final.pth").tensors


def test_only_its_own_vector_and_bias_change(trained: tuple[Path, Path], tmp_path: Path) -> None:
    before, after = load_weights(trained[1]).tensors, tune(trained, tmp_path / "night")
    assert set(after) == set(before) | set(OWN)
    assert [k for k in before if not torch.equal(before[k], after[k])] == ["hub.metadata"]
    assert all(bool(after[k].abs().max() > 0.01) for k in OWN)
    rows = [json.loads(line) for line in (tmp_path / "night" / "metrics.json").read_text().splitlines()]
    assert "night/bbox/AP" in rows[-1] and rows[-1]["data set night/pictures"] == 24
    again = tune((trained[0], tmp_path / "night" / "model_final.pth"), tmp_path / "more")
    assert not torch.equal(again[OWN[0]], after[OWN[0]]) and set(again) == set(after)


def test_a_tuned_data_set_learns(trained: tuple[Path, Path], tmp_path: Path) -> None:
    tune(trained, tmp_path / "night", steps=30, dataset=night(test=None))
    rows = [json.loads(line) for line in (tmp_path / "night" / "metrics.json").read_text().splitlines()]
    first, last = (sum(row[f"data set night/{term}"] for term in ("ce", "giou", "bbox")) for row in (rows[0], rows[-1]))
    assert last < 0.9 * first


def test_it_predicts_with_no_data_set_on_the_disk(trained: tuple, tmp_path: Path, register: Callable) -> None:  # noqa: F811
    name = register("night_a", [[(0, 5, 5, 20, 15)], [(1, 3, 4, 10, 12)]], ["owl", "bat"])
    tune(trained, tmp_path / "night", dataset=night(train=name, test=None))
    unregister(name)
    shutil.rmtree(tmp_path / name)
    weights = tmp_path / "night" / "model_final.pth"
    image = tiny_picture(64, 96).permute(1, 2, 0).numpy()
    predictor = load_predictor(trained[0], weights=weights, dataset="night", score_threshold=0.0, device="cpu")
    found = predictor(image)
    assert set(found.names) == {"owl", "bat"}
    predictor.set_dataset("animals_train")  # a split of animals
    assert set(predictor(image).names) <= {"cat", "dog", "zebra"}
    told = predictor(image, ["owl", "bat"])
    predictor.set_dataset(None)
    alone = predictor(image, ["owl", "bat"])
    best = [round(float(d.scores[0]), 4) for d in (found, told, alone)]
    assert len(set(best)) == 3, "a data set's conventions stay when names are given"
    with pytest.raises(DataError, match="no data set 'nigt'. Did you mean 'night'"):
        predictor.set_dataset("nigt")


def test_a_hub_of_bgr_pictures_is_tuned_and_tested_on_them(trained: tuple, tmp_path: Path) -> None:
    """One order of channels for the model, and for what is read for it."""
    config = load_config(trained[0])
    for given, wanted in ({}, "RGB"), ({"input_format": "BGR"}, "BGR"):
        config.model.update(given)
        loaders = tuning_config(config, dataset=night(), weights=trained[1], output_dir=tmp_path).dataloader
        assert loaders.train.image_format == wanted and loaders.test.night.loader.mapper.image_format == wanted


OWN_SETS = """
from detectron2.config import LazyCall as L
from detection_hub.data import HubDataset
from detection_hub.lazy import hub_dataloader, hub_datasets
from tests.detection_hub.test_training import tiny_model

_sizes = dict(min_sizes=[48], max_size=64)
_sets = [
    L(HubDataset)(name="night", train="NAME", test="NAME", test_size=48, **_sizes),
    L(HubDataset)(name="day", classes=["cup"], test="nowhere_val", test_size=32, **_sizes),
]
model = L(tiny_model)(datasets=hub_datasets(_sets))
dataloader = hub_dataloader(_sets, total_batch_size=2)
train = dict(device="cpu")
"""


def test_a_config_whose_names_stand_in_its_data_sets_predicts_without_them(
    tmp_path: Path,
    register: Callable,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    name, config, weights = "night_b", tmp_path / "own.py", tmp_path / "hub.pth"
    register(name, [[(0, 5, 5, 20, 15)], [(1, 3, 4, 10, 12)]], ["owl", "bat"])
    config.write_text(OWN_SETS.replace("NAME", name))
    trained = awake(instantiate(load_config(config).model)).eval()
    image = tiny_picture(64, 96).permute(1, 2, 0).numpy()
    with torch.no_grad():
        trained([{"image": tiny_picture(64, 64), "dataset": "night"}])
    assert trained.hub.datasets["night"].evaluator == "coco" and trained.hub.datasets["day"].evaluator == "auto"
    torch.save({"model": trained.state_dict()}, weights)
    with_data = load_predictor(config, weights=weights, dataset="night", score_threshold=0.0, device="cpu")(image)
    unregister(name)
    shutil.rmtree(tmp_path / name)
    predictor = load_predictor(config, weights=weights, dataset="night", score_threshold=0.0, device="cpu")
    assert "the names of 'night' must come from the weights" in caplog.text
    alone = predictor(image)
    assert list(alone.names) == list(with_data.names) and set(alone.names) <= {"owl", "bat"} and len(alone.names) > 0
    assert torch.equal(torch.as_tensor(alone.boxes), torch.as_tensor(with_data.boxes))
    sizes = {n: load_predictor(config, weights=weights, dataset=n)._input(image)["image"].shape[1] for n in ("night", "day")}
    assert sizes == {"night": 43, "day": 32}, "each data set has its own size: short sides 48 and 32, long sides up to 64"
    data = load_config(config).dataloader
    for part, lost in ((data.train, name), (data.test.day.loader, "nowhere_val")):
        with pytest.raises(DataError, match=f"no data set '{lost}'"):
            instantiate(part)


def test_models_without_data_sets_say_so() -> None:
    with pytest.raises(ConfigError, match="ColourDetector knows no data sets"):
        Predictor(model=ColourDetector(), augmentations=[]).set_dataset("night")


def test_weights_that_do_not_fit(trained: tuple[Path, Path], tmp_path: Path) -> None:
    tensors = load_weights(trained[1]).tensors
    torch.save({"model": {k: v for k, v in tensors.items() if "head_series.1" not in k}}, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match="part.pth lacks"):
        tune((trained[0], tmp_path / "part.pth"), tmp_path / "out")


# ---- tools/hub.py -----------------------------------------------------------------------------------------------------


def tool_call(name: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a tool in this process; return its exit code."""
    spec = importlib.util.spec_from_file_location(f"{name}_of_a_hub_under_test", ROOT / "tools" / f"{name}.py")
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, tool)
    spec.loader.exec_module(tool)
    monkeypatch.syspath_prepend(str(ROOT))

    def run(*args: object) -> int:
        with pytest.raises(SystemExit) as left:
            cli_main(lambda: tool.main([str(a) for a in args]))
        return left.value.code

    return run


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    return tool_call("hub", monkeypatch)


def listed(tmp_path: Path, *rows: dict) -> Path:
    path = tmp_path / "sets.yaml"
    path.write_text(yaml.safe_dump([{**SIZES, **row} for row in rows]))
    return path


def test_the_commands(trained: tuple[Path, Path], tmp_path: Path, call: Callable, capsys: pytest.CaptureFixture) -> None:
    config, weights = trained
    sets = listed(
        tmp_path,
        {"name": "night", "train": shapes("A"), "test": shapes("A", "val"), "flags": ["loose"]},
        {"name": "day", "train": shapes("B"), "test": shapes("B", "val")},
    )
    files = ["--config-file", config, "--hub", sets, "--device", "cpu"]
    out = tmp_path / "out"
    assert call("tune", *files, "--weights", weights, "--datasets", "night", "--output", out, "--steps", 2) == 0
    new = out / "model_final.pth"
    assert f"wrote {new}" in capsys.readouterr().out
    assert call("list", "--weights", new) == 0
    said = capsys.readouterr().out
    assert "night" in said and "person, ball, box" in said and "loose" in said and "animals" in said
    result = tmp_path / "results.json"
    assert call("test", *files, "--weights", new, "--datasets", "night", "--json", result) == 0
    assert set(json.loads(result.read_text())) == {"night", "hub"} and "hub AP" in capsys.readouterr().out
    assert call("swap", *files, "--weights", new) == 2
    assert "does not know the data set 'day'" in capsys.readouterr().err
    assert call("tune", *files, "--weights", new, "--datasets", "day", "--output", out / "day", "--steps", 2) == 0
    assert call("swap", *files, "--weights", out / "day" / "model_final.pth", "--json", result) == 0
    assert json.loads(result.read_text())["night"]["day"]["names"] == 2 and "as if of" in capsys.readouterr().out


def test_what_is_wrong_is_one_sentence(trained: tuple, tmp_path: Path, call: Callable, capsys: pytest.CaptureFixture) -> None:
    config, weights = trained
    sets = listed(tmp_path, {"name": "night", "train": shapes("A")}, {"name": "day", "train": shapes("B")})
    files = ["--config-file", config, "--weights", weights]
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "none.pth")
    (tmp_path / "dict.yaml").write_text("a: 1")
    (tmp_path / "field.yaml").write_text("[{name: x, trian: y}]")
    for args, words in (
        ([], "list|test|swap|add|tune"),
        (["add", *files, "--hub", sets, "--output", tmp_path / "a.zip"], "a.zip must end in .pth"),
        (["list", "--weights", tmp_path / "none.pth"], "has no hub"),
        (["test", *files], "no dataloader.train.datasets"),
        (["test", *files, "--hub", tmp_path / "dict.yaml"], "must be a list"),
        (["test", *files, "--hub", tmp_path / "field.yaml"], "'trian'. Did you mean 'train'"),
        (["test", *files, "--hub", sets, "--datasets", "nigh"], "no data set 'nigh'. Did you mean 'night'"),
        (["tune", *files, "--hub", sets, "--output", tmp_path], "tune takes one data set"),
        (["tune", *files, "--hub", sets, "--output", tmp_path, "--steps", 0], "--steps 0"),
        (["tune", *files, "--hub", sets], "--output"),
    ):
        assert call(*args) == 2, args
        said = capsys.readouterr().err
        assert words in said and said.startswith("error: ") and said.count("\n") == 1, said


def test_names_and_flags_alone_make_a_data_set(
    trained: tuple, tmp_path: Path, call: Callable, capsys: pytest.CaptureFixture
) -> None:
    config, weights = trained
    sets, new = listed(tmp_path, {"name": "night", "classes": ["owl", "bat"], "flags": ["loose"]}), tmp_path / "new" / "hub.pth"
    files = ["--config-file", config, "--weights", weights, "--hub", sets, "--device", "cpu"]
    assert call("add", *files, "--output", new) == 0
    assert f"wrote {new}: use it with dataset='night'" in capsys.readouterr().out
    before, after = load_weights(weights).tensors, load_weights(new).tensors
    assert set(after) == set(before) | set(OWN) and not after[OWN[0]].any()
    assert [k for k in before if not torch.equal(before[k], after[k])] == ["hub.metadata"]
    image, options = tiny_picture(64, 96).permute(1, 2, 0).numpy(), {"score_threshold": 0.0, "device": "cpu"}
    found = load_predictor(config, weights=new, dataset="night", **options)(image)
    by_hand = load_predictor(config, weights=weights, **options)
    by_hand.model.register_dataset("night", ["owl", "bat"], flags=["loose"])
    by_hand.set_dataset("night")
    expected = by_hand(image)
    assert list(found.names) == list(expected.names) and len(found.names) > 0
    assert torch.equal(torch.as_tensor(found.boxes), torch.as_tensor(expected.boxes))


def test_own_folders_are_registered(trained: tuple, tmp_path: Path, call: Callable, capsys: pytest.CaptureFixture) -> None:
    """A stranger's folder with a COCO json, from two small files."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "boxes.json").write_text(json.dumps(truth(shapes("A"))))
    images = Path(truth_folder(shapes("A")))
    row = {"root": str(folder), "annotations": "boxes.json", "images": str(images)}
    (tmp_path / "folders.yaml").write_text(yaml.safe_dump({"mine": row}))
    sets = listed(tmp_path, {"name": "owls", "train": "mine", "aliases": {"ball": "owl"}})
    files = ["--config-file", trained[0], "--weights", trained[1], "--hub", sets, "--register", tmp_path / "folders.yaml"]
    assert call("tune", *files, "--output", tmp_path / "out", "--steps", 1, "--device", "cpu") == 0
    assert "dataset='owls'" in capsys.readouterr().out


def test_the_demo_looks_as_a_data_set_does(
    trained: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    config, weights = trained
    demo, photo, result = tool_call("demo", monkeypatch), tmp_path / "photo.png", tmp_path / "found.json"
    Image.fromarray(tiny_picture(64, 96).permute(1, 2, 0).numpy()).save(photo)
    command = ["--input", photo, "--model", config, "--device", "cpu", "--threshold", 0, "--overlap", 1, "--output", tmp_path / "o"]

    def found(*args: object) -> list[tuple]:
        assert demo(*command, "--weights", weights, "--json", result, *args) == 0
        rows = json.loads(result.read_text())["results"][0]["detections"]
        return [(d["name"], round(d["score"], 3), [round(v) for v in d["box"]]) for d in rows]

    own = found("--dataset", "animals")
    predictor = load_predictor(config, weights=weights, dataset="animals", score_threshold=0.0, device="cpu")
    expected = predictor(photo)
    assert own and [row[0] for row in own] == list(expected.names) and {row[0] for row in own} <= {"cat", "dog", "zebra"}
    assert found("--dataset", "animals_train") == own, "a split of it"
    cups = [found("--text", "cup. dog.", *more) for more in ([], ["--dataset", "animals"], ["--dataset", "things"])]
    assert all({row[0] for row in rows} <= {"cup", "dog"} for rows in cups) and cups[0] != cups[1] != cups[2] != cups[0]
    assert found("--dataset", "things") == cups[2]
    capsys.readouterr()
    for more, words in (
        (["--weights", weights, "--dataset", "animal"], "no data set 'animal'. Did you mean 'animals'"),
        (["--weights", weights], "or --dataset, one of animals, things"),
    ):
        assert demo(*command, *more) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, said


def truth_folder(name: str) -> str:
    from detectron2.data import MetadataCatalog

    return MetadataCatalog.get(name).image_root
