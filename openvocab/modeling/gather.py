"""All ranks' rows on every rank, with gradients (`openvocab.evaluation` gathers without)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


class _AllGather(torch.autograd.Function):
    """Concatenate equal-sized tensors of all ranks; backward adds up what every rank asks of a rank's rows.

    A loss that all ranks compute alike from gathered rows thus gives W times its gradient on each rank; the mean over W ranks
    that DistributedDataParallel takes makes it the gradient of the loss over the whole batch.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        ctx.rows = len(x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)  # gloo has no reduce-scatter
        start = dist.get_rank() * ctx.rows
        return grad[start : start + ctx.rows]


def gather_sizes(rows: int, device: torch.device) -> list[int]:
    """Return how many rows each rank brings; a collective call."""
    if comm.get_world_size() == 1:
        return [rows]
    sizes = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(comm.get_world_size())]
    dist.all_gather(sizes, torch.tensor([rows], device=device))
    return [int(s) for s in sizes]


def gather_with_gradient(x: Tensor) -> Tensor:
    """Return the rows of all ranks in order of rank, on every rank; a collective call, forward and backward.

    Ranks may bring different numbers of rows, also none (the official code cuts all to the smallest). Each rank must use the
    result in its loss, else the others wait for it in backward.

    Args:
        x: (N_r, ...) of this rank; dtype and trailing shape are the same everywhere.

    Returns:
        (sum N_r, ...); `x` itself with one process.
    """
    if comm.get_world_size() == 1:
        return x
    sizes = gather_sizes(len(x), x.device)
    most = max(sizes)
    if most == 0:
        return x
    padded = torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])]) if len(x) < most else x
    parts = _AllGather.apply(padded).split(most) if x.is_floating_point() else _plain(padded).split(most)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def _plain(x: Tensor) -> Tensor:
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)
