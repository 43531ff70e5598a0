"""ROIAlign as an embedding bag: the same numbers, several times faster on a CPU (ours).

A bin of ROIAlign (He et al. 2017, arXiv 1703.06870) is the mean over a grid of bilinear samples, each a weight of its row times a
weight of its column. Samples of a bin share cells; summed up beforehand, a bin is a few rows of the channels-last map: an embedding
bag, whose gradient goes to those rows alone.

N: regions, S: bins a side, B: pictures, H, W: cells of the map, C: channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor, nn


class BagROIPooler(ROIPooler):
    """detectron2's pooler of type "ROIAlignV2"; on a CPU its levels are embedding bags.

    Args:
        output_size: S.
        scales: of the maps to the picture, finest first (1 / 4, 1 / 8).
        sampling_ratio: samples a bin and direction; 0: as many as it has cells.
    """

    def __init__(self, output_size: int, scales: Sequence[float], sampling_ratio: int) -> None:
        super().__init__(output_size, list(scales), sampling_ratio, "ROIAlignV2")
        self.level_poolers = nn.ModuleList(BagROIAlign(output_size, scale, sampling_ratio) for scale in scales)


class BagROIAlign(ROIAlign):
    """detectron2's ROIAlign in its aligned form, `BagROIAlign(7, 1 / 8, 2)`; an embedding bag where that is the same and pays."""

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:  # noqa: A002 (the name is detectron2's)
        """Pool maps (B, C, H, W) at rois (N, 5), their picture and XYXY pixels: (N, C, S, S). Boxes get no gradient.

        Boxes that are no numbers pool zeros, as in detectron2's poolers of several levels; torchvision's CPU kernel would crash.
        """
        if not self.pays(input, rois):
            return super().forward(input, rois)
        good = torch.isfinite(rois).all(dim=1, keepdim=True)
        boxes = torch.where(good, rois[:, 1:].detach(), 0.0).to(input.dtype)
        rows, columns = axis_weights(self, boxes, input.shape[2:])
        maps = input.permute(0, 2, 3, 1).contiguous()
        return pool_regions(maps, rois[:, 0].long(), rows * good[..., None], columns).permute(0, 3, 1, 2)

    def pays(self, maps: Tensor, rois: Tensor) -> bool:
        """Whether this way gives the same, and is quicker: on a CPU, in full precision, not traced."""
        return self.aligned and len(rois) > 0 and is_plain(maps)


def is_plain(maps: Tensor) -> bool:
    """Whether operators act on these maps on a CPU, in full precision and at once: not traced, compiled, or cast."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return maps.device.type == "cpu" and maps.dtype in (torch.float32, torch.float64)


def axis_weights(align: ROIAlign, boxes: Tensor, cells: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return `bin_weights` of rows (N, S, H) and columns (N, S', W) for an aligned ROIAlign and boxes (N, 4), XYXY pixels."""
    x0, y0, x1, y1 = (boxes * align.spatial_scale - 0.5).unbind(1)
    size, samples = align.output_size, align.sampling_ratio
    high, wide = (size, size) if isinstance(size, int) else size
    rows = bin_weights(y0, y1, bins=high, cells=cells[0], samples=samples)
    return rows, bin_weights(x0, x1, bins=wide, cells=cells[1], samples=samples)


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
