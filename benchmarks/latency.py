"""How long one picture takes, and how much memory: 640 px, 10 names, 2 threads, once warm.

    python benchmarks/latency.py [--json FILE]

Ours keeps the encoded text of a vocabulary; the reference, in the same run and in turns with it, encodes the text for every
picture. `time_ratio` is ours / reference. The number of runs of the text encoder is counted, not assumed.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openvocab.errors import ConfigError, cli_main

if TYPE_CHECKING:
    from openvocab import Predictor

NAMES = ["person", "cat", "dog", "cup", "spoon", "bicycle", "car", "chair", "remote control", "potted plant"]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default", help="a name of the zoo, or a config (its speed does not need weights)")
    parser.add_argument("--weights", metavar="FILE")
    parser.add_argument("--runs", type=int, default=20, help="timed pictures, after 3 to warm up")
    parser.add_argument("--size", type=int, default=640, help="long side of the picture in pixels; its short side is 3/4")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers")
    args = parser.parse_args(argv)
    if min(args.runs, args.size, args.threads) < 1:
        raise ConfigError("--runs, --size and --threads must be at least 1")
    return args


def smooth_picture(size: int) -> np.ndarray:
    """A smooth picture (3/4 size, size, 3) with some structure; the same each time."""
    y, x = np.mgrid[: size * 3 // 4, :size] / size
    waves = [np.sin(7 * x + 3 * y), np.cos(11 * x * y), np.sin(5 * y + 2 * np.cos(9 * x))]
    return np.round(127.5 + 127.5 * np.stack(waves, axis=2)).astype(np.uint8)


@contextmanager
def counted(predictor: Predictor) -> Iterator[list[int]]:
    """Count runs of the model's text encoder in the list's only entry."""
    count = [0]
    hook = predictor.model.text_encoder.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1))
    try:
        yield count
    finally:
        hook.remove()


def seconds(predictor: Predictor, image: np.ndarray) -> float:
    """Time one picture."""
    start = time.perf_counter()
    predictor(image, NAMES)
    return time.perf_counter() - start


def forget_text(predictor: Predictor) -> None:
    """Make the model encode text anew: what a change of its mode does."""
    predictor.model.train()
    predictor.model.eval()


def measure(predictor: Predictor, image: np.ndarray, runs: int) -> dict:
    """Time both ways in turns; return medians in seconds, counts and the ratio."""
    ours, reference = [], []
    with counted(predictor) as count:
        for _ in range(3):
            seconds(predictor, image)
        warm = count[0]
        for _ in range(runs):
            ours.append(seconds(predictor, image))
        repeated = count[0] - warm
        both_ours, before = [], count[0]
        for _ in range(runs):
            forget_text(predictor)
            reference.append(seconds(predictor, image))
            both_ours.append(seconds(predictor, image))
        encoded = count[0] - before
    return {
        "median_seconds": statistics.median(ours),
        "worst_seconds": max(ours),
        "median_seconds_beside_reference": statistics.median(both_ours),
        "median_seconds_reference": statistics.median(reference),
        "time_ratio": statistics.median(both_ours) / statistics.median(reference),
        "text_encodings": {"first_pictures": warm, "repeated_pictures": repeated, "reference_pictures": encoded},
        "runs": runs,
    }


def peak_gb() -> float:
    """Most memory this process ever held, in GB (10^9 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    args = parse(argv)
    import torch

    from openvocab import load_predictor

    torch.set_num_threads(args.threads)
    loaded = peak_gb()
    predictor = load_predictor(args.model, device=args.device, weights=args.weights)
    if not hasattr(predictor, "model"):
        raise ConfigError(f"--model {args.model} is no detector with a text encoder")
    result = measure(predictor, smooth_picture(args.size), args.runs)
    result.update(peak_gb=peak_gb(), imports_gb=loaded, model=args.model, size=args.size, names=len(NAMES), threads=args.threads)
    print(f"model {args.model}, {args.size} px, {len(NAMES)} names, {args.threads} threads, {args.runs} pictures")
    print(f"median {result['median_seconds']:.3f} s a picture once warm (worst {result['worst_seconds']:.3f} s)")
    print(f"encoding the text for every picture: {result['median_seconds_reference']:.3f} s; ratio {result['time_ratio']:.3f}")
    texts = result["text_encodings"]
    print(
        f"runs of the text encoder: {texts['first_pictures']} at first, {texts['repeated_pictures']} in {args.runs} more pictures"
    )
    print(f"peak memory {result['peak_gb']:.2f} GB, of which {loaded:.2f} GB are imports")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    cli_main(lambda: main(sys.argv[1:]))
