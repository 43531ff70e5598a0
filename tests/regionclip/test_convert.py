"""Official weights in our names: whole parts, every variant, and errors that name the cause."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone, build_proposal_generator
from detectron2.structures import ImageList
from torch import nn

from openvocab.errors import WeightsError
from openvocab.io import load_into
from openvocab.testing import golden_path
from regionclip.convert import VARIANTS, from_clip, from_official, from_rpn, text_tower
from regionclip.modeling import ModifiedResNet, build_offline_rpn

from .weights import BOX, CLASSES, TINY, State, clip_file, filled, official, prefixed, rpn_config, rpn_file, rpn_model, text_keys


@lru_cache
def recorded(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an official model, from the lists beside the golden tensors."""
    shapes = {}
    for line in golden_path(f"regionclip/keys_{name}.txt").read_text().splitlines():
        if not line.startswith("#"):
            _, key, shape = line.split("\t")
            shapes[key] = tuple(int(n) for n in shape.strip("()").split(",") if n.strip())
    return shapes


def assert_moved(given: State, result: State, matched: dict[str, str]) -> None:
    """Every matched tensor is the one it was made from, and nothing else is there."""
    assert set(matched.values()) == set(result) and len(matched) == len(result)
    for theirs, ours in matched.items():
        assert torch.equal(result[ours], given[theirs]), theirs


# ---- the official key lists, full size ------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["coco", "lvis"])
@pytest.mark.parametrize("variant", ["RN50", "RN50x4"])
def test_fine_tuned_checkpoints(data: str, variant: str) -> None:
    given = filled(recorded(f"{data}_{variant.lower()}_ft{'_lsj' if data == 'lvis' else ''}"))
    result, report = from_official(given, variant=variant)
    assert report.variant == variant and report.missing == [] and report.unexpected == []
    assert_moved(given, result, report.matched)
    assert {k: tuple(result[f"backbone.{k}"].shape) for k in VARIANTS[variant].shapes()} == VARIANTS[variant].shapes()
    assert sum(k.startswith("backbone.") for k in result) == len(VARIANTS[variant].shapes())
    assert result[CLASSES] is not None and torch.equal(result[CLASSES], given[f"{BOX}test_cls_score.weight"])
    dropped = {k for k in report.dropped if not k.endswith("num_batches_tracked")}
    assert dropped == {f"{BOX}cls_bg_score.weight", f"{BOX}cls_score.weight"}
    assert len(result) + len(report.dropped) == len(given)
    assert any(k.startswith("roi_heads.mask_head.") for k in result) is (data == "lvis")
    offline = {k.removeprefix("offline_rpn.") for k in result if k.startswith("offline_rpn.")}
    theirs = {k.removeprefix("offline_") for k in given if k.startswith("offline_") and "num_batches" not in k}
    assert offline == theirs
    train, _ = from_official(given, classes="train")
    assert torch.equal(train[CLASSES], given[f"{BOX}cls_score.weight"])


@pytest.mark.parametrize("variant", ["RN50", "RN50x4"])
def test_pretrained_checkpoints(variant: str) -> None:
    given = filled(recorded(f"pretrain_{variant.lower()}"))
    result, report = from_official(given)
    assert report.variant == variant and report.unexpected == []
    assert_moved(given, result, report.matched)
    assert set(report.missing) == {CLASSES, f"{BOX}bbox_pred.weight", f"{BOX}bbox_pred.bias"}
    assert {k.partition(".")[0] for k in report.dropped} == {"lang_encoder", "teacher_backbone"}
    assert report.parts["text tower"].startswith("149 tensors") and "teacher" in report.parts
    assert len(result) + len(report.dropped) == len(given)
    words, about = text_tower(given)
    assert len(words) == 149 and about.unexpected == [] and "transformer.resblocks.11.ln_2.bias" in words
    assert torch.equal(words["text_projection"], given["lang_encoder.text_projection"])


@pytest.mark.parametrize("variant", ["RN50", "RN50x4"])
def test_files_of_clip(variant: str) -> None:
    shapes = recorded(f"pretrain_{variant.lower()}")
    image = {k.removeprefix("backbone."): v for k, v in shapes.items() if k.startswith("backbone.")}
    words = {k.removeprefix("lang_encoder."): v for k, v in shapes.items() if k.startswith("lang_encoder.")}
    given = clip_file(image, words)
    result, report = from_clip({k: v.half() if k.startswith("visual.") else v for k, v in given.items()}, variant=variant)
    assert {k: tuple(v.shape) for k, v in result.items()} == prefixed("backbone.", image)
    assert all(v.dtype is torch.float32 for v in result.values()) and report.unexpected == []
    assert sum(k.endswith("num_batches_tracked") for k in report.dropped) == {"RN50": 55, "RN50x4": 85}[variant]
    assert len(result) + len(report.dropped) == len(given) and report.variant == variant


