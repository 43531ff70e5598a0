"""Starting the processes of a run: none, one for each GPU or CPU worker, or those that torchrun has started."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from openvocab import errors
from openvocab.errors import ConfigError, OpenVocabError

from .stopping import Interrupted

TIMEOUT = timedelta(minutes=30)
GRACE = 5.0
"""Seconds that the others have to end by themselves when one process has failed."""


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(
    main: Callable[..., object],
    args: tuple = (),
    *,
    num_gpus: int = 0,
    cpu_procs: int = 0,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    timeout: timedelta = TIMEOUT,
) -> object:
    """Call `main(*args)` in every process of a run.

    With one process nothing is spawned. Under torchrun (RANK and WORLD_SIZE in the environment) this process is one of many and
    spawns none. Otherwise processes are spawned here: NCCL for GPUs, gloo for CPUs.

    Args:
        main: importable by name, because spawned processes import it.
        args: picklable.
        num_gpus: on this machine; 0 or 1 does not spawn.
        cpu_procs: instead of GPUs, so many processes on the CPU.
        num_machines: of the run; all must start it.
        machine_rank: of this machine.
        dist_url: where rank 0 listens, such as "tcp://10.0.0.1:29500"; "auto" takes a free port of this machine.
        timeout: how long a process waits for the others before it fails.

    Returns:
        what `main` returns, with one process or under torchrun; None when processes were spawned.

    Raises:
        ConfigError: for numbers that do not fit this machine.
        OpenVocabError: the first typed error of a spawned process.
        Interrupted: if a signal stopped the run.
    """
    if all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
        return _under_torchrun(main, args, on_gpu=cpu_procs == 0 and torch.cuda.is_available(), timeout=timeout)
    here = cpu_procs or max(num_gpus, 1)
    _check(num_gpus, cpu_procs, num_machines, machine_rank, dist_url)
    if here * num_machines == 1:
        return main(*args)
    url = f"tcp://127.0.0.1:{_free_port()}" if dist_url == "auto" else dist_url
    messages = mp.get_context("spawn").SimpleQueue()
    common = (main, args, here, here * num_machines, machine_rank, url, "gloo" if cpu_procs else "nccl", timeout, messages)
    _join(mp.start_processes(_worker, args=common, nprocs=here, join=False, start_method="spawn"), messages)
    return None


def _check(num_gpus: int, cpu_procs: int, num_machines: int, machine_rank: int, dist_url: str) -> None:
    if num_gpus > 1 and cpu_procs:
        raise ConfigError(f"--num-gpus {num_gpus} and --cpu-procs {cpu_procs} exclude each other")
    if not cpu_procs and num_gpus > torch.cuda.device_count() and num_gpus * num_machines > 1:
        raise ConfigError(f"--num-gpus {num_gpus}, but torch sees {torch.cuda.device_count()} here; --cpu-procs runs on CPUs")
    if num_machines < 1 or not 0 <= machine_rank < num_machines:
        raise ConfigError(f"--machine-rank {machine_rank} is not below --num-machines {num_machines}")
    if num_machines > 1 and dist_url == "auto":
        raise ConfigError("more than one machine needs --dist-url, such as tcp://10.0.0.1:29500 (an address of machine 0)")


def _join(context: mp.ProcessContext, messages: object) -> None:
    """Wait for all processes, pass SIGTERM on to them, and raise what went wrong in them."""

    def pass_on(number: int, frame: object) -> None:
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    # Ctrl-C reaches the processes by itself, they belong to the terminal's foreground group
    old = {signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on), signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    try:
        while not context.join(grace_period=GRACE):
            pass
    except (mp.ProcessExitedException, mp.ProcessRaisedException) as failure:
        if messages.empty():
            raise
        name, text = messages.get()
        raise (Interrupted(text) if name == "Interrupted" else getattr(errors, name, OpenVocabError)(text)) from failure
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _worker(
    local_rank: int,
    main: Callable[..., object],
    args: tuple,
    here: int,
    world: int,
    machine_rank: int,
    url: str,
    backend: str,
    timeout: timedelta,
    messages: object,
) -> None:
    if backend == "nccl":
        torch.cuda.set_device(local_rank)
    rank = machine_rank * here + local_rank
    dist.init_process_group(backend, init_method=url, world_size=world, rank=rank, timeout=timeout)
    comm.create_local_process_group(here)
    comm.synchronize()
    try:
        main(*args)
    except (OpenVocabError, Interrupted, OSError) as error:
        messages.put((type(error).__name__, str(error)))
        sys.exit(130 if isinstance(error, Interrupted) else 2)
    finally:
        dist.destroy_process_group()


def _under_torchrun(main: Callable[..., object], args: tuple, *, on_gpu: bool, timeout: timedelta) -> object:
    local, here = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if on_gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timeout)
    comm.create_local_process_group(here)
    try:
        return main(*args)
    finally:
        dist.destroy_process_group()
