"""Boxes for the noun phrases of captions, found by a trained detector: image-text pairs become grounding data.

    python tools/pseudo_boxes.py --images cc3m/images --captions cc3m/captions.tsv --output cc3m/pseudo_boxes.jsonl
    python tools/pseudo_boxes.py --images coco/val2017 --captions coco/annotations/captions_val2017.json --teacher default
      --threshold 0.3 --output coco_pseudo.jsonl

Self-training after GLIP (arXiv 2112.03857): noun phrases by rule, and the teacher's boxes above a threshold. --captions is a COCO
captions json, a .tsv (file name, caption), a .jsonl ("filename", "caption"), a folder of .jsonl files, or the .yaml of GLIP's tsv
files, whose pictures are read from their rows (--images is then its folder).

The output is ODVG's json lines, as `register_grounding_folder(..., reader="odvg")` reads them: a line for each caption that got a
box, with the spans of its phrases, boxes (XYXY pixels) and scores. Work is kept in OUTPUT.partial while it goes on: stopped in any
way, the same command goes on where it was; the output appears when it is whole. Pictures that cannot be read, and captions without
a noun phrase or over the teacher's token budget, are left out and counted. Exit code: 0; 1 if no caption got a box; 2, with one
sentence, if nothing can be done.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from openvocab.errors import ConfigError, DataError, InputError, PromptError, ToolParser, cli_main  # noqa: E402

if TYPE_CHECKING:
    import numpy as np

    from openvocab.data.captions import CaptionedPicture
    from openvocab.detections import Detections
    from openvocab.predictor import Predictor
    from openvocab.prompting import Caption

LEFT_OUT = "left_out"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        ConfigError: for unknown options, and values out of range.
    """
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the pictures")
    parser.add_argument("--captions", type=Path, required=True, metavar="FILE|DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="JSONL")
    parser.add_argument("--teacher", default="default", metavar="NAME", help="a model of the zoo, or a config (default: default)")
    parser.add_argument("--weights", metavar="FILE", help="its weights, if not those of the zoo or config")
    parser.add_argument("--threshold", type=float, default=0.5, help="least score of a box (default: 0.5, that of GLIP-L's data)")
    parser.add_argument("--phrases", choices=["rules", "spacy"], default="rules", help="who finds noun phrases (default: rules)")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="pictures at a time (default: 4)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--overwrite", action="store_true", help="make the output anew if it is there, and forget partial work")
    args = parser.parse_args(argv)
    if not 0 < args.threshold <= 1 or args.batch_size < 1:
        raise ConfigError(
            f"--threshold {args.threshold} must lie above 0 and at most be 1, --batch-size {args.batch_size} at least 1"
        )
    return args


class PartialFile:
    """Lines that are done, in a file beside the output; the first says what they were made with.

    Args:
        output: the file that will be made.
        settings: what decides the lines' content.

    Raises:
        DataError: if the output is there already, or the partial work was done with other settings.
    """

    def __init__(self, output: Path, settings: dict, overwrite: bool = False) -> None:
        self.output, self.path = output, output.with_name(f"{output.name}.partial")
        if overwrite:
            self.path.unlink(missing_ok=True)
        elif output.exists():
            raise DataError(f"{output} is there already; pass --overwrite to make it anew")
        self.settings = json.dumps({"settings": settings}, sort_keys=True)
        self.done = self._resume()

    def _resume(self) -> int:
        """Cut off a line that was not finished; return how many are done."""
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.is_file() else []
        if lines and lines[0].decode("utf-8", "replace") != self.settings:
            raise DataError(f"{self.path} was begun with other settings or captions; finish it with those, or pass --overwrite")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = b"".join(line + b"\n" for line in lines or [self.settings.encode()])
        self.path.write_bytes(content)
        return max(len(lines) - 1, 0)

    def add(self, rows: Sequence[dict]) -> None:
        """Append finished rows."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.done += len(rows)

    def finish(self) -> Counter:
        """Write the output from the rows with boxes, whole or not at all; return how many rows of each kind there were."""
        from openvocab.io import atomic_write

        kinds: Counter = Counter()
        with open(self.path, encoding="utf-8") as source, atomic_write(self.output, "w") as target:
            next(source)
            for line in source:
                kind = json.loads(line).get(LEFT_OUT, "boxes")
                kinds[kind] += 1
                if kind == "boxes":
                    target.write(line)
        self.path.unlink()
        return kinds


def row_of(number: int, picture: CaptionedPicture, found: Detections) -> dict:
    """Return the line of a caption: ODVG's, with scores."""
    regions = [
        {
            "bbox": [round(float(v), 2) for v in found.boxes[i]],
            "phrase": found.names[i],
            "tokens_positive": [list(span) for span in found.spans(i)],
            "score": round(float(found.scores[i]), 4),
        }
        for i in range(len(found))
    ]
    if not regions:
        return {LEFT_OUT: "no box", "filename": picture.file_name}
    height, width = found.size
    grounding = {"caption": picture.caption, "regions": regions}
    return {"filename": picture.file_name, "height": height, "width": width, "id": number, "grounding": grounding}