@pytest.mark.parametrize("name", ["coco_rn50_ft", "lvis_rn50_ft_lsj", "pretrain_rn50"])
def test_rpn_checkpoints(name: str) -> None:
    given = {k.removeprefix("offline_"): v for k, v in filled(recorded(name)).items() if k.startswith("offline_")}
    given["roi_heads.box_predictor.cls_score.weight"] = torch.rand(3, 2)
    given["proposal_generator.anchor_generator.cell_anchors.0"] = torch.rand(3, 4)
    result, report = from_rpn({f"module.{k}": v for k, v in given.items()})
    assert_moved(given, result, report.matched)
    assert report.unexpected == [] and len(result) + len(report.dropped) == len(given)
    assert ("LSJ" in report.parts["offline_rpn"]) is ("lsj" in name)


def test_the_recorded_scenarios() -> None:
    golden = torch.load(golden_path("regionclip/golden_tiny.pt"), weights_only=True)
    scenarios = {k: v["state"] for k, v in golden.items() if isinstance(v, dict) and "state" in v}
    assert scenarios
    for name, state in scenarios.items():
        given = {f"{to}.{k}": v for to, of in _shared(state).items() for k, v in golden["shared_weights"][of].items()}
        given |= state["own"]
        result, report = from_official(given)
        assert report.unexpected == [], name
        assert len(result) + len(report.dropped) == len(given), name


def _shared(state: dict) -> dict[str, str]:
    """Where shared weights belong: the module's name is theirs, without the kind of RPN."""
    return {n.removesuffix("_c4").removesuffix("_fpn"): n for n in state["shared"]}


# ---- the same without recorded lists --------------------------------------------------------------------------------


@pytest.mark.parametrize("rpn", ["c4", "fpn", "lsj", None])
def test_a_small_checkpoint_of_every_part(rpn: str | None) -> None:
    given = official(rpn=rpn, mask=True, text=True)
    result, report = from_official(given)
    assert_moved(given, result, report.matched)
    assert report.unexpected == [] and len(result) + len(report.dropped) == len(given)
    assert report.missing == ([] if rpn else ["offline_rpn.*"])
    assert report.variant.startswith("ModifiedResNet of 1-2-1-1 blocks")
    assert "matched" in str(report) and "text tower" in str(report)
    given["backbone.layer1.0.conv9.weight"] = given["odd"] = torch.ones(1)
    assert sorted(from_official(given)[1].unexpected) == ["backbone.layer1.0.conv9.weight", "odd"]


@pytest.mark.parametrize("kind", ["c4", "fpn", "lsj"])
def test_an_rpn_fits_the_module_it_came_from(kind: str) -> None:
    result, report = from_rpn(rpn_file(kind))
    ours = nn.ModuleDict({"offline_rpn": rpn_model(kind)})
    loaded = load_into(ours, result)
    assert loaded.unexpected == loaded.mismatched == []
    assert all(k.endswith("num_batches_tracked") for k in loaded.missing)
    assert "roi_heads.res5.0.conv1.weight" in report.dropped and report.unexpected == []


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_loading_the_rpn_leaves_all_else_untouched(kind: str) -> None:
    norm, recognition = FrozenBatchNorm2d(4), nn.Conv2d(3, 4, 1)
    norm.running_mean.uniform_(1, 2), norm.running_var.uniform_(2, 3)
    rpn = nn.ModuleDict({k: v for k, v in _fresh(kind).items()})
    model = nn.ModuleDict({"backbone": nn.Sequential(recognition, norm), "offline_rpn": rpn})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    load_into(model, from_rpn(rpn_file(kind))[0])
    after = model.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed and all(k.startswith("offline_rpn.") for k in changed)
    wanted = rpn_model(kind).state_dict()
    assert all(torch.equal(after[f"offline_rpn.{k}"], v) for k, v in wanted.items())


def _fresh(kind: str) -> nn.ModuleDict:
    cfg = rpn_config(kind)
    backbone = build_backbone(cfg)
    return nn.ModuleDict({"backbone": backbone, "proposal_generator": build_proposal_generator(cfg, backbone.output_shape())})


