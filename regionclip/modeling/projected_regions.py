"""ROIAlign and CLIP's last stage in a cheaper order, where no gradient is asked for: the same vectors (ours, not the paper's).

ROIAlign is linear in the map and works on each channel alone; a 1 x 1 convolution is linear in the channels and works on each
cell alone. So the two change places: the first block's 1 x 1 convolutions run once on the picture's map (some 4,000 cells) and not
on 196 cells of each of 1,000 regions. Average pooling behind ROIAlign is linear too, and only makes its bins larger.

In float32 the 3 x 3 convolutions are Winograd's (see `winograd`).

ROIAlign itself is an embedding bag (see `openvocab.modeling.roi_align`).

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

from openvocab.modeling.roi_align import axis_weights, is_plain, pool_regions

from .clip_resnet import ClipStage, FoldedBlock
from .winograd import WinogradConvolution


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
        if torch.is_grad_enabled() or not all(is_plain(x) and x.dtype == torch.float32 for x in maps):
            return False
        if not isinstance(stage, ClipStage) or stage.is_watched() or stage[0].downsample is None:
            return False
        aligns = pooler.level_poolers if isinstance(pooler, ROIPooler) else []
        known = len(aligns) == 1 and isinstance(aligns[0], ROIAlign) and aligns[0].aligned
        return known and all(bool(torch.isfinite(b.tensor).all()) for b in boxes)

    def __call__(self, boxes: Sequence[Boxes]) -> Tensor:
        """Return the maps after the stage, (N, C, S, S) float32, of the boxes of each picture in pixels."""
        pictures = torch.arange(len(boxes)).repeat_interleave(torch.tensor([len(b) for b in boxes]))
        rows, columns = axis_weights(self.align, torch.cat([b.tensor for b in boxes]).float(), self.cells)
        inner = pool_regions(self.inner, pictures, rows, columns).add_(self.biases[0]).relu_()
        skip = pool_regions(self.skip, pictures, self._larger(rows), self._larger(columns)).add_(self.biases[1])
        first, *others = self.blocks
        x = first.rest(*(x.permute(0, 3, 1, 2).to(self.dtype) for x in (inner, skip)))
        for block in others:
            x = block(x)
        return x.float()

    def _larger(self, weights: Tensor) -> Tensor:
        """Shares in bins as large as average pooling makes them."""
        whole = weights.shape[1] // self.stride
        return weights[:, : whole * self.stride].unflatten(1, (whole, self.stride)).mean(dim=2)


def _with_winograd(block: FoldedBlock, *, pooled: bool) -> FoldedBlock:
    """The same block; `pooled`: its 3 x 3 convolution pools too. Its shortcut is not to be asked for then."""
    conv = WinogradConvolution(block.conv2.weight, block.conv2.bias, pooled=pooled)
    return replace(block, conv2=conv, pool=nn.Identity() if pooled else block.pool)
