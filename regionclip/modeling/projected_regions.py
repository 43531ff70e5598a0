"""ROIAlign and CLIP's last stage in a cheaper order, where no gradient is asked for: the same vectors (ours, not the paper's).

ROIAlign is linear in the map and works on each channel alone; a 1 x 1 convolution is linear in the channels and works on each
cell alone. So the two change places: the first block's 1 x 1 convolutions run once on the picture's map (some 4,000 cells) and not
on 196 cells of each of 1,000 regions. Average pooling behind ROIAlign is linear too, and only makes its bins larger.

In float32 the 3 x 3 convolutions are Winograd's (see `winograd`).

ROIAlign itself is separable: a bin is the mean over a grid of bilinear samples, each a weight of its row times a weight of its
column. Samples of a bin share cells; summed up beforehand, a bin is a few rows of the channels-last map: an embedding bag.

N: regions, S: bins a side, H, W: cells of the map, C: channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor, nn

from .clip_resnet import ClipStage, FoldedBlock
from .winograd import WinogradConvolution


def bin_weights(low: Tensor, high: Tensor, *, bins: int, cells: int, samples: int = 0) -> Tensor:
    """Share of each cell in each bin of ROIAlign along one axis (He et al. 2017; detectron2's aligned form).

    Args:
        low, high: ends of the regions (N,), in cells, half a cell subtracted.
        bins: S.
        cells: of the map along this axis.
        samples: a bin; 0 for as many as it has cells, rounded up.

    Returns:
        (N, S, cells); a row sums to 1, or to less where samples lie more than a cell outside the map.
    """
    extent = high - low
    step = extent / bins
    count = torch.full_like(step, samples) if samples > 0 else step.ceil().clamp(min=0)
    some = count.clamp(min=1)
    k = torch.arange(int(count.max()) if len(count) else 0, dtype=low.dtype, device=low.device)
    corner = low[:, None] + torch.arange(bins, dtype=low.dtype, device=low.device) * step[:, None]
    place = corner[..., None] + ((k + 0.5) * (step / some)[:, None])[:, None]
    inside = (k < count[:, None])[:, None] & (place >= -1) & (place <= cells)
    place = place.clamp(0, cells - 1)
    cell = place.long()
    part, weight = place - cell, inside / some[:, None, None]
    found = low.new_zeros(len(low), bins, cells)
    found.scatter_add_(2, cell, weight * (1 - part))
    return found.scatter_add_(2, (cell + 1).clamp(max=cells - 1), weight * part)


def _ends(weights: Tensor) -> tuple[Tensor, Tensor]:
    """First cell with a share in each bin, and how many from there to the last: (N, S) each, of (N, S, cells)."""
    used = (weights != 0).byte()
    first, last = used.argmax(dim=2), weights.shape[2] - used.flip(2).argmax(dim=2)
    return first, torch.where(used.amax(dim=2) > 0, last - first, 0)


def _shares(pictures: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cells that have a share in each bin, one bin after the other: (M,) places in (B, H, W), (M,) shares, (bins,) starts."""
    (top, high), (left, wide) = _ends(rows), _ends(columns)
    counts = (high[:, :, None] * wide[:, None]).flatten()
    starts = counts.cumsum(0) - counts
    bins = torch.repeat_interleave(counts)
    place = torch.arange(len(bins), device=bins.device) - starts[bins]
    region, row = bins // (high.shape[1] * wide.shape[1]), bins // wide.shape[1]
    column = region * wide.shape[1] + bins % wide.shape[1]
    y = torch.div(place, wide.flatten()[column], rounding_mode="floor")
    x = place - y * wide.flatten()[column] + left.flatten()[column]
    y = y + top.flatten()[row]
    shares = rows.flatten(0, 1)[row, y] * columns.flatten(0, 1)[column, x]
    return (pictures[region] * rows.shape[2] + y) * columns.shape[2] + x, shares, starts


def pool_regions(maps: Tensor, pictures: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pool regions.

    Args:
        maps: (B, H, W, C), contiguous.
        pictures: of each of the N regions, (N,).
        rows: (N, S, H) of `bin_weights`.
        columns: (N, S', W).

    Returns:
        (N, S, S', C).
    """
    places, shares, starts = _shares(pictures, rows, columns)
    found = F.embedding_bag(places, maps.flatten(0, 2), starts, mode="sum", per_sample_weights=shares)
    return found.view(len(rows), rows.shape[1], columns.shape[1], maps.shape[3])


class ProjectedRegions:
    """Regions of given maps through a stage of CLIP's ResNet, in the order told above.

    It is made for one batch of pictures and thrown away: norms are folded when it is built, so that they are never out of date.

    Args:
        stage: CLIP's layer4, or one like it.
        pooler: detectron2's, of one level.
        maps: (B, C, H, W).
        dtype: of all that comes behind the pooling.
    """

    def __init__(self, stage: ClipStage, pooler: ROIPooler, maps: Tensor, dtype: torch.dtype) -> None:
        self.align, self.dtype = pooler.level_poolers[0], dtype
        self.blocks = stage.fold(dtype)
        if dtype == torch.float32:
            self.blocks = [_with_winograd(block, pooled=i == 0 and stage[0].stride == 2) for i, block in enumerate(self.blocks)]
        self.stride, self.cells = stage[0].stride, maps.shape[-2:]
        maps = maps.contiguous(memory_format=torch.channels_last)
        before = stage[0].fold(maps.dtype)
        self.biases = before.conv1.bias, before.downsample.bias
        # without bias: bins that lie outside the map have less than a whole share of it
        inner, skip = (F.conv2d(maps, conv.weight) for conv in (before.conv1, before.downsample))
        self.inner, self.skip = (x.permute(0, 2, 3, 1).contiguous() for x in (inner, skip))

    @staticmethod
    def fits(stage: nn.Module, pooler: nn.Module, maps: Sequence[Tensor], boxes: Sequence[Boxes]) -> bool:
        """Whether this way gives the same and pays: on a CPU (elsewhere ROIAlign is quick), for what it knows."""
        if torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return False
        if any(x.device.type != "cpu" or x.dtype != torch.float32 for x in maps) or torch.is_autocast_enabled("cpu"):
            return False
        if not isinstance(stage, ClipStage) or stage.is_watched() or stage[0].downsample is None:
            return False
        aligns = pooler.level_poolers if isinstance(pooler, ROIPooler) else []
        known = len(aligns) == 1 and isinstance(aligns[0], ROIAlign) and aligns[0].aligned
        return known and all(bool(torch.isfinite(b.tensor).all()) for b in boxes)

    def __call__(self, boxes: Sequence[Boxes]) -> Tensor:
        """Return the maps after the stage, (N, C, S, S) float32, of the boxes of each picture in pixels."""
        pictures = torch.arange(len(boxes)).repeat_interleave(torch.tensor([len(b) for b in boxes]))
        rows, columns = self._weights(torch.cat([b.tensor for b in boxes]).float())
        inner = pool_regions(self.inner, pictures, rows, columns).add_(self.biases[0]).relu_()
        skip = pool_regions(self.skip, pictures, self._larger(rows), self._larger(columns)).add_(self.biases[1])
        first, *others = self.blocks
        x = first.rest(*(x.permute(0, 3, 1, 2).to(self.dtype) for x in (inner, skip)))
        for block in others:
            x = block(x)
        return x.float()

    def _weights(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Shares in rows (N, S, H) and columns (N, S', W)."""
        x0, y0, x1, y1 = (boxes * self.align.spatial_scale - 0.5).unbind(1)
        (high, wide), samples = self.align.output_size, self.align.sampling_ratio
        rows = bin_weights(y0, y1, bins=high, cells=self.cells[0], samples=samples)
        return rows, bin_weights(x0, x1, bins=wide, cells=self.cells[1], samples=samples)

    def _larger(self, weights: Tensor) -> Tensor:
        """Shares in bins as large as average pooling makes them."""
        whole = weights.shape[1] // self.stride
        return weights[:, : whole * self.stride].unflatten(1, (whole, self.stride)).mean(dim=2)


def _with_winograd(block: FoldedBlock, *, pooled: bool) -> FoldedBlock:
    """The same block; `pooled`: its 3 x 3 convolution pools too. Its shortcut is not to be asked for then."""
    conv = WinogradConvolution(block.conv2.weight, block.conv2.bias, pooled=pooled)
    return replace(block, conv2=conv, pool=nn.Identity() if pooled else block.pool)
