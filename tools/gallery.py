"""Make docs/images/gallery.jpg: of each republishable set the validation picture that goes best, and the one that goes worst.

    python tools/gallery.py [--pictures 40]

A picture is judged by F1 = 2 TP / (2 TP + FP + FN) of the detections above the threshold, where a detection is right if it has the
name of a box it overlaps by IoU of at least 0.5. So the choice is the rule's, not ours. Pictures: bccd (MIT), aquarium (Roboflow,
CC BY 4.0), pothole (CC BY 4.0).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from openvocab.errors import cli_main

SETS = ("bccd_val", "aquarium_val", "pothole_val")
CELL = (420, 330)


def f1_score(found, truth, names) -> float:
    """Return F1 of a picture's detections against its (box, name) pairs; detections come best first, each box is taken once."""
    import torch
    from torchvision.ops import box_iou

    right, taken = 0, set()
    boxes = torch.tensor([box for box, _ in truth]).reshape(-1, 4)
    overlap = box_iou(torch.as_tensor(found.boxes).float().reshape(-1, 4), boxes.float())
    for row, name in zip(overlap, found.names, strict=True):
        fits = [i for i, (_, n) in enumerate(truth) if names[n] == name and i not in taken and row[i] >= 0.5]
        if fits:
            taken.add(max(fits, key=lambda i: float(row[i])))
            right += 1
    wrong = len(found.names) - right + len(truth) - right
    return 2 * right / max(2 * right + wrong, 1)


def judge(predictor, dataset: str, limit: int) -> list[tuple[float, str, object]]:
    """Return (F1, file, detections) of a set's first pictures that have boxes, best first."""
    from openvocab.data import get_records, get_vocabulary

    vocabulary = get_vocabulary(dataset)
    rows = []
    for record in get_records(dataset)[:limit]:
        truth = [(_xyxy(a["bbox"]), a["category_id"]) for a in record["annotations"] if not a.get("iscrowd", 0)]
        if truth:
            found = predictor(record["file_name"], vocabulary)
            rows.append((f1_score(found, truth, vocabulary.names), record["file_name"], found))
    return sorted(rows, key=lambda row: -row[0])


def _xyxy(box: list[float]) -> list[float]:
    """XYWH to XYXY."""
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def main(argv: list[str]) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=40, help="looked at in each set")
    parser.add_argument("--threshold", type=float, default=0.4)
    parser.add_argument("--output", default=str(Path(__file__).resolve().parents[1] / "docs" / "images" / "gallery.jpg"))
    args = parser.parse_args(argv)
    from PIL import Image

    from openvocab import load_predictor

    predictor = load_predictor("default", device="cpu", score_threshold=args.threshold)
    sheet = Image.new("RGB", (len(SETS) * CELL[0], 2 * CELL[1]), "white")
    for column, dataset in enumerate(SETS):
        rows = judge(predictor, dataset, args.pictures)
        mean = sum(row[0] for row in rows) / len(rows)
        print(f"{dataset}: F1 {mean:.2f} in the mean of {len(rows)} pictures at {args.threshold}")
        for line, (score, path, found) in enumerate((rows[0], rows[-1])):
            print(f"  {'best' if line == 0 else 'worst'}: {Path(path).name}, F1 {score:.2f}, {len(found.names)} detections")
            drawn = found.draw()
            drawn.thumbnail((CELL[0] - 4, CELL[1] - 4))
            sheet.paste(drawn, (column * CELL[0], line * CELL[1]))
    sheet.save(args.output, quality=88)
    return 0


if __name__ == "__main__":
    cli_main(lambda: main(sys.argv[1:]))
