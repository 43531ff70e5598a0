"""What the hub costs: the same detector with it and without it, in turns, per picture and per training step, at 80 and 1203 names.

    python benchmarks/detection_hub.py [--model r50|mini|swin_t] [--json FILE]

The reference is Sparse R-CNN: the same backbone and decoder, with a linear classifier of as many fixed names and no hub. Sizes are
those of the config; the text encoder is a hashed one of CLIP's width (512), since names are encoded once and not per step.
`time_ratio` is the worst of the four ratios ours / reference. Memory is counted, not sampled: the bytes of all tensors that a
training step holds for its backward pass, parameters and the hub's kept vectors included.

Both read regions by `BagROIPooler`; "pooling" compares it with detectron2's own, in the detector with the hub and 80 names.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from openvocab.errors import ConfigError, cli_main

if TYPE_CHECKING:
    import torch

TEXT_DIM = 512
NAMES = ("coco", "lvis")  # built-in lists of 80 and 1203 names
MEMORY_NAMES = (300, 600, 1200, 2400)
MEMORY_DATASETS = (1, 10, 100)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="r50", choices=("r50", "swin_t", "mini"), help="of configs/detection_hub/models")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each, after one to warm up")
    parser.add_argument("--size", type=int, default=320, help="side of the square picture in pixels")
    parser.add_argument("--batch", type=int, default=1, help="pictures in a training step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers")
    args = parser.parse_args(argv)
    if min(args.runs, args.size, args.batch, args.threads) < 1:
        raise ConfigError("--runs, --size, --batch and --threads must be at least 1")
    return args


def build(name: str, words: Sequence[str], *, hub: bool, datasets: int = 1) -> torch.nn.Module:
    """Build the config's model, with a hub of `datasets` data sets of these words, or with a classifier of them."""
    import torch
    from detectron2.config import LazyCall, instantiate

    from openvocab.config import load_config
    from openvocab.text import HashedTextEncoder

    torch.manual_seed(0)
    model = load_config(f"configs/detection_hub/models/detection_hub_{name}.py").model
    if hub:
        model.hub.embeddings.text_encoder = LazyCall(HashedTextEncoder)(dim=TEXT_DIM)
        model.hub.embeddings.templates = None
        model.hub.datasets = [{"name": f"set {i}", "vocabulary": list(words), "flags": ["tight"]} for i in range(datasets)]
    else:
        model.hub, model.decoder.num_classes = None, len(words)
    return instantiate(model)


def inputs(size: int, batch: int, datasets: int = 1) -> list[dict]:
    """Random pictures with five boxes each, of `datasets` data sets in turns."""
    import torch
    from detectron2.structures import Boxes, Instances

    generator = torch.Generator().manual_seed(0)
    samples = []
    for i in range(batch):
        truth = Instances((size, size))
        corner = torch.rand(5, 2, generator=generator) * size * 0.6
        truth.gt_boxes = Boxes(torch.cat([corner, corner + size * 0.3], dim=1))
        truth.gt_classes = torch.arange(5)
        image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=generator)
        samples.append({"image": image, "dataset": f"set {i % datasets}", "instances": truth})
    return samples


def picture(model: torch.nn.Module, size: int) -> Callable[[], None]:
    """A function that detects in one picture."""
    import torch

    one = inputs(size, 1)

    def run() -> None:
        with torch.no_grad():
            model.eval()(one)

    return run


def step(model: torch.nn.Module, size: int, batch: int) -> Callable[[], None]:
    """A function that makes one training step: forward, backward, AdamW."""
    from openvocab.engine import build_adamw

    several = inputs(size, batch)
    optimizer = build_adamw(model=model, lr=1e-6)

    def run() -> None:
        optimizer.zero_grad()
        sum(model.train()(several).values()).backward()
        optimizer.step()

    return run


def seconds(run: Callable[[], None]) -> tuple[float, float]:
    """Time one run: by the clock, and of the processors."""
    start, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - cpu


def in_turns(ours: Callable[[], None], reference: Callable[[], None], runs: int) -> dict:
    """Time both, each first every other time; return medians in seconds, and the median of the ratios of neighbours.

    `cpu_ratio` is that of processor seconds, which other programs on the machine disturb less.
    """
    ours(), reference()
    taken: tuple[list[tuple[float, float]], ...] = ([], [])
    for i in range(runs):
        order = ((0, ours), (1, reference)) if i % 2 else ((1, reference), (0, ours))
        for which, run in order:
            taken[which].append(seconds(run))
    wall, cpu = ([a[k] / max(b[k], 1e-9) for a, b in zip(*taken, strict=True)] for k in (0, 1))
    return {
        "ours_seconds": statistics.median(t[0] for t in taken[0]),
        "reference_seconds": statistics.median(t[0] for t in taken[1]),
        "time_ratio": statistics.median(wall),
        "cpu_ratio": statistics.median(cpu),
        "ratios_from_to": [round(min(wall), 4), round(max(wall), 4)],
    }


