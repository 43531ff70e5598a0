"""Official checkpoints of full size into our full-size models: every key has a place, and nothing else moves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from openvocab.errors import WeightsError
from openvocab.io import load_into, load_weights
from regionclip.convert import VARIANTS, from_clip, from_official, from_rpn
from regionclip.modeling import RegionCLIP, RegionFeatures

from ..test_config import full_config
from ..test_convert import recorded
from ..weights import CLASSES, TINY, clip_file, filled, official, rpn_file, text_keys
from .tiny import build_tiny, detect, pooler, proposals, sample, tiny_backbone, tiny_heads, tiny_predictor, vectors

Shapes = dict[str, tuple[int, ...]]
MODELS = [(data, variant) for data in ("coco", "lvis") for variant in ("RN50", "RN50x4")]


def official_name(data: str, variant: str) -> str:
    return f"{data}_{variant.lower()}_ft{'_lsj' if data == 'lvis' else ''}"


def shapes_of(tensors: dict) -> Shapes:
    return {k: tuple(v.shape) for k, v in tensors.items()}


def empty(data: str, variant: str) -> nn.Module:
    """The full-size model without memory."""
    with torch.device("meta"):
        return RegionCLIP(full_config(data, variant))


@pytest.mark.parametrize(("data", "variant"), MODELS)
def test_a_converted_checkpoint_is_the_whole_model(data: str, variant: str) -> None:
    given = filled(recorded(official_name(data, variant)))
    converted, report = from_official(given, variant=variant)
    wanted, found = shapes_of(empty(data, variant).state_dict()), shapes_of(converted)
    names, width = found.pop(CLASSES)
    assert wanted.pop(CLASSES) == (0, width) and names == {"coco": 65, "lvis": 1203}[data]
    assert found == wanted and report.missing == report.unexpected == []


@pytest.mark.parametrize("variant", ["RN50", "RN101", "RN50x4"])
def test_clip_and_pretrained_files_are_the_whole_backbone(variant: str) -> None:
    own = {k: v for k, v in shapes_of(empty("coco", variant).state_dict()).items() if k.startswith("backbone.")}
    assert own == shapes_of(from_clip(filled({f"visual.{k}": v for k, v in VARIANTS[variant].shapes().items()}))[0])
    if variant != "RN101":
        converted, _ = from_official(filled(recorded(f"pretrain_{variant.lower()}")))
        assert own == {k: v for k, v in shapes_of(converted).items() if k.startswith("backbone.")}
        rpn = {k: v for k, v in shapes_of(empty("zero-shot", variant).state_dict()).items() if k.startswith("offline_rpn.")}
        assert rpn == {k: v for k, v in shapes_of(converted).items() if k.startswith("offline_rpn.")}


@pytest.mark.slow
@pytest.mark.parametrize(("data", "variant"), [("coco", "RN50"), ("lvis", "RN50x4")])
def test_loading_for_real(data: str, variant: str) -> None:
    """The detector, then another RPN, then other names; each leaves all else as it is."""
    model = RegionCLIP(full_config(data, variant))
    converted, _ = from_official(filled(recorded(official_name(data, variant))), variant=variant)
    report = load_into(model, converted, strict=True)
    assert report.matched == sorted(converted) and report.missing == []
    state = model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in converted.items())
    norms = [m for m in model.backbone.modules() if isinstance(m, FrozenBatchNorm2d)]
    rpn = {k: v + 1 for k, v in converted.items() if k.startswith("offline_rpn.")}
    load_into(model, rpn)
    after = model.state_dict()
    assert all(torch.equal(after[k], rpn.get(k, v)) for k, v in converted.items())
    assert norms and all(m.running_var.ne(1).all() and m.running_mean.ne(0).all() for m in norms), "no FrozenBN was reset"
    width = model.roi_heads.box_predictor.input_dim
    for count in (1, 17, 1204):
        model.set_class_embeddings(vectors(count, width))
        assert model.roi_heads.box_predictor.classify(torch.randn(2, width)).shape == (2, count + 1)
    load_into(model, converted)
    assert model.roi_heads.num_classes == 1204, "what was set survives a file"


# ---- the same in small, without recorded lists ----------------------------------------------------------------------


def small(**changes: object) -> RegionCLIP:
    """A detector of the sizes of `weights.TINY`, without names."""
    backbone = tiny_backbone(blocks=TINY.blocks, width=TINY.width, embed_dim=TINY.embed_dim, side=TINY.side)
    predictor = tiny_predictor(embeddings=None, input_dim=TINY.embed_dim)
    features = RegionFeatures(pooler=pooler(2 * TINY.side))
    heads = tiny_heads(box_predictor=predictor, region_features=features)
    return build_tiny(backbone=backbone, roi_heads=heads, **changes)


@pytest.mark.parametrize("kind", ["c4", "fpn", "lsj"])
def test_the_rpn_moves_nothing_else(kind: str) -> None:
    model = small(rpn="fpn_lsj" if kind == "lsj" else kind)
    given = official(rpn=kind)
    load_into(model, from_official(given)[0], strict=True)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    load_into(model, {k: v + 0.5 for k, v in from_rpn(rpn_file(kind))[0].items()})
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if k.startswith("offline_rpn.")}


@torch.no_grad()
def test_names_before_and_after_weights_give_the_same_detections() -> None:
    own, generator = vectors(4), torch.Generator().manual_seed(0)
    converted = from_official(official())[0]
    for k in [k for k in converted if k != CLASSES and "running_var" not in k]:
        converted[k] = 0.2 * torch.randn(converted[k].shape, generator=generator)
    first, last = small(), small()
    first.set_class_embeddings(own)
    load_into(first, converted)
    load_into(last, converted)
    assert last.roi_heads.num_classes == len(converted[CLASSES])
    last.set_class_embeddings(own)
    x = sample(proposals=proposals(6))
    (a,), (b,) = detect(first, x), detect(last, x)
    assert len(a) and torch.equal(a.scores, b.scores) and torch.equal(a.pred_classes, b.pred_classes)


class Archive(nn.Module):
    """What OpenAI ships: a scripted module whose state dict is CLIP's, in float16."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, value in tensors.items():
            *path, last = name.split(".")
            part: nn.Module = self
            for step in path:
                if not hasattr(part, step):
                    part.add_module(step, nn.Module())
                part = getattr(part, step)
            part.register_buffer(last, value.half() if value.is_floating_point() else value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_openais_archive(tmp_path: Path) -> None:
    path, given = tmp_path / "RN50.pt", clip_file(TINY.shapes(), text_keys())
    given = {k: v.clone() for k, v in given.items()}
    torch.jit.save(torch.jit.trace(Archive(given), torch.zeros(1)), str(path))
    with pytest.raises(WeightsError, match="TorchScript archive"):
        load_weights(path)
    converted, report = from_clip(load_weights(path, allow_pickle=True).tensors)
    assert report.unexpected == [] and all(v.dtype is torch.float32 for v in converted.values())
    model = small()
    loaded = load_into(model, converted)
    assert loaded.unexpected == loaded.mismatched == [] and not any(k.startswith("backbone.") for k in loaded.missing)
    name = "layer3.0.conv2.weight"
    assert torch.equal(model.state_dict()[f"backbone.{name}"], given[f"visual.{name}"].half().float())
