"""Start one process, or several that work together."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from openvocab.errors import ConfigError

TIMEOUT = timedelta(minutes=30)


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _worker(local_rank: int, fn: Callable, processes: int, machines: int, machine_rank: int, url: str, args: tuple) -> None:
    gpu = torch.cuda.is_available()
    dist.init_process_group(
        "nccl" if gpu else "gloo",
        init_method=url,
        world_size=processes * machines,
        rank=machine_rank * processes + local_rank,
        timeout=TIMEOUT,
    )
    comm.create_local_process_group(processes)
    if gpu:
        torch.cuda.set_device(local_rank)
    try:
        comm.synchronize()
        fn(*args)
    finally:
        dist.destroy_process_group()


def launch(
    fn: Callable,
    *,
    processes: int = 1,
    machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple = (),
) -> object:
    """Run `fn(*args)` in `processes` processes on each of `machines` machines.

    NCCL where there are GPUs (one each), else gloo. Under torchrun the processes are already there and are used.

    Raises:
        ConfigError: for more processes than GPUs, or several machines without an address.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
        return _worker(int(os.environ["LOCAL_RANK"]), fn, local, world // local, rank // local, "env://", args)
    if processes <= 1 and machines == 1:
        return fn(*args)
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise ConfigError(f"{processes} processes were asked for and this machine has {torch.cuda.device_count()} GPUs")
    if machines > 1 and dist_url == "auto":
        raise ConfigError("several machines need --dist-url tcp://HOST:PORT of the first one")
    url = f"tcp://127.0.0.1:{free_port()}" if dist_url == "auto" else dist_url
    mp.start_processes(_worker, (fn, processes, machines, machine_rank, url, args), nprocs=processes, start_method="spawn")
    return None
