"""A short run of the quick config: boxes, answers and captions are learned from one loader, and shown by the demo."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from openvocab.config import instantiate, load_config
from openvocab.data import CaptionMapper, DatasetMapper, QuestionMapper
from openvocab.engine import evaluate_config, train
from openvocab.testing import ShapesWorld
from openvocab.testing.quick_tasks import SIMPLE

ROOT = Path(__file__).resolve().parents[3]
CONFIG = "glipv2/quick/shapes_tasks"


@pytest.mark.slow
def test_a_short_run_moves_every_metric_and_the_demo_speaks(tmp_path: Path) -> None:
    overrides = [f"train.output_dir={tmp_path}", "train.max_iter=60"]
    before = evaluate_config(load_config(CONFIG, overrides))
    after = train(load_config(CONFIG, overrides))
    assert after["vqa"]["vqa"]["accuracy"] > before["vqa"]["vqa"]["accuracy"] + 10
    assert after["caption"]["caption"]["CIDEr"] > before["caption"]["caption"]["CIDEr"] + 5

    Image.fromarray(ShapesWorld(image_size=64, split="val", **SIMPLE).scene(0).image).save(tmp_path / "scene.png")
    spec = importlib.util.spec_from_file_location("demo_that_speaks", ROOT / "tools" / "demo.py")
    demo = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = demo
    spec.loader.exec_module(demo)
    options = ["--model", CONFIG, "--weights", str(tmp_path / "model_final.pth"), "--input", str(tmp_path / "scene.png")]
    options += ["--threshold", "0.05", "--output", str(tmp_path / "out"), "--json"]
    for asked in (["--question", "what color is the circle?"], ["--caption"]):
        assert demo.main([*options, *asked]) == 0
        (entry,) = json.loads((tmp_path / "out" / "detections.json").read_text())["results"]
        assert entry["text"] and Path(entry["drawn"]).is_file()
        assert all(" ".join(entry["whole"][s:e] for s, e in k["spans"]) == k["text"] for k in entry["links"])


def test_the_config_is_one_model_and_one_loader() -> None:
    cfg = load_config(CONFIG)
    assert {s.mapper["_target_"] for s in cfg.dataloader.train.sources} == {DatasetMapper, QuestionMapper, CaptionMapper}
    model = instantiate(cfg.model)
    assert model.tasks == ("detection", "vqa", "caption")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) < 2e6
