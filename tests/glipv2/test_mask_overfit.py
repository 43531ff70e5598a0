"""A model that cannot learn the masks of a few shapes by heart cannot learn masks; what it learned is shown by the demo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvocab import Detections
from openvocab.config import load_config
from openvocab.engine import train
from openvocab.testing import ShapesWorld, referring_of

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "glipv2/quick/shapes_masks"


@pytest.mark.slow
def test_names_and_sentences_get_their_masks(tmp_path: Path) -> None:
    results = train(load_config(CONFIG, [f"train.output_dir={tmp_path}"]))
    assert results["shapes"]["segm"]["AP50"] > 90
    assert results["referring"]["segm_referring"]["mIoU"] > 70

    scene = ShapesWorld(image_size=128, num_objects=(3, 5), needs_sentence=True).scene(0)
    sentence = next(r for r in referring_of(scene) if r.needs_sentence)
    Image.fromarray(scene.image).save(tmp_path / "scene.png")
    command = [sys.executable, "tools/demo.py", "--model", CONFIG, "--weights", str(tmp_path / "model_final.pth"), "--input"]
    command += [str(tmp_path / "scene.png"), "--caption", sentence.text, "--output", str(tmp_path / "out"), "--json"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (entry,) = json.loads((tmp_path / "out" / "detections.json").read_text())["results"]
    found = Detections.from_dict(entry)
    mask, target = found.masks[np.flatnonzero(found.classes == 0)[0]], scene.objects[sentence.target].visible
    assert (mask & target).sum() > 0.5 * (mask | target).sum()