def test_our_backbone_takes_all_of_clips() -> None:
    backbone = ModifiedResNet(blocks=TINY.blocks, width=TINY.width, embed_dim=TINY.embed_dim, side=TINY.side)
    result, _ = from_clip(clip_file(TINY.shapes(), text_keys()))
    assert load_into(backbone, result, prefix="backbone.", strict=True).missing == []


@pytest.mark.parametrize("kind", ["c4", "fpn", "lsj"])
def test_our_offline_rpn_takes_all_of_theirs(kind: str) -> None:
    sizes = {"stem_channels": 8, "width_per_group": 4, "res2_channels": 8, "fpn_channels": 8}
    rpn = build_offline_rpn(kind="fpn_lsj" if kind == "lsj" else kind, **sizes)
    assert load_into(rpn, from_rpn(rpn_file(kind))[0], prefix="offline_rpn.", strict=True).missing == []
    image = torch.rand(3, 64, 96) * 255
    theirs, ours = rpn_model(kind), rpn([image])[0]
    batch = ImageList.from_tensors([image.flip(0) - rpn.pixel_mean], theirs["backbone"].size_divisibility)
    with torch.no_grad():
        expected = theirs["proposal_generator"](batch, theirs["backbone"](batch.tensor), None)[0][0]
    assert len(ours) == len(expected) >= 10, "the same proposals as of detectron2's own model"
    assert torch.allclose(ours.objectness_logits, expected.objectness_logits, atol=1e-4)
    assert torch.allclose(ours.proposal_boxes.tensor, expected.proposal_boxes.tensor, atol=1e-2)


def test_an_rpn_out_of_a_whole_checkpoint() -> None:
    given = official(rpn="fpn")
    result, _ = from_rpn(given)
    assert result and all(k.startswith("offline_rpn.") for k in result)
    whole, _ = from_official(given)
    assert {k for k in whole if k.startswith("offline_rpn.")} == set(result)


def test_names_of_open_clip() -> None:
    pytest.importorskip("open_clip")
    from open_clip.modified_resnet import ModifiedResNet

    tower = ModifiedResNet(layers=TINY.blocks, output_dim=16, heads=4, image_size=224, width=8)
    given = {f"visual.{k}": v for k, v in tower.state_dict().items()} | filled(text_keys())
    result, report = from_clip(given)
    assert {k: tuple(v.shape) for k, v in result.items()} == prefixed("backbone.", TINY.shapes())
    assert report.unexpected == [] and len(report.dropped) == len(given) - len(result)


@pytest.mark.parametrize("prefix", ["", "lang_encoder.", "text."])
def test_the_text_tower_alone(prefix: str) -> None:
    words = text_keys()
    given = filled(prefixed(prefix, words) | {"visual.conv1.weight": (2, 2)})
    result, report = text_tower(given)
    assert {k: tuple(v.shape) for k, v in result.items()} == words and report.dropped == ["visual.conv1.weight"]
    del given[f"{prefix}transformer.resblocks.1.mlp.c_fc.bias"]
    with pytest.raises(WeightsError, match="text tower is not whole: .*resblocks.1.mlp.c_fc.bias"):
        text_tower(given)
    with pytest.raises(WeightsError, match="no text tower.*lang_encoder"):
        text_tower(official(rpn=None))


# ---- what is refused ------------------------------------------------------------------------------------------------


