"""Training and evaluation runs."""

from .launch import launch
from .optim import build_adamw
from .run import build_model, do_test, summary, train
from .trainer import Trainer, seed_everything

__all__ = ["Trainer", "build_adamw", "build_model", "do_test", "launch", "seed_everything", "summary", "train"]
