"""What a task's head promises, and the registry of such heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

from glipv2.modeling.detector import GLIPv2
from glipv2.modeling.losses import reduce_mean
from openvocab.errors import InputError

TASK_HEAD_REGISTRY = Registry("GLIPV2_TASK_HEAD")
TASK_HEAD_REGISTRY.__doc__ = """
Registry of GLIPv2's task heads. A registered object is called with keyword arguments and returns a `TaskHead`.
"""


class TaskHead(nn.Module, ABC):
    """One understanding task on top of a detector, whose backbone, text encoder and fused tower it runs.

    A head counts the samples it was trained on in a buffer of its weights: those of 0 were never trained for the task.

    Attributes:
        task: what samples carry under "task".
        loss_name: the key of its loss.
    """

    task: str
    loss_name: str

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("samples_seen", torch.zeros((), dtype=torch.int64))

    def check(self, detector: GLIPv2) -> None:
        """Raise an error if the head cannot stand on this detector."""

    @abstractmethod
    def loss(self, detector: GLIPv2, samples: Sequence[dict]) -> Tensor:
        """Return the loss of at least one sample, a scalar: its mean over the samples of all processes."""

    def no_loss(self, device: torch.device) -> Tensor:
        """Return 0 on a process without samples, and take part in what `loss` adds up over the processes."""
        return shared_mean(torch.zeros((), device=device), 0)

    @abstractmethod
    def predict(self, detector: GLIPv2, samples: Sequence[dict]) -> list[dict]:
        """Return an output a sample; all have pictures of one size."""


def shared_mean(total: Tensor, count: Tensor | int) -> Tensor:
    """Divide this process's sum by the mean count of a process, so that the mean of all processes is that of all samples."""
    count = reduce_mean(torch.as_tensor(count, dtype=torch.float32, device=total.device))
    return total / count.clamp(min=1e-6)


def text_of(sample: dict, key: str) -> str:
    """Return a sample's text.

    Raises:
        InputError: if it has none.
    """
    text = sample.get(key)
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"a sample of the task '{sample.get('task')}' needs a text under '{key}', not {text!r:.60}")
    return text
