"""Released checkpoints of Sparse R-CNN: every key, the classifier, the number of queries."""

from __future__ import annotations

import ast

import pytest
import torch

from detection_hub.convert import BOXES, FEATURES, from_resnet, from_sparse_rcnn, warm_alignment
from openvocab.errors import WeightsError
from openvocab.io import load_into
from openvocab.testing import golden_path

from .conftest import QUERIES, STAGES, build_tiny, tiny_head


def official() -> tuple[dict[str, torch.Tensor], object]:
    """A checkpoint as the released code would write it, of a small model; and the model."""
    model = build_tiny(None, seed=9, decoder=tiny_head(num_classes=3))
    return {f"module.{k}": v for k, v in model.state_dict().items()}, model


def recorded_keys() -> dict[str, tuple[int, ...]]:
    rows = golden_path("sparse_rcnn/r50_300pro_keys.txt").read_text().splitlines()
    columns = [row.split("\t") for row in rows if row.strip() and not row.startswith("#")]
    return {name: ast.literal_eval(shape) for name, shape, _ in columns}


def test_every_key_of_the_full_size_model_has_its_place() -> None:
    shapes = recorded_keys()
    state = {k: torch.zeros(1).expand(s or (1,)) for k, s in shapes.items()}
    converted, report = from_sparse_rcnn(state, keep_classifier=True)
    assert not report.unexpected and not report.missing and not report.dropped
    assert {k: tuple(v.shape) for k, v in converted.items()} == shapes
    assert report.queries == (shapes[FEATURES][0],) * 2


@pytest.mark.slow
def test_the_full_size_model_has_exactly_these_keys_and_shapes() -> None:
    from detectron2.config import instantiate

    from openvocab.config import load_config

    shapes = recorded_keys()
    cfg = load_config("configs/detection_hub/models/detection_hub_r50.py")
    cfg.model.hub, cfg.model.decoder.num_classes = None, shapes["head.head_series.0.class_logits.weight"][0]
    cfg.model.num_queries = shapes[FEATURES][0]
    own = instantiate(cfg.model).state_dict()
    assert {k: tuple(v.shape) for k, v in own.items()} == shapes


def test_weights_arrive_and_the_report_says_so() -> None:
    state, theirs = official()
    converted, report = from_sparse_rcnn({**state, "module.criterion.empty_weight": torch.ones(4), "module.what": torch.ones(1)})
    assert report.unexpected == ["module.what"] and "module.criterion.empty_weight" in report.dropped
    assert len(report.dropped) == 2 * STAGES + 1 and not report.missing
    assert "1 unexpected" in str(report) and f"queries {QUERIES} -> {QUERIES}" in str(report)
    ours = build_tiny()
    loaded = load_into(ours, converted)
    assert not loaded.unexpected and not loaded.mismatched and all(k.startswith("hub.") for k in loaded.missing)
    assert torch.equal(ours.head.head_series[1].linear1.weight, theirs.head.head_series[1].linear1.weight)


def test_an_incomplete_checkpoint_is_described() -> None:
    state, _ = official()
    del state["module.head.head_series.1.linear1.weight"], state[f"module.{BOXES}"]
    assert from_sparse_rcnn(state)[1].missing == [BOXES, "head.head_series.1.linear1.weight"]


@pytest.mark.parametrize("wanted", [1, QUERIES - 1, QUERIES, QUERIES + 1, 3 * QUERIES])
def test_the_number_of_queries_may_change(wanted: int) -> None:
    state, theirs = official()
    converted, report = from_sparse_rcnn(state, num_queries=wanted)
    rows, old = converted[FEATURES], theirs.init_proposal_features.weight
    assert report.queries == (QUERIES, wanted) and len(rows) == len(converted[BOXES]) == wanted
    assert torch.equal(rows[:QUERIES], old[:wanted])
    copies = rows[QUERIES:]
    near = (copies - old[torch.arange(QUERIES, max(wanted, QUERIES)) % QUERIES]).abs()
    assert bool((near < 0.1).all()) and bool((near > 0).any(dim=-1).all())
    assert torch.equal(from_sparse_rcnn(state, num_queries=wanted)[0][FEATURES], rows)  # the same noise each time
    if wanted > QUERIES:
        assert not torch.equal(from_sparse_rcnn(state, num_queries=wanted, seed=1)[0][FEATURES], rows)
    load_into(build_tiny(num_queries=wanted), converted)


def test_strangers_and_senseless_wishes_are_refused() -> None:
    with pytest.raises(WeightsError, match="PeizeSun/SparseR-CNN"):
        from_sparse_rcnn({"conv1.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="num_queries=0"):
        from_sparse_rcnn(official()[0], num_queries=0)


def test_a_resnet_of_torchvision_gives_the_same_maps() -> None:
    """Random weights and statistics, so that every tensor matters; torchvision's last map against ours."""
    from detectron2.modeling import ResNet
    from detectron2.modeling.backbone import BasicStem
    from torchvision.models.resnet import BasicBlock
    from torchvision.models.resnet import ResNet as Theirs

    theirs = Theirs(BasicBlock, [2, 2, 2, 2]).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in theirs.state_dict().values():
            if value.ndim == 1:
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    state, report = from_resnet(theirs.state_dict())
    assert not report.unexpected and not report.missing and {"fc.weight", "bn1.num_batches_tracked"} < set(report.dropped)
    assert str(report) == f"{len(state)} matched, 0 missing, {len(report.dropped)} dropped, 0 unexpected"
    stages = ResNet.make_default_stages(depth=18, norm="FrozenBN")
    ours = torch.nn.ModuleDict({"bottom_up": ResNet(BasicStem(norm="FrozenBN"), stages, out_features=["res5"])}).eval()
    loaded = load_into(ours, {k.removeprefix("backbone."): v for k, v in state.items()}, strict=True)
    assert not loaded.missing
    image = torch.rand(1, 3, 64, 96, generator=generator)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        expected = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(x))))
        found = ours["bottom_up"](image)["res5"]
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4
    with pytest.raises(WeightsError, match="named as torchvision's ResNets"):
        from_resnet({"stem.conv1.weight": torch.zeros(1)})
    del state["backbone.bottom_up.stem.conv1.weight"]
    part = {k: v for k, v in theirs.state_dict().items() if not k.startswith("layer4")}
    assert from_resnet(part)[1].missing == ["backbone.bottom_up.res5.0.conv1.weight"]


def test_a_bottleneck_has_all_its_names() -> None:
    """ResNet-50's names and shapes, without its weights."""
    from detectron2.modeling import ResNet
    from detectron2.modeling.backbone import BasicStem
    from torchvision.models import resnet50

    with torch.device("meta"):
        theirs = resnet50().state_dict()
        stages = ResNet.make_default_stages(depth=50, stride_in_1x1=False, norm="FrozenBN")
        ours = ResNet(BasicStem(norm="FrozenBN"), stages, out_features=["res5"]).state_dict()
    state, report = from_resnet(theirs, prefix="")
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in ours.items()} and not report.unexpected


def test_an_old_classifier_warms_the_new_one() -> None:
    generator = torch.Generator().manual_seed(0)
    text = torch.nn.functional.normalize(torch.randn(5, 12, generator=generator), dim=-1)
    old = torch.randn(5, 8, generator=generator)
    projection = warm_alignment(old, text)
    assert projection.shape == (12, 8) and torch.allclose(text @ projection, old, atol=1e-4)
    with pytest.raises(WeightsError, match="5 rows and 4 names"):
        warm_alignment(old, text[:4])