def without(key: str, **parts: object) -> State:
    given = official(**parts)
    assert key in given
    return {k: v for k, v in given.items() if k != key}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("backbone.layer2.1.bn2.running_var", "image tower is not whole: .*layer2.1.bn2.running_var"),
        ("backbone.attnpool.c_proj.weight", "c_proj.weight' is missing"),
        ("backbone.conv3.weight", "conv3.weight' is missing"),
        (f"{BOX}bbox_pred.bias", "box predictor is not whole: .*bbox_pred.bias"),
        ("roi_heads.mask_head.predictor.bias", "mask head is not whole: .*predictor.bias"),
        ("offline_backbone.res3.2.conv2.norm.bias", "RPN's backbone is not whole: .*res3.2.conv2.norm.bias"),
        ("offline_backbone.stem.conv1.weight", "stem.conv1.weight' is missing"),
        ("offline_proposal_generator.rpn_head.anchor_deltas.bias", "RPN's head is not whole: .*anchor_deltas.bias"),
        ("offline_proposal_generator.rpn_head.conv.weight", "rpn_head.conv.weight' is missing"),
    ],
)
def test_a_part_that_is_not_whole(key: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        from_official(without(key, mask=True))


@pytest.mark.parametrize(
    "convert", [lambda s: from_official(s), lambda s: from_rpn({k: v for k, v in s.items() if k.startswith("offline")})]
)
@pytest.mark.parametrize("prefix", ["offline_backbone.", "offline_proposal_generator."])
def test_half_an_rpn(convert: Callable, prefix: str) -> None:
    with pytest.raises(WeightsError, match="is missing"):
        convert({k: v for k, v in official().items() if not k.startswith(prefix)})


def test_another_shape_is_named() -> None:
    given = official() | {f"{BOX}bbox_pred.weight": torch.ones(12, 16)}
    with pytest.raises(WeightsError, match=r"bbox_pred.weight has shape \[12, 16\], expected \[4, 16\]"):
        from_official(given)
    with pytest.raises(WeightsError, match="82, .*|51 rows"):
        from_official(official() | {"backbone.attnpool.positional_embedding": torch.ones(51, 256)})


def test_blocks_that_are_missing_as_a_whole() -> None:
    shapes = {k: v for k, v in VARIANTS["RN50"].shapes().items() if not k.startswith("layer3.5.")}
    with pytest.raises(WeightsError, match="3, 4, 5, 3 blocks; at width 64 CLIP has 3, 4, 6, 3 or 3, 4, 23, 3"):
        from_clip(clip_file(shapes, text_keys()))


def test_wrong_variants() -> None:
    small, large = (clip_file(VARIANTS[n].shapes(), text_keys()) for n in ("RN50", "RN50x4"))
    with pytest.raises(WeightsError, match="of RN50x4 and the model is built for RN50: take the file of RN50"):
        from_clip(large, variant="RN50")
    with pytest.raises(WeightsError, match="of RN50 and the model is built for RN50x4"):
        from_clip(small, variant="RN50x4")
    with pytest.raises(WeightsError, match="'ViT-B/32' is not one of RN50"):
        from_clip(small, variant="ViT-B/32")
    vit = filled({"visual.class_embedding": (768,), "visual.conv1.weight": (768, 3, 32, 32), **text_keys()})
    with pytest.raises(WeightsError, match="image tower is no ResNet.*take RN50, RN101, RN50x4"):
        from_clip(vit)
    for key in ("visual.trunk.blocks.0.norm1.weight", "vision_model.embeddings.class_embedding"):
        with pytest.raises(WeightsError, match="no ResNet"):
            from_clip({key: torch.ones(2)})


def test_a_file_of_another_kind() -> None:
    rpn, clip = rpn_file("c4"), clip_file(TINY.shapes(), text_keys())
    with pytest.raises(WeightsError, match="This is an RPN .*from_rpn"):
        from_official(rpn)
    with pytest.raises(WeightsError, match="This is a file of CLIP: use from_clip"):
        from_official(clip)
    with pytest.raises(WeightsError, match="This is a RegionCLIP checkpoint: use from_official"):
        from_clip(official())
    for file in (clip, official(rpn=None), {"stem.conv1.weight": torch.ones(1)}):
        with pytest.raises(WeightsError, match="there is no RPN among these .* tensors: .*rpn_coco_48.pth"):
            from_rpn(file)
    with_clip = {"backbone.bottom_up.conv3.weight": torch.ones(8, 4, 3, 3), "proposal_generator.rpn_head.x": torch.ones(1)}
    with pytest.raises(WeightsError, match="CLIP's ModifiedResNet, not detectron2's"):
        from_rpn(with_clip)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "an empty one"),
        ([torch.ones(1)], "not a list"),
        ({"model": {"a": torch.ones(1)}}, "'model' holds a dict, no tensor: pass the checkpoint's 'model'"),
        ({"a": torch.ones(1)}, "none of these 1 tensors"),
    ],
)
def test_no_state_dict(given: object, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        from_official(given)


def test_classifiers_that_are_not_regionclips() -> None:
    with pytest.raises(WeightsError, match="ordinary linear classifier"):
        from_official(official() | {f"{BOX}cls_score.bias": torch.ones(3)})
    with pytest.raises(WeightsError, match="cls_bg_score.weight' is not zero"):
        from_official(official() | {f"{BOX}cls_bg_score.weight": torch.ones(1, 16)})
    with pytest.raises(WeightsError, match=r"test_cls_score.weight has shape \[5, 24\], expected \[5, 16\]"):
        from_official(official() | {f"{BOX}test_cls_score.weight": torch.ones(5, 24)})
    with pytest.raises(WeightsError, match="classes='novel' is not one of test, train"):
        from_official(official(), classes="novel")
    one = {k: v for k, v in official().items() if "test_cls_score" not in k}
    assert len(from_official(one)[0][CLASSES]) == 3, "zero-shot models have one list of names"
