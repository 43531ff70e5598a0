"""How fast GLIP-T runs: ours beside a plain transcription of the published path, same weights, in turns, equal outputs asserted.

    python benchmarks/glipv2.py [--json FILE] [--only picture lvis ...] [--runs 3] [--threads 2] [--compile]

Random weights of the full shape. Parts, each of which `--only` runs alone (the json of an earlier run is then added to):
picture   one picture of 480 x 640 with a 10-name prompt, and GroundingDINO-T of transformers in the same table: `time_ratio`,
          `grounding_dino_time_ratio`
large     the same with 800 x 1333: `large_time_ratio`, `large_grounding_dino_time_ratio`
lvis      1,203 names on one picture of 480 x 640, 40 a prompt on both sides: `lvis_time_ratio`
memory    the most memory that a process of its own held at 800 x 1333, imports included: `peak_gb`
train     forward and backward of one picture of 240 x 320: `train_time_ratio`
options   channels-last memory, bfloat16 and, with --compile, torch.compile: their times and errors

Ratios are ours / reference, medians of neighbouring runs; `cpu_...` are those of processor seconds, which other programs on the
machine disturb less. Reference: `benchmarks/glipv2_reference.py`.
"""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from openvocab.errors import ConfigError, EvaluationError, cli_main

if TYPE_CHECKING:
    from detectron2.structures import Instances
    from torch import Tensor

    from glipv2.modeling import GLIPv2

