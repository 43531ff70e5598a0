"""Picture and words in, boxes out, with the real detector: its shape with random weights, and the shipped one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from openvocab import Detections, Predictor, Vocabulary, load_predictor
from openvocab.config import ZOO
from openvocab.errors import PromptError, VocabularyError
from openvocab.media import write_samples

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "openvocab" / "weights" / str(ZOO["default"].weights)
shipped = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the weights of 'default' are not in this tree yet")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def random_model() -> Predictor:
    torch.manual_seed(0)
    overrides = ["model.postprocessor.score_threshold=0.0", "model.postprocessor.max_detections=50"]
    return load_predictor("glipv2/default", device="cpu", score_threshold=0, overrides=overrides)


@pytest.fixture(scope="module")
def default() -> Predictor:
    return load_predictor("default", device="cpu")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    pytest.importorskip("skimage")
    return write_samples(tmp_path_factory.mktemp("samples"))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random colours, so that a network has something to look at."""
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width]


def close(a: Detections, b: Detections, boxes: float = 0.05, scores: float = 1e-4) -> bool:
    """The same detections, apart from the order of equal scores."""
    if len(a) != len(b) or np.abs(a.scores - b.scores).max(initial=0) > scores:
        return False
    sure = [i for i in range(len(a)) if a.scores[i] > a.scores[-1] + scores]  # those at the cut may differ
    return all(any(a.names[i] == b.names[j] and np.abs(a.boxes[i] - b.boxes[j]).max() < boxes for j in range(len(b))) for i in sure)


def inside(d: Detections) -> bool:
    height, width = d.size
    return bool((d.boxes >= -0.01).all() and (d.boxes <= np.array([width, height, width, height]) + 0.01).all())


@pytest.mark.parametrize("size", [(37, 911), (911, 37), (200, 300)])
def test_boxes_lie_inside_pictures_of_any_shape(random_model: Predictor, size: tuple[int, int]) -> None:
    d = random_model(noise(*size), "cat. remote control.")
    assert d.size == size and len(d) > 0 and inside(d) and set(d.names) <= {"cat", "remote control"}
    assert close(d, random_model(noise(*size), ["cat", "remote control"]), boxes=1e-3, scores=1e-6)


@pytest.mark.slow
def test_a_batch_equals_one_by_one(random_model: Predictor) -> None:
    pictures = [noise(200, 300, 1), noise(37, 211, 2), noise(260, 180, 3)]
    texts = ["cat. remote control.", "a long list. of. other. names", "dog"]
    for got, picture, text in zip(random_model.batch(pictures, texts, batch_size=3), pictures, texts, strict=True):
        assert close(got, random_model(picture, text))


def test_text_is_encoded_once_a_vocabulary(random_model: Predictor) -> None:
    runs = []
    hook = random_model.model.text_encoder.register_forward_hook(lambda *_: runs.append(1))
    vocabulary = Vocabulary.from_names(["lamp", "sofa", "a red mug"])
    for seed in range(3):
        random_model(noise(100, 150, seed), vocabulary)
    hook.remove()
    assert len(runs) == 1


def test_a_long_vocabulary(random_model: Predictor) -> None:
    lvis = Vocabulary.builtin("lvis").subset(range(0, 1203, 8))
    d = random_model(noise(100, 150), lvis)
    assert len(d) > 0 and d.vocabulary == lvis.names and set(d.names) <= set(lvis.names)


def test_words_that_cannot_be_used(random_model: Predictor) -> None:
    picture = noise(60, 60)
    for text in ("", " . ", "word " * 600):
        with pytest.raises(VocabularyError):
            random_model(picture, text)
    with pytest.raises(PromptError, match="tokens"):
        random_model.ground(picture, "a cat and " * 300)


@pytest.mark.slow
@shipped
def test_a_cat_is_found_by_its_name(default: Predictor, samples: dict) -> None:
    """Chelsea's head fills the left half of the picture; the model never saw the box of a cat."""
    d = default(samples["chelsea"][0], "cat. dog. car")
    assert d.names[0] == "cat" and inside(d)
    x1, y1, x2, y2 = d.boxes[0]
    assert (x2 - x1) * (y2 - y1) > 0.25 * d.size[0] * d.size[1]


@pytest.mark.slow
@shipped
def test_order_of_names_hardly_matters(default: Predictor, samples: dict) -> None:
    path = samples["coffee"][0]
    a, b = default(path, "cup. spoon. dog").filter(0.4), default(path, "dog. spoon. cup")
    for name, score, box in a:
        assert any(n == name and abs(s - score) < 0.15 and np.abs(np.subtract(x, box)).max() < 25 for n, s, x in b)


@pytest.mark.slow
@shipped
def test_the_demo_on_its_samples(tmp_path: Path, samples: dict) -> None:
    command = [sys.executable, "-W", "ignore", "tools/demo.py", "--samples", "--output", str(tmp_path), "--json"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "detections.json").read_text())["results"]
    assert len(results) == len(samples) and sum(len(r["detections"]) for r in results) > 0
    assert all(Path(r["drawn"]).is_file() for r in results) and "cat" in done.stdout
