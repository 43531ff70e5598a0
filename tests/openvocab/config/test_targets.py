"""What a config that is data may build."""

from __future__ import annotations

import functools
import os
import pickle
import subprocess

import pytest
import torch
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf
from torch import nn

from openvocab.config import check_target, check_targets
from openvocab.config.targets import find_targets, real_name
from openvocab.errors import ConfigError
from openvocab.io import load_weights

ALLOWED = [
    "torch.nn.Conv2d",
    "torch.nn.modules.conv.Conv2d",
    "torch.nn.functional.relu",
    "torch.optim.AdamW",
    "torchvision.ops.FrozenBatchNorm2d",
    "detectron2.modeling.FPN",
    "detectron2.modeling.backbone.fpn.LastLevelP6P7",
    "detectron2.data.transforms.ResizeShortestEdge",
    "detectron2.data.DatasetMapper",
    "detectron2.solver.WarmupParamScheduler",
    "detectron2.evaluation.COCOEvaluator",
    "fvcore.common.param_scheduler.CosineParamScheduler",
    "timm.create_model",
    "timm.models._factory.create_model",
    "openvocab.text.BertTextEncoder",
    "openvocab.evaluation.COCODetectionEvaluator",
    "openvocab.engine.build_adamw",
    "openvocab.data.TrainSource",
    "openvocab.vocabulary.Vocabulary.from_names",
    "glipv2.modeling.GLIPv2",
]
DANGEROUS = [
    "os.system",
    "posix.system",
    "subprocess.getoutput",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "builtins.open",
    "builtins.__import__",
    "functools.partial",
    "operator.methodcaller",
    "importlib.import_module",
    "pickle.load",
    "shutil.rmtree",
    "logging.os.system",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.serialization.load",
    "torch.utils.cpp_extension.load",
    "torch.nn.modules.module.torch.load",
    "torch.nn.functional.importlib.import_module",
    "torch.nn.functional.warnings.sys.modules",
    "torch.testing.assert_close",
    "numpy.load",
    "detectron2.config.instantiate",
    "detectron2.config.LazyConfig.load",
    "detectron2.utils.env.setup_custom_environment",
    "detectron2.utils.registry.locate",
    "detectron2.checkpoint.DetectionCheckpointer",
    "detectron2.engine.launch",
    "detectron2.model_zoo.get",
    "detectron2.data.build.load_proposals_into_dataset",  # unpickles a file
    "detectron2.data.get_detection_dataset_dicts",  # the same, through proposal_files
    "detectron2.evaluation.coco_evaluation.pickle.load",
    "detectron2.evaluation.coco_evaluation.os.system",
    "detectron2.modeling.META_ARCH_REGISTRY.get",
    "timm.models.load_state_dict",
    "timm.models._helpers.load_state_dict",
    "timm.models.create_model.__globals__",
    "timm.models._factory.create_model2",
    "openvocab.config.instantiate",
    "openvocab.config.os.system",
    "openvocab.io.load_weights",
    "openvocab.io.atomic_write",
    "openvocab.text.clip.load_weights",
    "openvocab.text.cache.os.system",
    "openvocab.evaluation.gather.shutil.rmtree",
    "openvocab.evaluation.coco.atomic_write",
    "openvocab.engine.launch",
    "openvocab.engine.launch.launch",
    "openvocab.testing.tiny.tiny_clip",
    "openvocab.data.os.system",
    "openvocab.data.catalog.os.system",
    "projects.unknown.anything",
    "transformers.AutoModel.from_pretrained",
]
MALFORMED = [
    "",
    ".",
    "torch",
    "torch.nn",
    "torch.nn.",
    "torch..nn.Linear",
    "torch.nn.Linear ",
    "torch.nn.Linear()",
    "a b",
]
ABSENT = [
    "torch.nn.Linearr",
    "openvocab.modeling.nothing.Here",
    "glipv2.modeling.GLIPv3",
    "torch.nn.functional.nothing",
]


@pytest.mark.parametrize("target", ALLOWED)
def test_allowed(target: str) -> None:
    check_target(target)


