"""What our order of RegionCLIP's computations saves: the same detector in the published order beside it, in turns, in one run.

    python benchmarks/regionclip.py [--json FILE] [--runs 3] [--threads 2]

RN50-C4, one picture of 800 x 1333, 1000 proposals of an offline C4 RPN, 65 names, random weights that both sides load. Each side,
and ours with bfloat16 regions, lives in a process of its own, so that the most memory each ever held (imports included) is known;
they run in turns, never at once. `time_ratio` is ours / reference, the median of neighbouring runs, `cpu_ratio` the same of
processor seconds, which other programs on the machine disturb less. What they say of the same proposals is compared, and a
difference beyond rounding is an error; so is another set of proposals. Reference: `benchmarks/regionclip_reference.py`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shlex
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from openvocab.errors import ConfigError, EvaluationError, OpenVocabError, cli_main

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.regionclip_reference import PlainRegionCLIP, Size
    from regionclip.modeling import RegionCLIP

SIDES = ("ours", "reference", "bf16")
# most that float32 may differ by: features relative to the largest; logits are cosines times 100; boxes in pixels
LIMITS = {"features": 5e-5, "logits": 2e-3, "scores": 1e-3, "boxes": 0.05}
CLOSE = {"proposals": 0.05, "found": 1.0}  # pixels: boxes of two sides are the same
SHARED = 0.98  # of proposals and of detections that both sides must have: near ties may fall either way


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each side, after the one whose output is compared")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a model and a picture that take seconds, to see that all works")
    parser.add_argument("--one-process", action="store_true", help="all sides in this process; peaks are then those of all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers")
    args = parser.parse_args(argv)
    if min(args.runs, args.threads) < 1:
        raise ConfigError("--runs and --threads must be at least 1")
    return args


def size_of(tiny: bool) -> tuple[Size, tuple[int, int]]:
    """Measures of the model, and of the picture (height, width)."""
    from benchmarks.regionclip_reference import Size

    if tiny:
        return Size(blocks=(1, 1, 1, 2), width=16, dim=64, rpn=(8, 4, 8), names=9, proposals=30), (150, 214)
    return Size(), (800, 1333)


# ---- the sides --------------------------------------------------------------------------------------------------------


class Side(Protocol):
    """One detector with the weights in a folder."""

    def say(self) -> None:
        """Write what it finds to FOLDER/NAME.safetensors: all but the reference for the proposals that the reference wrote."""

    def run(self) -> tuple[float, float]:
        """Detect in the picture; return seconds by the clock, and of the processors."""

    def finish(self) -> float:
        """End; return the most memory it ever held, in GB."""


class Local:
    """A side in this process.

    Args:
        name: of `SIDES`.
        folder: with weights.safetensors.
        args: of the command line.
    """

    def __init__(self, name: str, folder: Path, args: argparse.Namespace) -> None:
        import torch

        from benchmarks.regionclip_reference import PlainRegionCLIP, picture
        from openvocab.io import load_into, load_weights

        torch.set_num_threads(args.threads)
        self.name, self.folder = name, folder
        size, (height, width) = size_of(args.tiny)
        if name == "reference":
            self.model, self.detect = PlainRegionCLIP(size), plain
        else:
            self.model, self.detect = build(size, "bfloat16" if name == "bf16" else "float32"), ours
        load_into(self.model, load_weights(folder / "weights.safetensors").tensors, strict=True)
        self.model.eval()
        self.picture = picture(height, width, args.seed)

    def say(self) -> None:
        from openvocab.io import load_weights, save_weights

        given = None if self.name == "reference" else load_weights(self.folder / "reference.safetensors").tensors
        save_weights(self.folder / f"{self.name}.safetensors", self.detect(self.model, self.picture, given))

    def run(self) -> tuple[float, float]:
        from benchmarks.timing import seconds

        return seconds(lambda: self.detect(self.model, self.picture))

    def finish(self) -> float:
        from benchmarks.timing import peak_gb

        return peak_gb()


class Remote:
    """A side in a process of its own, which waits while others run; arguments as of `Local`."""

    def __init__(self, name: str, folder: Path, args: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, name, folder, args), daemon=True)
        self.process.start()
        other.close()
        self._answer()

    def say(self) -> None:
        self._ask("say")

    def run(self) -> tuple[float, float]:
        return self._ask("run")

    def finish(self) -> float:
        peak = self._ask("finish")
        self.process.join()
        return peak

    def _ask(self, verb: str) -> object:
        self.pipe.send(verb)
        return self._answer()

    def _answer(self) -> object:
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            raise _ended("side", self.process.exitcode) from None


def _serve(pipe: Connection, name: str, folder: Path, args: argparse.Namespace) -> None:
    side, verb = Local(name, folder, args), ""
    pipe.send("ready")
    while verb != "finish":
        verb = pipe.recv()
        pipe.send(getattr(side, verb)())


def _ended(what: str, code: int | None) -> OpenVocabError:
    return OpenVocabError(f"the process of a {what} ended with code {code}; what went wrong stands above")


def prepare(folder: Path, args: argparse.Namespace) -> None:
    """Write the weights that all sides load."""
    import torch

    from benchmarks.regionclip_reference import PlainRegionCLIP, calibrate, picture
    from openvocab.io import save_weights

    size, (height, width) = size_of(args.tiny)
    torch.manual_seed(args.seed)
    model = PlainRegionCLIP(size)
    calibrate(model, picture(height, width, args.seed), args.seed)
    save_weights(folder / "weights.safetensors", model.state_dict())


def plain(model: PlainRegionCLIP, image: Tensor, given: None = None) -> dict[str, Tensor]:
    """What the reference finds."""
    return model(image)


def ours(model: RegionCLIP, image: Tensor, given: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """What our model finds, in its own proposals, or in given ones; with given ones also what it computed on the way."""
    import torch
    from detectron2.structures import Boxes, Instances

    if given is None:
        with torch.no_grad():
            return model([{"image": image}])[0]["instances"].get_fields()
    boxes, seen, heads = given["proposals"], [], model.roi_heads
    proposals = Instances(image.shape[-2:], proposal_boxes=Boxes(boxes), objectness_logits=given["objectness"])
    with heads.region_features.register_forward_hook(lambda *a: seen.append(a[-1])), torch.no_grad():
        found = model([{"image": image, "proposals": proposals}])[0]["instances"]
        logits, deltas = heads.box_predictor(seen[0])
        own = model.propose([{"image": image}])[0]
    return {
        "proposals": own.proposal_boxes.tensor,
        "objectness": own.objectness_logits,
        "features": seen[0],
        "logits": logits,
        "boxes": heads.box_predictor.box2box_transform.apply_deltas(deltas, boxes),
        "found_boxes": found.pred_boxes.tensor,
        "found_scores": found.scores,
        "found_classes": found.pred_classes,
    }


def build(size: Size, dtype: str) -> RegionCLIP:
    """The model of configs/regionclip/models/regionclip_rn50.py with regions in `dtype`, and NMS that both sides have."""
    from detectron2.config import instantiate

    from openvocab.config import load_config

    model = load_config("configs/regionclip/models/regionclip_rn50.py").model
    model.backbone.update(blocks=list(size.blocks), width=size.width, embed_dim=size.dim)
    model.roi_heads.region_features.dtype = dtype
    model.roi_heads.box_predictor.input_dim = size.dim
    model.roi_heads.box_predictor.postprocessor.soft_nms = None
    stem, inner, first = size.rpn
    model.offline_rpn.update(stem_channels=stem, width_per_group=inner, res2_channels=first, post_nms_topk=size.proposals)
    return instantiate(model)


# ---- the numbers ------------------------------------------------------------------------------------------------------


def in_turns(sides: Mapping[str, Side], runs: int) -> dict[str, dict]:
    """Time the sides in turns, the order reversed every other time; return medians in seconds, and ratios to the reference."""
    from benchmarks.timing import row

    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for i in range(runs):
        for name in list(sides)[:: 1 if i % 2 else -1]:
            taken[name].append(sides[name].run())
            print(f"run {i + 1}, {name}: {taken[name][-1][0]:.2f} s, {taken[name][-1][1]:.2f} processor seconds", flush=True)
    return {name: row(times, taken["reference"]) for name, times in taken.items()}


def compare(said: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, float]:
    """Largest differences between two sides: of their proposals, of what they say of the same ones, of their detections."""
    edges = (said["boxes"] - other["boxes"]).abs()
    probs = [x["logits"].softmax(dim=1) for x in (said, other)]
    return {
        "features": float((said["features"] - other["features"]).abs().max() / other["features"].abs().max()),
        "logits": float((said["logits"] - other["logits"]).abs().max()),
        "scores": float((probs[0] - probs[1]).abs().max()),
        "boxes": float(edges.max()),
        "boxes_mean": float(edges.mean()),
        "same_class": float((said["logits"].argmax(dim=1) == other["logits"].argmax(dim=1)).float().mean()),
        "regions": len(edges),
        "proposals_shared": shared(said["proposals"], other["proposals"], CLOSE["proposals"]),
        "detections": len(other["found_boxes"]),
        "detections_shared": shared(_by_class(said), _by_class(other), CLOSE["found"]),
    }


def shared(boxes: Tensor, others: Tensor, close: float) -> float:
    """Share of the others (M, 4) that lie at a distance below `close` of one of the boxes (N, 4)."""
    import torch

    return float((torch.cdist(others, boxes, p=float("inf")).min(dim=1).values < close).float().mean())


def _by_class(said: Mapping[str, Tensor]) -> Tensor:
    """Detected boxes, each class in a place of its own."""
    return said["found_boxes"] + said["found_classes"][:, None] * 1e4


def check(differences: Mapping[str, float]) -> None:
    """Hold the float32 side to rounding.

    Raises:
        EvaluationError: if it differs by more.
    """
    wrong = [f"{k} {differences[k]:.2g} (at most {most:g})" for k, most in LIMITS.items() if not differences[k] <= most]
    shares = ("proposals_shared", "detections_shared")
    wrong += [f"{k} {differences[k]:.3f} (at least {SHARED})" for k in shares if not differences[k] >= SHARED]
    if wrong:
        raise EvaluationError(f"ours and the reference do not say the same: {', '.join(wrong)}")


def measure(args: argparse.Namespace) -> dict:
    """Run all sides and return every number."""
    from openvocab.io import load_weights

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make = Local if args.one_process else Remote
        if args.one_process:
            prepare(folder, args)
        else:
            writer = multiprocessing.get_context("spawn").Process(target=prepare, args=(folder, args))
            writer.start()
            writer.join()
            if writer.exitcode:
                raise _ended("writer of weights", writer.exitcode)
        sides = {name: make(name, folder, args) for name in SIDES}
        for name in sorted(SIDES, key="reference".__ne__):
            sides[name].say()
        rows = in_turns(sides, args.runs)
        for name, side in sides.items():
            rows[name]["peak_gb"] = side.finish()
        said = {name: load_weights(folder / f"{name}.safetensors").tensors for name in SIDES}
        float32, bf16 = (compare(said[name], said["reference"]) for name in ("ours", "bf16"))
    return {
        "time_ratio": rows["ours"]["time_ratio"],
        "peak_gb": rows["ours"]["peak_gb"],
        "time_ratio_bf16": rows["bf16"]["time_ratio"],
        "peak_gb_bf16": rows["bf16"]["peak_gb"],
        "sides": rows,
        "differences": float32,
        "differences_bf16": bf16,
    }


def report(result: Mapping[str, dict]) -> None:
    """Print the numbers."""
    for name, row in result["sides"].items():
        ratios = f"ratio {row['time_ratio']:.3f}, of processor seconds {row['cpu_ratio']:.3f}"
        print(f"{name}: {row['seconds']:.2f} s a picture, {ratios}; peak memory {row['peak_gb']:.2f} GB")
    for name in ("differences", "differences_bf16"):
        print(f"{name.replace('_', ' of ')}: {', '.join(f'{k} {v:.4g}' for k, v in result[name].items())}")


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    from benchmarks.timing import machine

    args = parse(argv)
    result = measure(args)
    settings = {k: getattr(args, k) for k in ("runs", "threads", "seed", "tiny")}
    command = shlex.join(["python", "benchmarks/regionclip.py", *(sys.argv[1:] if argv is None else argv)])
    result |= {**settings, "machine": machine(), "command": command}
    report(result)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    check(result["differences"])
    return 0


if __name__ == "__main__":
    # this file has the name of the package that it measures, and python looks into its folder first
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    cli_main(lambda: main(sys.argv[1:]))
