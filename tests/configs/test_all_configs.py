"""Every file under configs/ is found, loads, has the names it must have, and builds its model on the CPU.

Kinds: a folder `models/` holds one `model` a file; `common/`, and files of plain values, are parts; all else are experiments, and
yaml files are detectron2's. Models are built by detectron2's own `instantiate`, as users do; the published sizes are marked slow.
"""

from __future__ import annotations

import ast
import gc
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import instantiate
from omegaconf import DictConfig

from openvocab.config import check_targets, find_config, list_configs, load_config
from openvocab.config.targets import find_targets
from openvocab.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
FIVE = {"model", "dataloader", "optimizer", "lr_multiplier", "train"}
FLOOR = 19  # as many there were when this was last looked at
PUBLISHED_MILLIONS = {  # parameters of the released checkpoints
    "glipv2/models/glip_a_tiny.py": 151.4,
    "glipv2/models/glip_tiny.py": 231.8,
    "glipv2/models/glip_large.py": 430.4,
}
LARGE = ("SwinTransformer", "BertTextEncoder)(source=None", "CLIPTextEncoder", "depth=50", "depth=101", "mini_concepts")
LARGE += ("ModifiedResNet)(depth=",)  # CLIP's


def config_files() -> list[str]:
    files = (p for p in CONFIGS.rglob("*") if p.suffix in (".py", ".yaml", ".yml") and p.name != "__init__.py")
    return sorted(p.relative_to(CONFIGS).as_posix() for p in files)


def kind(name: str) -> str:
    parts = name.split("/")
    if Path(name).suffix != ".py":
        return "yaml"
    if not any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(tree_of(name))):
        return "part"  # plain values
    if "models" in parts[:-1]:
        return "model"
    return "part" if parts[0] == "common" else "experiment"


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse((CONFIGS / name).read_text(encoding="utf-8"))


def of_kind(*kinds: str) -> list[str]:
    return [name for name in config_files() if kind(name) in kinds]


@cache
def loaded(name: str) -> DictConfig:
    return load_config(CONFIGS / name)


@cache
def source_with_bases(path: Path) -> str:
    """Return the text of a config and of all configs it imports, without running any: some make data when they load."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split(".")).with_suffix(".py")
            text += source_with_bases(base)
    return text


def is_large(name: str) -> bool:
    text = source_with_bases(CONFIGS / name)
    return any(sign in text for sign in LARGE)


def with_marks(names: list[str]) -> list:
    """Return the names as parameters, the large models marked slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] if is_large(name) else []) for name in names]


def test_the_published_sizes_are_slow_and_the_mini_is_not() -> None:
    assert is_large("glipv2/models/glip_tiny.py") and is_large("glipv2/models/glip_large.py")
    assert not is_large("glipv2/models/glipv2_mini.py") and not is_large("glipv2/default.py")


def test_every_file_is_of_one_kind_and_counted() -> None:
    on_disk = {p for p in CONFIGS.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.name != "README.md"}
    names = config_files()
    assert len(names) >= FLOOR
    assert {CONFIGS / name for name in names} == {p for p in on_disk if p.name != "__init__.py"}
    assert sum(len(of_kind(k)) for k in ("part", "model", "experiment", "yaml")) == len(names)
    assert of_kind("experiment") and of_kind("model")


def test_the_zoo_lists_every_experiment() -> None:
    assert {f"{name}.py" for name in list_configs()} == set(of_kind("experiment"))


@pytest.mark.parametrize("name", [n for n in config_files() if n.endswith(".py")])
def test_python_configs_load_and_say_what_they_are(name: str) -> None:
    assert len(loaded(name)) > 0
    assert ast.get_docstring(tree_of(name))


@pytest.mark.parametrize("name", of_kind("experiment"))
def test_experiments_have_the_five_names(name: str) -> None:
    """A sixth name would be a trap: `train_mapper.x=1` on the command line would change a copy that nothing reads."""
    assert set(loaded(name)) == FIVE, "helpers in an experiment start with an underscore"