@pytest.mark.parametrize("target", DANGEROUS)
def test_dangerous(target: str) -> None:
    with pytest.raises(ConfigError, match="not allowed|does not exist"):
        check_target(target)
    with pytest.raises(ConfigError):
        check_targets([{"a": ({"_target_": target},)}])


@pytest.mark.parametrize(
    "target", [*MALFORMED, *ABSENT, 3, None, [], {"_target_": "torch.nn.Linear"}, b"torch.nn.Linear"]
)
def test_malformed_or_absent(target: object) -> None:
    with pytest.raises(ConfigError, match="not allowed|does not exist"):
        check_target(target)


@pytest.mark.parametrize(
    "name", ["torch.nn", "openvocab.modeling", "torch.nn.Module.__init__", "torch.nn.Linear.__class__"]
)
def test_modules_and_dunders(name: str) -> None:
    with pytest.raises(ConfigError):
        check_target(name)


@pytest.mark.parametrize(
    "target",
    [
        os.system,
        eval,
        pickle.load,
        subprocess.Popen,
        torch.load,
        load_weights,
        functools.partial(nn.Linear, 3),
        nn.Linear(1, 1),
    ],
)
def test_objects_are_judged_by_where_they_are_defined(target: object) -> None:
    with pytest.raises(ConfigError, match="not allowed"):
        check_target(target)
    check_target(nn.Linear)


def test_a_refused_target_is_not_imported() -> None:
    import sys

    assert "antigravity" not in sys.modules
    for name in ("antigravity.fly_me", "this.s.translate"):
        with pytest.raises(ConfigError):
            check_target(name)
    assert "antigravity" not in sys.modules and "this" not in sys.modules


def test_the_refusal_says_what_it_really_is() -> None:
    with pytest.raises(
        ConfigError, match=r"'openvocab\.text\.clip\.torch\.load' is not allowed.*'torch\.serialization\.load'"
    ):
        check_target("openvocab.text.clip.torch.load")
    with pytest.raises(ConfigError, match=r"model\.head\.0\._target_: the target 'os\.system'"):
        check_targets({"model": {"head": [{"_target_": "os.system"}]}})


REFERENCES = {
    "value": {"name": "os.system", "model": {"_target_": "${name}"}},
    "part of a value": {"name": "torch.load", "model": {"_target_": "openvocab.text.clip.${name}"}},
    "created": {"model": "${oc.create:{_target_: os.system}}"},
    "decoded": {"model": '${oc.decode:"{_target_: os.system}"}'},
    "in a list": {"model": ["${oc.create:[{_target_: os.system}]}"]},
    "environment": {"model": {"_target_": "${oc.env:OPENVOCAB_TEST_TARGET}"}},
}


@pytest.mark.parametrize("content", REFERENCES.values(), ids=REFERENCES.keys())
def test_references_are_followed(content: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENVOCAB_TEST_TARGET", "os.system")
    with pytest.raises(ConfigError, match="not allowed"):
        check_targets(OmegaConf.create(content))


@pytest.mark.parametrize("content", [{"a": "${a}"}, {"a": "${b}"}, {"a": {"b": "${a}"}}, {"a": "${b}", "b": "${a}"}])
def test_references_that_lead_nowhere_or_never_end(content: dict) -> None:
    with pytest.raises(ConfigError):
        check_targets(OmegaConf.create(content))


def test_real_names() -> None:
    assert real_name(nn.Conv2d) == "torch.nn.modules.conv.Conv2d" and real_name(os.system) == "posix.system"
    assert real_name(nn.Linear(1, 1)) == "" and real_name(functools.partial(eval)) == "" and real_name(os) == ""


def test_find_targets_gives_paths_and_skips_what_is_missing() -> None:
    cfg = OmegaConf.create(
        {"a": [L(nn.Linear)(x=1)], "b": {"_target_": "x.y"}, "c": "???", "d": None}, flags={"allow_objects": True}
    )
    assert dict(find_targets(cfg)) == {"a.0._target_": nn.Linear, "b._target_": "x.y"}
