"""GLIPv2's second stage: boxes of the detector, pooled, and given masks (arXiv 2206.05836)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor, nn
from torchvision.ops import roi_align

from openvocab.errors import ConfigError

from .head import HeadOutput

CANONICAL_SIZE, CANONICAL_LEVEL = 224, 4


class MaskPooler(nn.Module):
    """RoIAlign from the level of a pyramid that fits a box (FPN, arXiv 1612.03144, equation 1).

    Args:
        strides: of the levels, finest first; powers of two, each twice the one before.
        output_size: S, side of the pooled square.
        sampling_ratio: samples a bin and direction.
        official: the released code's reading: a box ends at its last pixel, and cells are not shifted by half a cell. False is
            detectron2's aligned form.

    Raises:
        ConfigError: for strides that are no such pyramid.
    """

    def __init__(
        self,
        *,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        output_size: int = 14,
        sampling_ratio: int = 2,
        official: bool = False,
    ) -> None:
        super().__init__()
        levels = [int(s).bit_length() - 1 for s in strides]
        if not levels or [2**k for k in levels] != list(strides) or levels != list(range(levels[0], levels[0] + len(levels))):
            raise ConfigError(f"strides={list(strides)} must be powers of two, each twice the one before")
        self.strides, self.levels = tuple(int(s) for s in strides), levels
        self.output_size, self.sampling_ratio, self.official = int(output_size), int(sampling_ratio), official

    def level_of(self, boxes: Tensor) -> Tensor:
        """Return (R,) int64: the place among the strides for each of the boxes (R, 4) XYXY pixels."""
        size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1).sqrt()
        level = torch.floor(CANONICAL_LEVEL + torch.log2(size / CANONICAL_SIZE + 1e-6))
        return level.clamp(self.levels[0], self.levels[-1]).long() - self.levels[0]

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Pool levels [(B, C, H, W)] at the boxes of B pictures, (N, 4) XYXY pixels each: (R, C, S, S), R boxes in order."""
        every = torch.cat(list(boxes))
        picture = torch.cat([b.new_full((len(b), 1), i) for i, b in enumerate(boxes)])
        inside = every - every.new_tensor([0.0, 0.0, 1.0, 1.0]) if self.official else every
        rois, levels = torch.cat([picture, inside], dim=1), self.level_of(every)
        size = self.output_size
        pooled = features[0].new_zeros(len(every), features[0].shape[1], size, size)
        for i, (x, stride) in enumerate(zip(features, self.strides, strict=True)):
            where = torch.nonzero(levels == i).flatten()
            exact = torch.promote_types(x.dtype, torch.float32)  # boxes have more digits than 16 bits hold
            at = rois[where].to(exact)
            part = roi_align(x.to(exact), at, size, 1.0 / stride, self.sampling_ratio, aligned=not self.official)
            pooled = pooled.index_add(0, where, part.to(x.dtype))
        return pooled


class MaskBranch(nn.Module):
    """Gives the detector's boxes masks; in training, chooses the boxes to learn from.

    Letters: B pictures, P phrases, T tokens.

    Args:
        pooler: a `MaskPooler`.
        head: a `GLIPv2MaskHead`.
        fused: pool from the maps that come out of the fused tower, which know the words; False: from the pyramid that goes in.
        max_boxes: most boxes of a picture in training; its true boxes come first.
        iou_threshold: a detected box teaches the mask of the true box that it overlaps by at least so much.
        detach: the mask loss trains the mask head alone, not the features and words it reads.
    """

    def __init__(
        self,
        *,
        pooler: nn.Module,
        head: nn.Module,
        fused: bool = True,
        max_boxes: int = 64,
        iou_threshold: float = 0.5,
        detach: bool = False,
    ) -> None:
        super().__init__()
        self.pooler, self.head = pooler, head
        self.fused, self.max_boxes, self.iou_threshold, self.detach = fused, max_boxes, iou_threshold, detach

    def losses(
        self, output: HeadOutput, token_maps: Sequence[Tensor], truth: Sequence[Instances], found: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Return `loss_mask`.

        Args:
            output: of the detector's head.
            token_maps: (P, T) bool a picture.
            truth: with `gt_boxes`, `gt_classes` (a phrase each), `gt_masks` and maybe `gt_is_box_mask`, on the model's device.
            found: (N, 4) XYXY pixels, the detector's present boxes a picture.
        """
        chosen = [self.select(t, boxes) for t, boxes in zip(truth, found, strict=True)]
        maps, hidden = self._inputs(output)
        pooled = self.pooler(maps, [c.proposal_boxes.tensor for c in chosen])
        words = [self.head.words(h, m) for h, m in zip(hidden, token_maps, strict=True)]
        return self.head(pooled, chosen, words)

    def predict(self, output: HeadOutput, index: int, token_map: Tensor, found: Instances) -> Instances:
        """Add `pred_masks` (N, 1, M, M) in 0..1 to the detections in picture `index` of a batch.

        `token_map` is (P, T) bool; `pred_classes` count its rows.
        """
        maps, hidden = self._inputs(output)
        pooled = self.pooler([x[index : index + 1] for x in maps], [found.pred_boxes.tensor])
        return self.head(pooled, [found], [self.head.words(hidden[index], token_map)])[0]

    def select(self, truth: Instances, found: Tensor) -> Instances:
        """Return the true boxes of a picture, and the found ones (N, 4) that overlap one of them, with its class and mask."""
        candidates = torch.cat([truth.gt_boxes.tensor.float(), found.detach().float()])
        if not len(truth):
            index, keep = candidates.new_zeros(0, dtype=torch.long), candidates.new_zeros(0, dtype=torch.long)
        else:
            best, index = pairwise_iou(Boxes(candidates), truth.gt_boxes).max(dim=1)
            index[: len(truth)] = torch.arange(len(truth), device=index.device)  # of two equal boxes each keeps its own mask
            best[: len(truth)] = 1.0
            keep = torch.nonzero(best >= self.iou_threshold).flatten()[: self.max_boxes]
        chosen = truth[index[keep]]
        chosen.proposal_boxes = Boxes(candidates[keep])
        return chosen

    def _inputs(self, output: HeadOutput) -> tuple[list[Tensor], Tensor]:
        maps, hidden = (output.features if self.fused else output.pyramid), output.hidden
        return ([x.detach() for x in maps], hidden.detach()) if self.detach else (list(maps), hidden)