def annotate(predictor: Predictor, pictures: Sequence[CaptionedPicture], images: Path, first: int, backend: str) -> list[dict]:
    """Return the lines of a few captions, the first of which has number `first`."""
    from openvocab.media import to_rgb
    from openvocab.prompting import noun_phrases

    rows: dict[int, dict] = {}
    asked: list[tuple[int, np.ndarray, Caption]] = []
    for i, picture in enumerate(pictures):
        try:
            asked.append((i, to_rgb(images / picture.file_name), noun_phrases(picture.caption, backend=backend)))
        except InputError as error:
            rows[i] = {LEFT_OUT: "bad picture", "filename": picture.file_name, "why": f"{error}"}
        except PromptError:
            rows[i] = {LEFT_OUT: "no noun phrase", "filename": picture.file_name}
    for i, found in _detect(predictor, asked):
        rows[i] = (
            {LEFT_OUT: "too long", "filename": pictures[i].file_name} if found is None else row_of(first + i, pictures[i], found)
        )
    return [rows[i] for i in range(len(pictures))]


def _detect(predictor: Predictor, asked: Sequence[tuple[int, np.ndarray, Caption]]) -> Iterator[tuple[int, Detections | None]]:
    """Ask all together; if one caption is over the token budget, one by one, with None for that."""
    if not asked:
        return
    try:
        found = predictor.batch([p for _, p, _ in asked], [c for *_, c in asked], batch_size=len(asked))
        yield from zip((i for i, *_ in asked), found, strict=True)
    except PromptError:
        if len(asked) == 1:
            yield asked[0][0], None
            return
        for one in asked:
            yield from _detect(predictor, [one])


def run(predictor: Predictor, args: argparse.Namespace, pictures: Sequence[CaptionedPicture], partial: PartialFile) -> Counter:
    """Do what is left, and write the output; return how many captions of each kind there were."""
    from tqdm import tqdm

    with tqdm(total=len(pictures), initial=partial.done, unit="caption", disable=None, leave=False) as bar:
        while partial.done < len(pictures):
            part = pictures[partial.done : partial.done + args.batch_size]
            rows = annotate(predictor, part, args.images, partial.done, args.phrases)
            for row in rows:
                if row.get(LEFT_OUT) == "bad picture":
                    tqdm.write(f"warning: {row['filename']} is left out: {' '.join(row['why'].split())}", file=sys.stderr)
            partial.add(rows)
            bar.update(len(rows))
    return partial.finish()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse(argv)
    from openvocab import load_predictor
    from openvocab.data.captions import read_captions
    from openvocab.io import sha256_file

    pictures = read_captions(args.captions, args.images)
    weights = None if args.weights is None else sha256_file(args.weights)
    settings = {"captions": len(pictures), "teacher": args.teacher, "weights": weights, "threshold": args.threshold}
    content = "\n".join(f"{p.file_name}\t{p.caption}" for p in pictures)
    partial = PartialFile(args.output, {**settings, "phrases": args.phrases, "of": _digest(content)}, args.overwrite)
    predictor = load_predictor(args.teacher, device=args.device, weights=args.weights, score_threshold=args.threshold)
    kinds = run(predictor, args, pictures, partial)
    left = "".join(f", {n} {kind}" for kind, n in sorted(kinds.items()) if kind != "boxes")
    print(f"{kinds['boxes']} of {len(pictures)} captions have boxes{left}; they are in {args.output}")
    return 0 if kinds["boxes"] else 1


def _digest(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


if __name__ == "__main__":
    cli_main(lambda: main(sys.argv[1:]))
