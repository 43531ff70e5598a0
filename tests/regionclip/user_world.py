"""The command line as a user of RegionCLIP types it, in this process, and the shipped recipes at width 8; files: `user_files`."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from openvocab.errors import cli_main
from regionclip.convert import ClipResNet

ROOT = Path(__file__).resolve().parents[2]
TOWER = ClipResNet((1, 2, 1, 1), 8, 32, 7)
SHORT, LONG = 128, 192


@dataclass(frozen=True)
class UserWorld:
    """The folder that $DETECTRON2_DATASETS names, the one of converted files in it, and the one of files as they are downloaded."""

    root: Path

    @property
    def files(self) -> Path:
        return self.root / "regionclip"

    @property
    def given(self) -> Path:
        return self.root / "downloads"

    @property
    def pictures(self) -> list[Path]:
        """Validation pictures."""
        return sorted((self.root / "coco" / "val2017").iterdir())

    def instances(self, split: str = "val") -> dict:
        """Content of COCO's json."""
        return json.loads((self.root / f"coco/annotations/instances_{split}2017.json").read_text())


# ---- the command line -----------------------------------------------------------------------------------------------


def tool(name: str) -> ModuleType:
    """A script of tools/ as a module."""
    key = f"tools_{name}_of_user_world"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, ROOT / "tools" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        spec.loader.exec_module(module)
    return sys.modules[key]


def call(name: str, *args: object) -> int:
    """Run a script of tools/ in this process as a shell would; return its exit code."""
    main = tool(name).main
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            cli_main(lambda: main(sys.argv[1:]) if inspect.signature(main).parameters else main())
    return left.value.code


def train_net(config: str | Path, *args: object, out: Path) -> int:
    """Run tools/train_net.py on a config (of configs/regionclip, unless it is a path)."""
    name = config if isinstance(config, Path) else f"regionclip/{config}"
    return call("train_net", "--config-file", name, f"train.output_dir={out}", "train.device=cpu", "train.log_period=1", *args)


def results(out: Path) -> dict:
    """What an evaluation wrote."""
    return json.loads((out / "results.json").read_text())


# ---- the shipped recipes at width 8 ---------------------------------------------------------------------------------


def small_tower(place: str = "model") -> list[str]:
    sizes = {"blocks": list(TOWER.blocks), "width": TOWER.width, "embed_dim": TOWER.embed_dim, "side": TOWER.side}
    return [f"+{place}.backbone.{k}={v}" for k, v in sizes.items()]


def small_rpn(place: str = "model.offline_rpn", count: int = 40) -> list[str]:
    sizes = {"stem_channels": 8, "width_per_group": 4, "res2_channels": 8, "fpn_channels": 8}
    return [*(f"+{place}.{k}={v}" for k, v in sizes.items()), f"{place}.post_nms_topk={count}"]


def small_detector(*, rpn: bool = True, mask: bool = False) -> list[str]:
    """Overrides that make a detector of configs/regionclip one of `TOWER`'s size."""
    found = [*small_tower(), f"model.roi_heads.box_predictor.input_dim={TOWER.embed_dim}", *(small_rpn() if rpn else [])]
    if mask:
        found += ["model.roi_heads.mask_head.input_shape.channels=256", "model.roi_heads.mask_head.conv_dims=[6]"]
    return found


def small_tests(*names: str) -> list[str]:
    """Overrides of test sets: small pictures, one process."""
    found = []
    for name in names:
        loader = f"dataloader.test.{name}.loader"
        size = f"{loader}.mapper.augmentations.0"
        found += [f"{loader}.num_workers=0", f"{size}.short_edge_length={SHORT}", f"{size}.max_size={LONG}"]
    return found


def small_training(steps: int) -> list[str]:
    """Overrides of a transfer training: two small pictures a step, a checkpoint every second step."""
    source = "dataloader.train.sources.0.mapper.augmentations.0"
    data = ["dataloader.train.num_workers=0", "dataloader.train.total_batch_size=2", "train.reference_batch_size=2"]
    sizes = [f"{source}.short_edge_length=[96,128]", f"{source}.max_size={LONG}", "model.roi_heads.batch_size_per_image=16"]
    return [*data, *sizes, f"train.max_iter={steps}", "train.checkpointer.period=2", "lr_multiplier.warmup_length=0.1"]
