"""The pretraining configs hold the published numbers (papers and microsoft/GLIP), and find their data by name."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from detectron2.config import instantiate
from omegaconf import DictConfig

from openvocab.config import load_config
from openvocab.data import CaptionPacking
from openvocab.data.known_sets import resolve
from openvocab.modeling.swin import SwinTransformer
from tests.configs.test_all_configs import CONFIGS

FOLDER = CONFIGS / "glipv2" / "pretrain"
NAMES = sorted(p.stem for p in FOLDER.glob("*.py"))
V2 = [n for n in NAMES if n.startswith("glipv2")]


@cache
def cfg(name: str) -> DictConfig:
    return load_config(FOLDER / f"{name}.py")


def test_they_are_all_here() -> None:
    assert NAMES == ["glip_large", "glip_tiny", "glipv2_base", "glipv2_huge", "glipv2_tiny"]


@pytest.mark.parametrize("name", NAMES)
def test_rates_of_the_released_code(name: str) -> None:
    optimizer, train, schedule = cfg(name).optimizer, cfg(name).train, instantiate(cfg(name).lr_multiplier)
    assert (optimizer.lr, optimizer.bias_lr_factor, optimizer.norm_weight_decay) == (1e-4, 2.0, None)
    assert optimizer.overrides.text_encoder.lr_factor == 0.1
    for bias in ("alignment.bias", "relative_position_bias_table"):
        assert dict(optimizer.overrides[bias]) == {"lr_factor": 2.0, "weight_decay": 0.0}
    assert optimizer.weight_decay == (1e-4 if name.endswith("tiny") else 0.01)
    assert cfg(name).dataloader.train.total_batch_size == 64 and train.clip_grad.max_norm == 1.0 and train.ema.decay == 0.999
    assert train.max_iter == (684_000 if name.endswith("tiny") else 1_000_000)
    assert schedule(0) == pytest.approx(0.001) and schedule(2000 / train.max_iter) == pytest.approx(1.0)
    assert [round(schedule(w), 6) for w in (0.66, 0.68, 0.88, 0.9)] == [1.0, 0.1, 0.1, 0.01]


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_and_frozen_stages_of_the_large_ones(name: str) -> None:
    """As microsoft/GLIP has it: to a tenth at 0.667 of each step of the rate; patches and first stage frozen."""
    schedule = cfg(name).optimizer.get("weight_decay_schedule")
    frozen = cfg(name).model.backbone.bottom_up.get("frozen_stages", -1)
    if name.endswith("tiny"):
        assert schedule is None and frozen == -1
        return
    decay = instantiate(schedule)
    assert [round(decay(w), 6) for w in (0.0, 0.4468, 0.447, 0.5936, 0.5937, 0.999)] == [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    assert frozen == (-1 if name == "glipv2_huge" else 2), "there are no weights to freeze a huge one with"


def test_frozen_stages_are_patches_and_the_first() -> None:
    swin = SwinTransformer(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=4, frozen_stages=2)
    frozen = {n.split(".blocks")[0].split(".downsample")[0] for n, p in swin.train().named_parameters() if not p.requires_grad}
    assert {n for n in frozen if not n.startswith("patch_embed")} == {"layers.0"}
    assert all(not p.requires_grad for p in swin.patch_embed.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_prompts(name: str) -> None:
    for source in cfg(name).dataloader.train.sources:
        mapper = source.mapper.mapper if source.name.endswith("_pseudo") else source.mapper
        assert tuple(mapper.augmentations[0].short_edge_length) == (480, 560, 640, 720, 800)
        assert (mapper.image_format, cfg(name).model.input_format) == ("BGR", "BGR")
        assert (mapper.prompt.max_negatives, mapper.prompt.full_prob, mapper.budget.max_tokens) == (85, 0.5, 256)


@pytest.mark.parametrize("name", NAMES)
def test_every_set_is_known_by_its_name(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    kinds = {}
    for source in cfg(name).dataloader.train.sources:
        entry = resolve(source.name)
        packed = source.mapper._target_ is CaptionPacking
        assert packed == source.name.endswith("_pseudo") == ("select" in source)
        assert not packed or (source.mapper.captions.dataset, source.select.min_score) == (source.name, 0.5)
        assert entry is not None and entry.annotations.is_relative_to(tmp_path) and source.weight > 0
        kinds.setdefault(entry.reader, []).append(source.name)
    assert set(kinds) == {"coco", "mdetr", "odvg"}, "detection, gold grounding, and captions with a teacher's boxes"
    assert len(kinds["coco"]) == {"glip_tiny": 1, "glipv2_tiny": 1, "glip_large": 4}.get(name, 5)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_second_version_has_the_new_losses(name: str) -> None:
    model = cfg(name).model
    if name not in V2:
        assert model.get("contrast") is None and model.get("mlm") is None
        return
    contrast, mlm = model.contrast, model.mlm
    assert (contrast.embed_dim, contrast.max_regions, contrast.log_scale, mlm.masker.rate) == (64, 100, 0.0, 0.15)
    assert (contrast.visual_dim, contrast.lang_dim, mlm.head.dim, mlm.head.vocab_size) == (256, 768, 768, 30522)


def test_backbones() -> None:
    sizes = {n: (cfg(n).model.backbone.bottom_up.embed_dim, len(cfg(n).model.head.blocks)) for n in NAMES}
    tiny, large = (96, 6), (192, 8)
    assert sizes == {"glip_tiny": tiny, "glipv2_tiny": tiny, "glip_large": large, "glipv2_base": large, "glipv2_huge": (352, 8)}
