"""A 3 x 3 convolution with its ReLU by Winograd's minimal filtering (Lavin & Gray 2015, arXiv 1509.09308), for many small maps.

F(2 x 2, 3 x 3): Y = A^T [(G g G^T) * (B^T d B)] A gives 2 x 2 results of a 4 x 4 window d by 16 multiplications in place of 36. Its
rounding is that of the plain sum. CLIP's bottleneck of stride 2 goes on with the mean of just such 2 x 2 cells, so that they need
not be put back into a map.

N: maps; H, W: cells; C, C': channels before and after; D, R: windows down and across.
"""

from __future__ import annotations

import torch
from torch import Tensor

G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
A = ((1.0, 0.0), (1.0, 1.0), (1.0, -1.0), (0.0, -1.0))
BATCH = 25  # maps at a time: more leave a processor's cache, fewer make its threads wait for each other more often


class WinogradConvolution:
    """Convolve with padding 1, add the bias, ReLU, and if wanted average 2 x 2 cells; without gradients.

    It keeps the memory it works in: made for one batch of pictures, used by one thread.

    Args:
        weight: (C', C, 3, 3).
        bias: (C',).
        pooled: average 2 x 2 cells; an odd row or column is left out, as average pooling does.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, pooled: bool = False) -> None:
        g, a = weight.new_tensor(G), weight.new_tensor(A)
        self.weight = torch.einsum("ai,bj,ocij->baco", g, g, weight).flatten(0, 1).contiguous()
        self.back = torch.einsum("ap,bq->pqba", a, a).reshape(4, 16)
        self.bias, self.pooled = bias, pooled
        self.rooms: dict[torch.Size, tuple[Tensor, ...]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W), best laid out channels last, to (N, C', H, W), or to (N, C', H // 2, W // 2)."""
        n, _, height, width = x.shape
        size = (height // 2, width // 2) if self.pooled else (height, width)
        found = x.new_empty(n, *size, len(self.bias))
        for some, result in zip(x.permute(0, 2, 3, 1).split(BATCH), found.split(BATCH), strict=True):
            self._few(some, result)
        return found.permute(0, 3, 1, 2)

    def _few(self, x: Tensor, found: Tensor) -> None:
        """Fill `found` from maps (N, H, W, C)."""
        if x.shape not in self.rooms:
            self.rooms[x.shape] = self._room(*x.shape)
        padded, lines, windows, product, results = self.rooms[x.shape]
        padded[:, 1 : x.shape[1] + 1, 1 : x.shape[2] + 1] = x
        _differences(padded, lines, axis=1)
        _differences(lines, windows, axis=3)
        torch.bmm(windows.flatten(0, 1).flatten(1, 3), self.weight, out=product)
        torch.mm(self.back, product.flatten(1).view(16, -1), out=results.view(4, -1))
        results.add_(self.bias).relu_()
        if self.pooled:
            torch.mean(results, dim=(0, 1), out=found)
            return
        for p in (0, 1):
            for q in (0, 1):
                cells = found[:, p::2, q::2]
                cells.copy_(results[p, q, :, : cells.shape[1], : cells.shape[2]])

    def _room(self, n: int, height: int, width: int, channels: int) -> tuple[Tensor, ...]:
        """Memory for: maps with a border of zeros; B^T d; B^T d B, a window's columns first; the product; 2 x 2 results."""
        more, make = 0 if self.pooled else 1, self.bias.new_empty
        down, across, out = (height + more) // 2, (width + more) // 2, len(self.bias)
        return (
            self.bias.new_zeros(n, height + 2 + more, width + 2 + more, channels),
            make(4, n, down, width + 2 + more, channels),
            make(4, 4, n, down, across, channels),
            make(16, n * down * across, out),
            make(2, 2, n, down, across, out),
        )


def _differences(x: Tensor, found: Tensor, *, axis: int) -> None:
    """B^T along an axis: of each window of 4 cells, 2 cells apart, into `found` (4, ...), which says how many windows."""
    cells = x.unfold(axis, 4, 2).narrow(axis, 0, found.shape[axis + 1]).movedim(-1, 0)
    torch.sub(cells[:2], cells[2:], out=found[::3])
    torch.add(cells[1], cells[2], out=found[1])
    torch.sub(cells[2], cells[1], out=found[2])
