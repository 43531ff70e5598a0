"""Ways to run the same network faster that round differently: 16 bits, another memory order, compiled code."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openvocab.errors import ConfigError

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Execution:
    """Options that change rounding, not the function; `benchmarks/glipv2.py` prints the error of each.

    Attributes:
        precision: outside training, `"bfloat16"` runs the large products in 16 bits (autocast) and keeps softmax, norms and
            positions in 32. Training has `train.amp` for that. It pays where the processor multiplies 16 bits (AMX, tensor cores).
        channels_last: hold maps and the weights of convolutions with the channels innermost.
        compile: `torch.compile` the head; the first picture of each size then takes minutes. A compiler must be there.
        backend: of `torch.compile`.

    Raises:
        ConfigError: for an unknown precision.
    """

    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    backend: str = "inductor"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision='{self.precision}' is not one of {', '.join(PRECISIONS)}")

    def prepare(self, backbone: nn.Module, head: nn.Module) -> None:
        """Set both up, in place; their names and weights stay."""
        if self.channels_last:
            for part in (backbone, head):
                part.to(memory_format=torch.channels_last)
        if self.compile:
            head.compile(backend=self.backend)

    def order(self, images: Tensor) -> Tensor:
        """Put pictures (B, 3, H, W) into the memory order that is asked for."""
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def rounding(self, device: torch.device) -> AbstractContextManager:
        """Where the network runs, outside training."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)