@pytest.mark.parametrize("name", of_kind("experiment"))
def test_every_target_of_every_experiment_is_allowed(name: str) -> None:
    """So that the config.yaml that a run writes can be loaded again."""
    assert find_config(name.removesuffix(".py")).samefile(CONFIGS / name)
    assert sum(1 for _ in find_targets(loaded(name))) > 3
    check_targets(loaded(name))


@pytest.mark.parametrize("name", of_kind("experiment"))
def test_experiments_say_the_command_that_runs_them(name: str) -> None:
    text = ast.get_docstring(tree_of(name)) or ""
    assert f"tools/train_net.py --config-file configs/{name}" in " ".join(text.split())


@pytest.mark.parametrize("name", of_kind("model"))
def test_model_files_have_a_model(name: str) -> None:
    assert "model" in loaded(name)


def check_model(model: torch.nn.Module) -> None:
    parameters = list(model.parameters())
    assert len(parameters) > 10
    assert {p.device.type for p in parameters} == {"cpu"}
    assert all(bool(torch.isfinite(p).all()) for p in parameters)
    assert any(p.requires_grad for p in parameters)


def check_detections(model: torch.nn.Module) -> None:
    """Run a small picture with two names through a detector of random weights."""
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model.postprocessor.score_threshold = 0.0
    with torch.no_grad():
        found = model.eval()([{"image": image, "vocabulary": Vocabulary.from_names(["cat", "remote control"])}])[0]["instances"]
    assert len(found) > 0 and set(found.pred_classes.tolist()) <= {0, 1} and bool(torch.isfinite(found.scores).all())
    low, high = found.pred_boxes.tensor.min(), found.pred_boxes.tensor.amax(0)
    assert low >= 0 and (high <= torch.tensor([96.0, 64.0, 96.0, 64.0])).all()


def check_training_parts(cfg: DictConfig, model: torch.nn.Module) -> None:
    """Build optimizer and schedule as the training script does."""
    node = cfg.optimizer.copy()
    node._set_flag("allow_objects", True)
    (node.params if "params" in node else node).model = model
    optimizer = instantiate(node)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}
    schedule = instantiate(cfg.lr_multiplier)
    assert all(0 <= schedule(where) <= 1 for where in (0.0, 0.5, 0.999)) and schedule(0.5) > 0


@pytest.mark.parametrize("name", with_marks(of_kind("experiment", "model")))
def test_models_build_on_the_cpu(name: str) -> None:
    cfg = loaded(name)
    model = instantiate(cfg.model)
    check_model(model)
    if name in PUBLISHED_MILLIONS:
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(PUBLISHED_MILLIONS[name], abs=0.1)
        check_detections(model)
    if kind(name) == "experiment":
        check_training_parts(cfg, model)
    del model
    gc.collect()


MINI_YAML = """
VERSION: 2
MODEL:
  META_ARCHITECTURE: GLIPv2
  BACKBONE: {NAME: build_timm_fpn_backbone}
  FPN: {OUT_CHANNELS: 32}
  GLIPV2: {NUM_BLOCKS: 1, OFFICIAL: False, DEFORMABLE: False, ATTENTION_DIM: 32, ATTENTION_HEADS: 2, TEXT_ENCODER: ENCODER,
           TEXT_SOURCE: SOURCE, LANGUAGE_HEADS: 2, LANGUAGE_FFN: 32}
"""


def test_yaml_configs_merge_and_build(tmp_path: Path) -> None:
    """detectron2's yaml files with the keys of our plugins: all under configs/, and two small ones of this test's own."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    from detection_hub import add_detection_hub_config
    from glipv2 import add_glipv2_config

    for encoder, source in (("bert", "minilm"), ("hashed", '""')):
        text = MINI_YAML.replace("ENCODER: ENCODER", f"ENCODER: {encoder}").replace("SOURCE: SOURCE", f"SOURCE: {source}")
        (tmp_path / f"{encoder}.yaml").write_text(text)
    for path in [*tmp_path.glob("*.yaml"), *(CONFIGS / name for name in of_kind("yaml"))]:
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)
        cfg = get_cfg()
        add_detection_hub_config(cfg)
        add_glipv2_config(cfg)
        cfg.merge_from_file(str(path))
        cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
        check_model(build_model(cfg))
