"""Training: the step, its hooks, checkpoints, resume, launching."""

from .checkpoint import Checkpointer, RunState, read_checkpoint
from .ema import ModelEma
from .evaluation import TestSet, build_test_sets, check_expected, do_test
from .launch import launch
from .optim import LearningRate, build_adamw, build_sgd, param_groups
from .settings import TrainSettings, read_settings
from .stopping import Interrupted, StopRequest
from .train import evaluate_config, train
from .trainer import Trainer

__all__ = [
    "Checkpointer",
    "Interrupted",
    "LearningRate",
    "ModelEma",
    "RunState",
    "StopRequest",
    "TestSet",
    "TrainSettings",
    "Trainer",
    "build_adamw",
    "build_sgd",
    "build_test_sets",
    "check_expected",
    "do_test",
    "evaluate_config",
    "launch",
    "param_groups",
    "read_checkpoint",
    "read_settings",
    "train",
]