def times(args: argparse.Namespace) -> dict:
    """Time pictures and training steps at both numbers of names."""
    from openvocab import Vocabulary

    rows = {}
    for name in NAMES:
        words = Vocabulary.builtin(name).names
        models = [build(args.model, words, hub=hub) for hub in (True, False)]
        rows[f"picture, {len(words)} names"] = in_turns(*(picture(m, args.size) for m in models), args.runs)
        rows[f"training step, {len(words)} names"] = in_turns(*(step(m, args.size, args.batch) for m in models), args.runs)
    return rows


def pooling(args: argparse.Namespace) -> dict:
    """Time pictures and training steps against the same detector with detectron2's `ROIPooler`."""
    from detectron2.modeling.poolers import ROIPooler

    from openvocab import Vocabulary

    ours, stock = (build(args.model, Vocabulary.builtin("coco").names, hub=True) for _ in range(2))
    pooler = stock.head.pooler
    levels = pooler.level_poolers
    scales, ratio = [level.spatial_scale for level in levels], levels[0].sampling_ratio
    stock.head.pooler = ROIPooler(pooler.output_size, scales, ratio, "ROIAlignV2")
    return {
        "picture": in_turns(*(picture(m, args.size) for m in (ours, stock)), args.runs),
        "training step": in_turns(*(step(m, args.size, args.batch) for m in (ours, stock)), args.runs),
    }


def held_mb(model: torch.nn.Module, samples: list[dict]) -> float:
    """Megabytes (10^6) that are held between forward and backward of a training step: weights, kept names, activations."""
    import torch

    sizes = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in [*model.parameters(), *model.buffers()]}

    def note(value: torch.Tensor) -> torch.Tensor:
        sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        kept.append(value)  # so that no address is used twice
        return value

    kept: list[torch.Tensor] = []
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        losses = model(samples)
    for value in model.hub.embeddings._kept.values():
        note(value)
    del losses
    return sum(sizes.values()) / 1e6


def memory(args: argparse.Namespace) -> dict:
    """Count memory over the number of names, and over the number of registered data sets (a batch holds one of them)."""
    words = [f"thing {i}" for i in range(max(MEMORY_NAMES))]
    by_names = {n: held_mb(build("mini", words[:n], hub=True), inputs(args.size, 1)) for n in MEMORY_NAMES}
    by_sets = {n: held_mb(build("mini", words[:80], hub=True, datasets=n), inputs(args.size, 1)) for n in MEMORY_DATASETS}
    a, b, c, d = MEMORY_NAMES
    slopes = [(by_names[y] - by_names[x]) / (y - x) * 1e3 for x, y in ((a, b), (b, c), (c, d))]
    return {
        "names_mb": by_names,
        "kb_a_name": slopes,
        "slope_last_to_first": slopes[-1] / slopes[0],
        "datasets_mb": by_sets,
        "kb_a_dataset": (by_sets[MEMORY_DATASETS[-1]] - by_sets[1]) / (MEMORY_DATASETS[-1] - 1) * 1e3,
    }


def peak_gb() -> float:
    """Most memory this process ever held, in GB (10^9 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    args = parse(argv)
    import torch

    torch.set_num_threads(args.threads)
    rows, pooled, held = times(args), pooling(args), memory(args)
    settings = {k: getattr(args, k) for k in ("model", "runs", "size", "batch", "threads")}
    worst = max(row["time_ratio"] for row in rows.values())
    result = {"time_ratio": worst, "times": rows, "pooling": pooled, "memory": held, "peak_gb": peak_gb(), **settings}
    print(f"{args.model}, {args.size} px, {args.batch} picture(s) a step, {args.threads} thread(s), {args.runs} runs in turns")
    for name, row in rows.items():
        ours, reference = row["ours_seconds"], row["reference_seconds"]
        ratios = f"ratio {row['time_ratio']:.3f}, of processor seconds {row['cpu_ratio']:.3f}"
        print(f"{name}: {ours:.3f} s, without the hub {reference:.3f} s, {ratios}", flush=True)
    for name, row in pooled.items():
        print(f"{name}, BagROIPooler: {row['time_ratio']:.3f} of the time with detectron2's ROIPooler", flush=True)
    names = ", ".join(f"{n}: {mb:.0f} MB" for n, mb in held["names_mb"].items())
    print(f"a training step of the mini model holds, by names, {names}; last slope / first {held['slope_last_to_first']:.3f}")
    sets = ", ".join(f"{n}: {mb:.2f} MB" for n, mb in held["datasets_mb"].items())
    print(f"by registered data sets, {sets}; {held['kb_a_dataset']:.2f} kB a data set")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    # this file has the name of the package that it measures, and python looks into its folder first
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    cli_main(lambda: main(sys.argv[1:]))