NAMES = ["person", "cat", "dog", "cup", "spoon", "bicycle", "car", "chair", "remote control", "potted plant"]
PARTS = ("picture", "large", "lvis", "memory", "train", "options")
SMALL, LARGE, TRAIN = (480, 640), (800, 1333), (240, 320)
# most that float32 may differ by: logits have a spread of 1, boxes are in pixels, gradients are relative to the largest
LIMITS = {"logits": 1e-3, "deltas": 1e-3, "centerness": 1e-3, "unmatched": 0.02, "losses": 1e-4, "gradients": 1e-3}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each side, after the one whose output is compared")
    parser.add_argument("--lvis-passes", type=int, default=8, help="of the reference's 31, evenly spread; the total is scaled up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="options: try torch.compile too, which takes minutes")
    parser.add_argument("--tiny", action="store_true", help="a model and pictures that take seconds, to see that all works")
    parser.add_argument("--peak-of", nargs=2, metavar=("SIDE", "NAMES"), help=argparse.SUPPRESS)  # what `memory` starts
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers")
    args = parser.parse_args(argv)
    if min(args.runs, args.lvis_passes, args.threads) < 1:
        raise ConfigError("--runs, --lvis-passes and --threads must be at least 1")
    return args


def picture(size: tuple[int, int], tiny: bool) -> Tensor:
    """A random picture (3, H, W), a quarter of the size for a tiny model."""
    import torch

    height, width = (s // 4 if tiny else s for s in size)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def sides(tiny: bool) -> tuple[GLIPv2, GLIPv2]:
    """Ours and the reference, of the same weights."""
    from benchmarks.glipv2_reference import build, published

    ours = build(tiny)
    ours.set_vocabulary(NAMES)
    reference = published(ours, tiny)
    reference.set_vocabulary(NAMES)
    return ours, reference


def detect(model: GLIPv2, image: Tensor, **more: object) -> Instances:
    """Detect in one picture."""
    import torch

    with torch.no_grad():
        return model([{"image": image, **more}])[0]["instances"]


# ---- equal outputs ----------------------------------------------------------------------------------------------------


def answer(model: GLIPv2, image: Tensor) -> tuple[dict[str, Tensor], Instances]:
    """What the head says and what is found."""
    import torch

    outputs: list = []
    hook = model.head.register_forward_hook(lambda _, __, output: outputs.append(output))
    found = detect(model, image)
    hook.remove()
    parts = {"logits": outputs[0].alignment, "deltas": outputs[0].box_deltas, "centerness": outputs[0].centerness}
    return {name: torch.cat(levels, dim=1).float() for name, levels in parts.items()}, found


def unmatched(a: Instances, b: Instances, pixels: float = 0.05, score: float = 1e-3) -> float:
    """Part of the detections that the other side does not have: same name, near box, near score. Near ties may fall either way."""
    if not len(a) or not len(b):
        return float(len(a) != len(b))
    same = a.pred_classes[:, None] == b.pred_classes
    same &= (a.pred_boxes.tensor[:, None] - b.pred_boxes.tensor).abs().amax(-1) <= pixels
    same &= (a.scores[:, None] - b.scores).abs() <= score
    return 1 - min(float(same.any(1).float().mean()), float(same.any(0).float().mean()))


def differences(a: tuple[dict, Instances], b: tuple[dict, Instances], **close: float) -> dict[str, float]:
    """Largest differences of two answers; padding tokens, which only one side has, are left out."""
    result = {}
    for name, ours in a[0].items():
        theirs = b[0][name][..., : ours.shape[-1]] if ours.ndim == 3 else b[0][name]
        result[name] = float((ours - theirs).abs().max())
    return result | {"unmatched": unmatched(a[1], b[1], **close), "detections": len(a[1])}


def check(found: dict[str, float]) -> dict[str, float]:
    """Return the differences.

    Raises:
        EvaluationError: if one is beyond rounding.
    """
    wrong = [f"{name} {value:.3g} (limit {LIMITS[name]})" for name, value in found.items() if value > LIMITS.get(name, 1e9)]
    if wrong:
        raise EvaluationError(f"ours and the reference do not agree: {', '.join(wrong)}")
    return found


# ---- the parts --------------------------------------------------------------------------------------------------------


def time_picture(args: argparse.Namespace, size: tuple[int, int] = SMALL, key: str = "") -> dict:
    """Ours, the reference and GroundingDINO-T on one picture."""
    from benchmarks.glipv2_reference import GroundingDino
    from benchmarks.timing import in_turns

    ours, reference = sides(args.tiny)
    peer, image = GroundingDino(args.tiny), picture(size, args.tiny)
    equal = check(differences(answer(ours, image), answer(reference, image)))
    peer(image)
    turns: dict[str, Callable] = {"reference": lambda: detect(reference, image), "ours": lambda: detect(ours, image)}
    rows = in_turns({**turns, "GroundingDINO-T": lambda: peer(image)}, args.runs)
    result = {f"{key}picture": {"rows": rows, "differences": equal}}
    for kind in ("time_ratio", "cpu_ratio"):
        result[key + kind] = rows["ours"][kind]
        result[f"{key}grounding_dino_{kind}"] = rows["ours"][kind] / rows["GroundingDINO-T"][kind]
    return result


def time_large(args: argparse.Namespace) -> dict:
    """The same with a picture of the published size."""
    return time_picture(args, LARGE, "large_")


def time_lvis(args: argparse.Namespace) -> dict:
    """Ours on all names at once; the reference chunk by chunk, half of its passes before ours and half behind."""
    from benchmarks.timing import seconds
    from glipv2.modeling import Chunking
    from glipv2.modeling.prompts import PromptPlanner
    from openvocab import Vocabulary

    ours, reference = sides(args.tiny)
    vocabulary, image = Vocabulary.builtin("lvis"), picture(SMALL, args.tiny)
    planner = PromptPlanner(text_encoder=ours.text_encoder, chunking=Chunking(max_names=40), separator=". ", prior=None)
    prompts = planner(vocabulary)
    ours._plan, ours.chunking = planner, planner.chunking
    chosen = [prompts[i * len(prompts) // args.lvis_passes] for i in range(min(args.lvis_passes, len(prompts)))]
    found: dict = {}

    def full_pass(prompt: object) -> tuple[float, float]:
        return seconds(lambda: found.__setitem__(prompt, detect(reference, image, vocabulary=prompt.vocabulary)))

    detect(reference, image)
    passes = [full_pass(p) for p in chosen[::2]]
    cold = seconds(lambda: found.__setitem__("all", detect(ours, image, vocabulary=vocabulary)))
    passes += [full_pass(p) for p in chosen[1::2]]
    warm = seconds(lambda: detect(ours, image, vocabulary=vocabulary))
    equal = check({"unmatched": max(unmatched(chunk_of(found["all"], p), p.in_whole(found[p])) for p in chosen)})
    wall, cpu = (sum(p[k] for p in passes) / len(passes) * len(prompts) for k in (0, 1))
    return {
        "lvis_time_ratio": cold[0] / wall,
        "lvis_cpu_ratio": cold[1] / cpu,
        "lvis": {
            "names": len(vocabulary),
            "chunks": len(prompts),
            "reference_passes": len(passes),
            "reference_seconds": wall,
            "seconds": cold[0],
            "seconds_text_kept": warm[0],
            "cpu_ratio_text_kept": warm[1] / cpu,
            "differences": equal | {"detections": len(found["all"])},
        },
    }


def chunk_of(found: Instances, prompt: object) -> Instances:
    """The detections of a prompt's names."""
    import torch

    return found[torch.isin(found.pred_classes, torch.tensor(prompt.places))]


def peak_of(args: argparse.Namespace) -> dict:
    """Detect once, in this process; the most memory it held."""
    from benchmarks.glipv2_reference import build, published
    from benchmarks.timing import peak_gb
    from openvocab import Vocabulary

    side, names = args.peak_of[0], int(args.peak_of[1])
    model = build(args.tiny)
    if side == "reference":
        model = published(model, args.tiny)
    detect(model, picture(LARGE, args.tiny), vocabulary=Vocabulary.builtin("lvis").subset(list(range(names))))
    return {"peak_gb": peak_gb()}


def measure_memory(args: argparse.Namespace) -> dict:
    """Start a process each for ours, ours with a vocabulary of several prompts, and the reference."""
    peaks = {}
    for name, side, names in (("ours", "ours", 10), ("ours, 200 names", "ours", 200), ("reference", "reference", 10)):
        command = [sys.executable, str(Path(__file__).resolve()), "--peak-of", side, str(names), "--threads", str(args.threads)]
        done = subprocess.run([*command, *(["--tiny"] if args.tiny else [])], capture_output=True, text=True, check=False)
        if done.returncode:
            raise EvaluationError(f"the process that measures the memory of '{name}' failed: {done.stderr.strip()[-300:]}")
        peaks[name] = json.loads(done.stdout.strip().splitlines()[-1])["peak_gb"]
    return {"peak_gb": peaks["ours"], "peaks_gb": peaks}


def sample(tiny: bool) -> dict:
    """A picture with three boxes of three names."""
    import torch
    from detectron2.structures import Boxes, Instances

    image = picture(TRAIN, tiny)
    height, width = image.shape[-2:]
    parts = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.5, 0.5], [0.5, 0.4, 0.95, 0.9]])
    boxes = Boxes(parts * torch.tensor([width, height, width, height]))
    return {"image": image, "instances": Instances((height, width), gt_boxes=boxes, gt_classes=torch.tensor([0, 3, 9]))}


def step(model: GLIPv2, x: dict) -> dict[str, float]:
    """Forward and backward of one picture; return the losses."""
    model.zero_grad()
    losses = model.train()([x])
    sum(losses.values()).backward()
    return {name: float(value.detach()) for name, value in losses.items()}


def time_training(args: argparse.Namespace) -> dict:
    """Forward and backward in turns; losses and gradients are compared. Dropout is off; an optimizer would be the same for both."""
    from benchmarks.timing import in_turns

    ours, reference = sides(args.tiny)
    x, told, gradients = sample(args.tiny), [], []
    for model in (ours, reference):
        told.append(step(model, x))
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    top = max(float(g.abs().max()) for g in gradients[1].values())
    apart = max(float((gradients[0][n] - g).abs().max()) for n, g in gradients[1].items()) / top
    equal = check({"losses": max(abs(told[0][k] - value) for k, value in told[1].items()), "gradients": apart})
    rows = in_turns({"reference": lambda: step(reference, x), "ours": lambda: step(ours, x)}, args.runs)
    ratios = {"train_time_ratio": rows["ours"]["time_ratio"], "train_cpu_ratio": rows["ours"]["cpu_ratio"]}
    return {**ratios, "training": {"rows": rows, "differences": equal}}


def time_options(args: argparse.Namespace) -> dict:
    """Each way to run, beside ours in float32; their errors are printed, not limited."""
    from benchmarks.glipv2_reference import build
    from benchmarks.timing import in_turns
    from glipv2.modeling import Execution

    ways = {"channels-last": Execution(channels_last=True), "bfloat16": Execution(precision="bfloat16")}
    ways["both"] = Execution(channels_last=True, precision="bfloat16")
    if args.compile:
        ways["compiled"] = Execution(compile=True)
    ours, image = build(args.tiny), picture(SMALL, args.tiny)
    ours.set_vocabulary(NAMES)
    expected, result = answer(ours, image), {}
    for name, way in ways.items():
        model = copy.deepcopy(ours)
        model.execution = way
        way.prepare(model.backbone, model.head)
        error = differences(answer(model, image), expected, pixels=2.0, score=0.02)
        turns = {"reference": lambda: detect(ours, image), name: lambda m=model: detect(m, image)}
        result[name] = {**in_turns(turns, args.runs)[name], "errors": error}
    return {"options": result}


# ---- the report -------------------------------------------------------------------------------------------------------


def report(result: dict) -> None:
    """Print the numbers."""
    titles = {"picture": "480 x 640", "large_picture": "800 x 1333", "training": "training step"}
    for title, table in ((title, result[key]) for key, title in titles.items() if key in result):
        for name, row in table["rows"].items():
            ratios = f"ratio {row['time_ratio']:.3f}, of processor seconds {row['cpu_ratio']:.3f}"
            print(f"{title}, {name}: {row['seconds']:.2f} s (processors {row['cpu_seconds']:.2f} s), {ratios}")
        print(f"{title}, differences: {', '.join(f'{k} {v:.3g}' for k, v in table['differences'].items())}")
    if "lvis" in result:
        row = result["lvis"]
        print(
            f"{row['names']} names in {row['chunks']} prompts: {row['seconds']:.1f} s, {row['seconds_text_kept']:.1f} s with the "
            f"text kept; published {row['reference_seconds']:.1f} s (from {row['reference_passes']} passes); ratio "
            f"{result['lvis_time_ratio']:.3f}, of processor seconds {result['lvis_cpu_ratio']:.3f}; {row['differences']}"
        )
    for name, value in result.get("peaks_gb", {}).items():
        print(f"peak memory at {LARGE[0]} x {LARGE[1]}, {name}: {value:.2f} GB")
    for name, row in result.get("options", {}).items():
        errors = ", ".join(f"{k} {v:.3g}" for k, v in row["errors"].items())
        ratios = f"{row['time_ratio']:.3f} of ours, of processor seconds {row['cpu_ratio']:.3f}"
        print(f"{name}: {row['seconds']:.2f} s, {ratios}; errors: {errors}")


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    args = parse(argv)
    import torch

    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(json.dumps(peak_of(args)))
        return 0
    from benchmarks.timing import machine

    parts = dict(zip(PARTS, (time_picture, time_large, time_lvis, measure_memory, time_training, time_options), strict=True))
    command = shlex.join(["python", "benchmarks/glipv2.py", *(sys.argv[1:] if argv is None else argv)])
    result = {}
    if args.json and args.json.is_file() and set(args.only) != set(PARTS):
        result = json.loads(args.json.read_text())
    for name in args.only:
        found = parts[name](args)
        report(found)
        how = {"command": command, "machine": machine(), "threads": args.threads, "runs": args.runs, "tiny": args.tiny}
        result = {**result, **found, "runs_of": {**result.get("runs_of", {}), name: how}}
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    # this file has the name of the package that it measures, and python looks into its folder first
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    cli_main(lambda: main(sys.argv[1:]))
