"""Vectors of regions: pooled cells of a map, through CLIP's last stage and its attention pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from detectron2.structures import Boxes
from torch import Tensor, nn

from openvocab.errors import ConfigError

from .projected_regions import ProjectedRegions

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class RegionFeatures(nn.Module):
    """ROI pooling -> res5 -> attention pool (arXiv 2112.09106; microsoft/RegionCLIP).

    `res5` and `attnpool` are either its own (any backbone in front), or borrowed from a `ModifiedResNet` by `borrow`: then they
    are neither parameters nor in the state dict here, but in the backbone's.

    N: regions of all pictures, one picture after the other; C: channels after res5; S: cells a side; D: output width.

    Args:
        pooler: detectron2's `ROIPooler` (14 for RN50 and RN101, 18 for RN50x4).
        in_features: names of the maps that are pooled.
        res5: pooled maps to (N, C, S, S), such as `clip_stage(...)`.
        attnpool: (N, C, S, S) to (N, D); None with `res5` given: the mean over cells.
        chunk_size: regions that go through res5 together where no gradient is asked for; bounds the memory.
        dtype: "float32", or "bfloat16" for res5 in evaluation (pooling and attention stay in float32).

    Raises:
        ConfigError: for another dtype, or a chunk size below 1.
    """

    def __init__(
        self,
        *,
        pooler: nn.Module,
        in_features: Sequence[str] = ("res4",),
        res5: nn.Module | None = None,
        attnpool: nn.Module | None = None,
        chunk_size: int = 50,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        if dtype not in DTYPES or chunk_size < 1:
            raise ConfigError(f"dtype='{dtype}' must be one of {', '.join(DTYPES)}, and chunk_size={chunk_size} at least 1")
        self.pooler, self.in_features = pooler, list(in_features)
        self.chunk_size, self.dtype = int(chunk_size), dtype
        self.borrows = res5 is None
        if res5 is None and attnpool is not None:
            raise ConfigError("an attnpool without a res5: give both, or neither and call borrow(backbone)")
        if not self.borrows:
            self.res5, self.attnpool = res5, attnpool

    def borrow(self, backbone: nn.Module) -> RegionFeatures:
        """Use `layer4` and `attnpool` of this backbone from now on; returns itself.

        Raises:
            ConfigError: if the backbone has none, or the pooler's size does not fit them.
        """
        if not self.borrows:
            raise ConfigError("these RegionFeatures have a res5 of their own; build them without one to borrow the backbone's")
        if getattr(backbone, "layer4", None) is None or getattr(backbone, "attnpool", None) is None:
            raise ConfigError(
                f"{type(backbone).__name__} has no layer4 and attnpool to lend: use a ModifiedResNet with region_layers=True, or "
                "give RegionFeatures its own res5 and attnpool"
            )
        size, side = getattr(self.pooler, "output_size", None), backbone.attnpool.side
        if size is not None and any(s // 2 != side for s in size):
            raise ConfigError(
                f"the ROI pooler gives {size[0]} x {size[1]} cells; the attention pool of this backbone needs "
                f"a pooler of {2 * side} (layer4 halves it to {side})"
            )
        object.__setattr__(self, "res5", backbone.layer4)  # no submodules: they are the backbone's
        object.__setattr__(self, "attnpool", backbone.attnpool)
        return self

    @property
    def out_channels(self) -> int | None:
        """D, if the attention pool says it."""
        return getattr(getattr(self, "attnpool", None), "out_channels", None)

    def forward(self, features: Mapping[str, Tensor], boxes: Sequence[Boxes | Tensor]) -> Tensor:
        """Encode regions.

        Args:
            features: maps by name, each (B, C', H, W).
            boxes: of each of the B pictures (N_i, 4), XYXY pixels of the padded batch.

        Returns:
            (N, D) float32, not normalised.

        Raises:
            ConfigError: if there is nothing to run them through, or the pooler's size does not fit the attention pool.
        """
        return self._in_chunks(features, boxes, self.vectors)

    def maps(self, features: Mapping[str, Tensor], boxes: Sequence[Boxes | Tensor]) -> Tensor:
        """Return the maps after res5, (N, C, S, S), as mask heads take them; arguments as of `forward`."""
        return self._in_chunks(features, boxes, lambda x: x)

    def vectors(self, maps: Tensor) -> Tensor:
        """Pool maps after res5 (N, C, S, S) to (N, D)."""
        return maps.mean(dim=(2, 3)) if self.attnpool is None else self.attnpool(maps)

    def _in_chunks(
        self, features: Mapping[str, Tensor], boxes: Sequence[Boxes | Tensor], finish: Callable[[Tensor], Tensor]
    ) -> Tensor:
        if not hasattr(self, "res5"):
            raise ConfigError("RegionFeatures have no res5 yet: call borrow(backbone), or build them with res5 and attnpool")
        maps = [features[name].contiguous() for name in self.in_features]
        given = [b if isinstance(b, Boxes) else Boxes(b) for b in boxes]
        step = self.chunk_size if not torch.is_grad_enabled() else max(sum(map(len, given)), 1)
        encode = self._encoder(maps, given)
        return torch.cat([finish(encode(part)) for part in chunks(given, step)])

    def _encoder(self, maps: list[Tensor], boxes: list[Boxes]) -> Callable[[list[Boxes]], Tensor]:
        """What takes the boxes of each picture to maps after res5."""
        if ProjectedRegions.fits(self.res5, self.pooler, maps, boxes):
            return ProjectedRegions(self.res5, self.pooler, maps[0], torch.float32 if self.training else DTYPES[self.dtype])
        return lambda part: self._res5(self.pooler(maps, part))

    def _res5(self, pooled: Tensor) -> Tensor:
        pooled = pooled.contiguous(memory_format=torch.channels_last)
        if self.dtype == "float32" or self.training:
            return self.res5(pooled)
        with torch.autocast(pooled.device.type, dtype=DTYPES[self.dtype]):
            return self.res5(pooled.to(DTYPES[self.dtype])).float()


def chunks(boxes: Sequence[Boxes], size: int) -> Iterator[list[Boxes]]:
    """Cut the regions of B pictures into runs of at most `size`, each again a list of B; one (empty) run if there is none."""
    total, start = sum(map(len, boxes)), 0
    while True:
        part, offset = [], 0
        for b in boxes:
            low, high = (min(max(x - offset, 0), len(b)) for x in (start, start + size))
            part.append(b[low:high])
            offset += len(b)
        yield part
        start += size
        if start >= total:
            return
