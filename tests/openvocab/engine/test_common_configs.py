"""The shared parts of configs: all of them load, and what they describe can be built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from openvocab.config import instantiate, load_config
from openvocab.config.load import config_roots
from openvocab.modeling import set_class_embeddings
from openvocab.vocabulary import Vocabulary, reworded

from .toys import ToyDetector

COMMON = next(p for r in config_roots() if (p := r / "common").is_dir())


def part(name: str) -> object:
    return load_config(COMMON / f"{name}.py")


def test_all_are_tested_here():
    names = {p.relative_to(COMMON).with_suffix("").as_posix() for p in Path(COMMON).rglob("*.py")}
    assert names == {"data", "optim", "schedule", "train", "models/retinanet", "evaluation", "wording"}


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_optimizers(name):
    node = part("optim")[name]
    node.model = ToyDetector()
    optimizer = instantiate(node)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 4


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("cosine", {0.0: 0.01, 0.5: 0.505, 0.999999: 0.01}),
        ("constant", {0.0: 0.01, 0.5: 1.0, 0.999: 1.0}),
        ("step", {0.0: 0.01, 0.5: 1.0, 0.7: 0.1, 0.95: 0.01}),
        ("step_3x", {0.0: 0.01, 0.5: 1.0, 0.8: 0.1, 0.95: 0.01}),
    ],
)
def test_schedules(name, points):
    schedule = instantiate(part("schedule")[name])
    assert {x: schedule(x) for x in points} == pytest.approx(points, abs=1e-3)


def test_data_names_its_sets_and_their_evaluators():
    node = part("data").dataloader
    assert [s.name for s in node.train.sources] == ["coco_2017_train"]
    assert node.test.coco_2017_val.evaluator.dataset_name == "coco_2017_val"
    mapper = instantiate(node.train.sources[0].mapper)
    assert mapper.image_format == "RGB"


def test_wording_fits_the_names_of_its_sets():
    for name, words in part("wording").SHARED_WORDING.items():
        own = Vocabulary.from_names(list(words) if isinstance(words, Mapping) else ["red cell", "fish"])
        asked = reworded(own, words)
        assert asked.names == own.names, name
        assert (asked == own) == (words == "{}"), "words around the names, but where they stay bare"


def test_retinanet_learns_and_changes_its_names():
    torch.manual_seed(0)
    model = instantiate(part("models/retinanet").model).train()
    truth = Instances((96, 128), gt_boxes=Boxes(torch.tensor([[10.0, 10, 90, 80]])), gt_classes=torch.tensor([3]))
    picture = {"image": torch.randint(0, 256, (3, 96, 128)).float(), "height": 96, "width": 128, "instances": truth}
    with EventStorage():
        losses = model([picture])
    sum(losses.values()).backward()
    assert model.head.cls_score.conv.weight.grad.abs().sum() > 0
    assert set_class_embeddings(model, torch.randn(5, 384)) == 1
    model.eval().test_score_thresh = 0.0
    found = model([picture])[0]["instances"]
    assert len(found) > 0 and int(found.pred_classes.max()) < 5
