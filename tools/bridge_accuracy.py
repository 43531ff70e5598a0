"""Measure the bridge on ground-truth regions: top-1 over a data set's own names.

    python tools/bridge_accuracy.py coco_mini_val aquarium_val bccd_val --per-class 25,50,30
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import defaultdict

import torch

from openvocab.errors import cli_main


def regions(dataset: str, per_class: int, min_side: float) -> list[tuple[str, list[float], int]]:
    """Return (file, box XYXY, class) of at most `per_class` regions a class, in a fixed random order."""
    from detectron2.structures import BoxMode

    from openvocab.data import get_records

    by_class = defaultdict(list)
    for record in get_records(dataset):
        for a in record["annotations"]:
            box = BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
            if not a.get("iscrowd", 0) and min(box[2] - box[0], box[3] - box[1]) >= min_side:
                by_class[a["category_id"]].append((record["file_name"], list(box), a["category_id"]))
    rng, chosen = random.Random(0), []
    for key in sorted(by_class):
        rng.shuffle(by_class[key])
        chosen += by_class[key][:per_class]
    return chosen


def measure(bridge: object, dataset: str, per_class: int, min_side: float, context: float) -> dict:
    """Return top-1 and macro top-1 of a data set's regions."""
    from openvocab.data import get_vocabulary
    from openvocab.media import to_rgb

    words = bridge.encode(get_vocabulary(dataset).prompts)
    by_file = defaultdict(list)
    rows = regions(dataset, per_class, min_side)
    for file, box, label in rows:
        by_file[file].append((box, label))
    hits, started = defaultdict(list), time.perf_counter()
    for file, items in by_file.items():
        image = torch.from_numpy(to_rgb(file).copy()).permute(2, 0, 1)
        vectors = bridge.encode_pixels(bridge.crop(image, torch.tensor([b for b, _ in items]), context))
        for guess, (_, label) in zip((vectors @ words.t()).argmax(1).tolist(), items, strict=True):
            hits[label].append(guess == label)
    every = [h for v in hits.values() for h in v]
    macro = sum(sum(v) / len(v) for v in hits.values()) / len(hits)
    ms = 1000 * (time.perf_counter() - started) / len(rows)
    return {"regions": len(rows), "names": len(words), "top1": sum(every) / len(every), "macro": macro, "ms": ms}


def main(argv: list[str]) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", default=["coco_mini_val", "aquarium_val", "bccd_val"])
    parser.add_argument("--per-class", default="25,50,30", help="most regions a class, one number a data set")
    parser.add_argument("--min-side", type=float, default=16.0, help="smaller regions are left out, in pixels")
    parser.add_argument("--context", type=float, default=0.0)
    parser.add_argument("--topk", type=int, default=50)
    parser.add_argument("--template", default="a {}", help="the sentence around every name")
    args = parser.parse_args(argv)
    from tabulate import tabulate

    from openvocab.bridge import Bridge

    bridge, limits = Bridge(topk=args.topk, template=args.template), [int(v) for v in args.per_class.split(",")]
    rows = []
    for i, dataset in enumerate(args.datasets):
        rows.append({"data set": dataset, **measure(bridge, dataset, limits[min(i, len(limits) - 1)], args.min_side, args.context)})
        print(tabulate(rows[-1:], headers="keys", floatfmt=".3f"), flush=True)
    return 0


if __name__ == "__main__":
    cli_main(lambda: main(sys.argv[1:]))
