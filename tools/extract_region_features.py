"""Features of the regions of pictures, in files as microsoft/RegionCLIP's tool of the same name writes them.

    python tools/extract_region_features.py --weights rn50.safetensors --rpn-weights rpn.safetensors --input photos/ --output out/
    python tools/extract_region_features.py --weights rn50.safetensors --boxes boxes.json --input photos/ --output out/
    python tools/extract_region_features.py --weights rn50.safetensors --rpn-weights rpn.safetensors --embeddings lvis.npz ...

Weights are ours: tools/convert_weights.py makes them of official files (--from regionclip, clip or regionclip-rpn). Boxes come
from the proposal network, or from a json: {"a.jpg": [[x1, y1, x2, y2], ...]}, or COCO annotations.

One file a picture, called like it up to the first dot: "boxes" (N, 4) XYXY pixels of the picture, "feats" (N, D), not
normalised; with --embeddings also "classes" (N,) and "probs" (N, K + 1), background last, of what is left after NMS.
Bad pictures of several are counted and left out. Exit code: 0; 1 if all were bad; 2, with one sentence, if nothing can be done.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from openvocab.errors import ConfigError, DataError, InputError, ToolParser, cli_main  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

    from regionclip.extraction import RegionExtractor


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        ConfigError: for unknown or contradicting options, and values out of range.
    """
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, metavar="FILE", help="image tower (backbone.*), converted")
    parser.add_argument("--input", nargs="+", required=True, metavar="FILE|DIR", help="pictures, or folders of them")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--rpn-weights", metavar="FILE", help="proposal network (offline_rpn.*); default: that in --weights")
    source.add_argument("--boxes", type=Path, metavar="JSON", help="given boxes instead of proposals")
    parser.add_argument("--embeddings", metavar="FILE", help="text embeddings, as tools/dump_text_embeddings.py writes them")
    parser.add_argument("--format", choices=["pth", "npz", "safetensors"], default="pth", help="default: pth, the official one")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("SHORT", "LONG"), help="default: 800 1333")
    parser.add_argument("--proposals", type=int, default=1000, help="most proposals a picture; default: 1000")
    parser.add_argument("--proposal-nms", type=float, default=0.9, help="IoU of the proposal network's NMS; default: 0.9")
    parser.add_argument("--threshold", type=float, default=0.02, help="least score of a named region; default: 0.02")
    parser.add_argument("--nms", type=float, default=0.5, help="IoU of the NMS of named regions; default: 0.5")
    parser.add_argument("--top", type=int, default=300, help="most named regions a picture; default: 300")
    parser.add_argument("--no-fusion", action="store_true", help="do not multiply scores with the proposal network's")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    args = parser.parse_args(argv)
    for option in ("proposal_nms", "nms"):
        if not 0 < getattr(args, option) <= 1:
            raise ConfigError(f"--{option.replace('_', '-')} {getattr(args, option)} must lie above 0 and at most be 1")
    if min(args.proposals, args.top, *args.size) < 1:
        raise ConfigError("--proposals, --top and --size must be at least 1")
    return args


def read_boxes(path: Path) -> dict[str, list[list[float]]]:
    """Read given boxes: file name -> XYXY boxes.

    Raises:
        DataError: if it is no json of one of the two forms.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "images" in content and "annotations" in content:
            names = {i["id"]: Path(i["file_name"]).name for i in content["images"]}
            found: dict[str, list[list[float]]] = {name: [] for name in names.values()}
            for entry in content["annotations"]:
                x, y, w, h = entry["bbox"]
                found[names[entry["image_id"]]].append([x, y, x + w, y + h])
            return found
        return {Path(name).name: [[float(v) for v in box] for box in boxes] for name, boxes in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path} holds no boxes ({type(error).__name__}: {error}): {{'a.jpg': [[x1, y1, x2, y2], ...]}} or COCO annotations"
        ) from error


def build(args: argparse.Namespace) -> RegionExtractor:
    """Build the model from its weights."""
    from openvocab.io import load_weights
    from openvocab.predictor import choose_device
    from openvocab.text import load_text_embeddings
    from regionclip.extraction import RegionExtractor, proposals_for, region_backbone

    tensors = load_weights(args.weights).tensors
    backbone, features = region_backbone(tensors)
    proposals = None
    if args.boxes is None:
        source = tensors if args.rpn_weights is None else load_weights(args.rpn_weights).tensors
        proposals = proposals_for(source, nms_thresh=args.proposal_nms, top=args.proposals)
    words = None if args.embeddings is None else load_text_embeddings(args.embeddings, dim=features.out_channels)
    return RegionExtractor(
        backbone=backbone,
        region_features=features,
        proposals=proposals,
        embeddings=None if words is None else words.vectors,
        size=tuple(args.size),
        score_threshold=args.threshold,
        nms_thresh=args.nms,
        top=args.top,
        fuse=not args.no_fusion,
    ).to(choose_device(args.device))


def targets(pictures: list[Path], folder: Path, suffix: str) -> dict[Path, Path]:
    """Name an output file a picture: its name up to the first dot.

    Raises:
        InputError: if two pictures would share one (the official tool overwrites the first).
    """
    found: dict[Path, Path] = {}
    for path in pictures:
        target = folder / f"{path.name.partition('.')[0] or path.stem}.{suffix}"
        other = found.setdefault(target, path)
        if other != path:
            raise InputError(f"{other} and {path} would both be written to {target}; give them to runs of their own")
    return {path: target for target, path in found.items()}


def write(path: Path, found: dict[str, Tensor]) -> None:
    """Write one picture's tensors; whole or not at all."""
    import numpy as np
    import torch

    from openvocab.io import atomic_write, save_weights

    found = {k: v.contiguous() for k, v in found.items()}
    if path.suffix == ".safetensors":
        save_weights(path, found)
        return
    with atomic_write(path) as file:
        if path.suffix == ".npz":
            np.savez(file, **{k: v.numpy() for k, v in found.items()})
        else:
            torch.save({k: v.clone() for k, v in found.items()}, file)


def run(extract: Callable[..., dict[str, Tensor]], jobs: dict[Path, Path], boxes: dict[str, list] | None) -> int:
    """Do all pictures; return how many went well. A single one that fails raises instead.

    Raises:
        DataError: if boxes are given, but none for a picture.
        InputError: for a single bad picture.
    """
    from tqdm import tqdm

    done = 0
    for path, target in tqdm(jobs.items(), unit="picture", disable=None, leave=False):
        try:
            if boxes is not None and path.name not in boxes:
                raise DataError(f"the given boxes have none for {path.name}")
            write(target, extract(path, None if boxes is None else boxes[path.name]))
        except (InputError, DataError) as error:
            if len(jobs) == 1:
                raise
            tqdm.write(f"warning: {path} is left out: {' '.join(str(error).split())}", file=sys.stderr)
            continue
        done += 1
    return done


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse(argv)
    from openvocab.media import find_inputs, is_video

    pictures = [p for p in find_inputs(args.input) if not is_video(p)]
    if not pictures:
        raise InputError(f"there are no pictures in {', '.join(args.input)}")
    jobs = targets(pictures, args.output, args.format)
    boxes = None if args.boxes is None else read_boxes(args.boxes)
    done = run(build(args), jobs, boxes)
    bad = f", {len(jobs) - done} left out" if done < len(jobs) else ""
    print(f"{done} of {len(jobs)} pictures done{bad}; features are in {args.output}")
    return 0 if done else 1


if __name__ == "__main__":
    cli_main(lambda: main(sys.argv[1:]))
