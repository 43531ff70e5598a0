"""The predictor and tools/demo.py drive a detector without text encoder: CLIP's backbone, a stock box head, vectors of a file."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from openvocab import Vocabulary, load_predictor
from openvocab.errors import ConfigError, PromptError, VocabularyError
from openvocab.io import save_weights
from openvocab.text import TextEmbeddings, save_text_embeddings

ROOT = Path(__file__).resolve().parents[2]
WORDS = Vocabulary.from_names(["cat", "dog", "hot dog", "remote control"])
D = 12

CONFIG = """
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers, StandardROIHeads
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead

from openvocab.data import DatasetMapper, build_test_loader
from openvocab.modeling import SimilarityClassifier, with_classifier
from regionclip.modeling import ModifiedResNet

boxes = L(Box2BoxTransform)(weights=(10.0, 10.0, 5.0, 5.0))
model = L(GeneralizedRCNN)(
    backbone=L(ModifiedResNet)(blocks=(1, 1, 1, 1), width=8, out_features=["res4"], region_layers=False),
    proposal_generator=L(RPN)(
        in_features=["res4"],
        head=L(StandardRPNHead)(in_channels=128, num_anchors=3),
        anchor_generator=L(DefaultAnchorGenerator)(sizes=[[32]], aspect_ratios=[0.5, 1.0, 2.0], strides=[16], offset=0.0),
        anchor_matcher=L(Matcher)(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=L(Box2BoxTransform)(weights=(1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=16, positive_fraction=0.5, pre_nms_topk=(50, 50), post_nms_topk=(10, 10), nms_thresh=0.7,
    ),
    roi_heads=L(StandardROIHeads)(
        num_classes=1, batch_size_per_image=8, positive_fraction=0.25,
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1]),
        box_in_features=["res4"],
        box_pooler=L(ROIPooler)(output_size=4, scales=(1 / 16,), sampling_ratio=0, pooler_type="ROIAlignV2"),
        box_head=L(FastRCNNConvFCHead)(input_shape=L(ShapeSpec)(channels=128, height=4, width=4), conv_dims=[], fc_dims=[16]),
        box_predictor=L(with_classifier)(
            head=L(FastRCNNOutputLayers)(
                input_shape=L(ShapeSpec)(channels=16), num_classes=1, box2box_transform=boxes, cls_agnostic_bbox_reg=True,
                test_score_thresh=0.0,
            ),
            classifier=L(SimilarityClassifier)(in_features=16, text_dim=12, project=True, temperature=0.5),
        ),
    ),
    pixel_mean=[122.8, 116.7, 104.1], pixel_std=[68.5, 66.6, 70.3], input_format="RGB",
)
mapper = L(DatasetMapper)(is_train=False, augmentations=[L(T.ResizeShortestEdge)(short_edge_length=64, max_size=96)])
dataloader = dict(test={"any": dict(loader=L(build_test_loader)(dataset="any", mapper=mapper))})
train = dict(init_checkpoint="")
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "clip_backbone.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    save_text_embeddings(tmp_path / "words.npz", torch.randn(4, D), vocabulary=WORDS)
    return tmp_path / "words.npz"


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)


def make(config: Path, table: object, **options: object) -> Callable:
    torch.manual_seed(2)
    return load_predictor(config, device="cpu", score_threshold=0, embeddings=table, **options)


def test_names_of_a_file(config: Path, table: Path, picture: np.ndarray) -> None:
    p = make(config, table)
    assert p.vocabulary == WORDS
    found = p(picture)
    assert len(found) and set(found.names) <= set(WORDS) and found.vocabulary == WORDS.names
    some = p(picture, "dog. cat.")
    assert some.vocabulary == ("dog", "cat") and set(some.names) <= {"dog", "cat"}
    p.set_vocabulary(["hot dog"])
    assert set(p(picture).names) == {"hot dog"}, "one name works"


def test_order_of_names_does_not_matter_and_pictures_have_their_own(config: Path, table: Path, picture: np.ndarray) -> None:
    p = make(config, table)
    one, two, three = p.batch([picture] * 3, ["cat. dog.", "dog. cat.", "cat. dog."])
    assert one.names == three.names == two.names and np.allclose(one.boxes, two.boxes) and np.allclose(one.scores, three.scores)
    assert two.vocabulary == ("dog", "cat")


def test_what_the_table_does_not_have(config: Path, table: Path, picture: np.ndarray, tmp_path: Path) -> None:
    p = make(config, table)
    for ask in (lambda: p(picture, "dogs. cat."), lambda: p.set_vocabulary("dogs. cat.")):
        with pytest.raises(VocabularyError, match="embeddings of 4 names only.*'dogs' is not.*Did you mean 'dog'"):
            ask()
    with pytest.raises(PromptError, match="reads no sentence"):
        p.ground(picture, "a dog beside a cat")
    save_text_embeddings(tmp_path / "wide.npz", torch.randn(4, D + 1), vocabulary=WORDS)
    with pytest.raises(VocabularyError, match="do not fit"):
        make(config, tmp_path / "wide.npz")
    with pytest.raises(VocabularyError, match="does not know its names"):
        make(config, TextEmbeddings(torch.randn(4, D)))(picture, "cat. dog.")
    with pytest.raises(ConfigError, match="takes no embeddings"):
        load_predictor("bridge", embeddings=table)


def test_demo_on_a_folder(config: Path, table: Path, picture: np.ndarray, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("demo_of_embeddings", ROOT / "tools" / "demo.py")
    demo = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = demo
    spec.loader.exec_module(demo)
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(picture).save(tmp_path / "in" / name)
    save_weights(tmp_path / "w.safetensors", {k: v for k, v in make(config, table).model.state_dict().items()})
    files = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--device", "cpu", "--threshold", 0, "--json"]
    command = [*files, "--model", config, "--weights", tmp_path / "w.safetensors", "--embeddings", table]
    assert demo.main([str(x) for x in command]) == 0
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [len(r["detections"]) > 0 for r in content["results"]] == [True, True]
    assert content["results"][0]["vocabulary"] == list(WORDS.names)
    np.save(tmp_path / "bare.npy", np.ones((2, D), dtype=np.float32))
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    command[-1] = tmp_path / "bare.npy"
    with pytest.raises(VocabularyError, match="say which with --vocabulary"):
        demo.main([str(x) for x in command])
    assert demo.main([str(x) for x in [*command, "--vocabulary", tmp_path / "names.txt"]]) == 0
