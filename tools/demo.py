"""Find things in pictures, folders and videos by their names.

    python tools/demo.py --samples
    python tools/demo.py --input photo.jpg --text "cat. remote control."
    python tools/demo.py --input folder/ --vocabulary coco --output found/ --json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from openvocab.errors import ConfigError, InputError, cli_main


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise ConfigError(f"{message} (see --help)")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", metavar="FILE|DIR|VIDEO", help="pictures, folders or videos")
    source.add_argument("--samples", action="store_true", help="sample photos, each with a prompt of its own")
    words = parser.add_mutually_exclusive_group()
    words.add_argument("--text", help="names, each ended by a full stop: 'cat. remote control.'")
    words.add_argument("--vocabulary", metavar="NAME|FILE", help="a built-in list such as coco or lvis, or a text or json file")
    words.add_argument("--caption", help="a sentence, whose noun phrases are looked for")
    parser.add_argument("--model", default="default", help="a name of the zoo, or a config")
    parser.add_argument("--weights", help="a weight file instead of the model's own")
    parser.add_argument("--output", type=Path, default=Path("output/demo"), help="folder for annotated pictures")
    parser.add_argument("--json", nargs="?", const="detections.json", metavar="FILE", help="also write all detections as json")
    parser.add_argument("--threshold", type=float, default=0.3, help="least score")
    parser.add_argument("--top", type=int, default=0, help="most detections a picture; 0: no limit")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    if not 0 <= args.threshold <= 1:
        raise ConfigError(f"--threshold {args.threshold} must lie between 0 and 1")
    return args


def words_of(args: argparse.Namespace) -> object:
    """Return what to look for, from --text, --vocabulary or --caption; None if none is given."""
    from openvocab import Vocabulary
    from openvocab.prompting import noun_phrases

    if args.text is not None:
        return Vocabulary.from_caption(args.text)
    if args.caption is not None:
        return noun_phrases(args.caption)
    if args.vocabulary is not None:
        path = Path(args.vocabulary)
        return Vocabulary.from_file(path) if path.is_file() else Vocabulary.builtin(args.vocabulary)
    return None


def show(name: str, found: object) -> None:
    """Print one picture's table."""
    print(f"\n{name}\n{found.table()}", flush=True)


def run_picture(predictor: object, path: Path, words: object, args: argparse.Namespace) -> dict:
    """Detect, print and draw one picture."""
    found = predictor(path, words)
    found = found.select(slice(0, args.top)) if args.top else found
    show(path.name, found)
    args.output.mkdir(parents=True, exist_ok=True)
    target = args.output / f"{path.stem}.jpg"
    if target.resolve() == path.resolve():
        target = args.output / f"{path.stem}_detected.jpg"
    found.draw().save(target, quality=92)
    return {"file": str(path), "drawn": str(target), **found.to_dict()}


def run_video(predictor: object, path: Path, words: object, args: argparse.Namespace) -> dict:
    """Detect in every picture of a video and write an annotated one."""
    import numpy as np
    from tqdm import tqdm

    from openvocab.media import VideoWriter, read_video

    rate, count, frames = read_video(path)
    args.output.mkdir(parents=True, exist_ok=True)
    target, rows = args.output / f"{path.stem}_detected.mp4", []
    with VideoWriter(target, rate) as writer:
        for frame in tqdm(frames, total=count or None, desc=path.name, unit="frame"):
            found = predictor(frame, words)
            found = found.select(slice(0, args.top)) if args.top else found
            rows.append(found.to_dict())
            writer.write(np.asarray(found.draw()))
    if not rows:
        raise InputError(f"{path} holds no pictures")
    print(f"\n{path.name}: {len(rows)} pictures, {sum(len(r['detections']) for r in rows)} detections")
    return {"file": str(path), "drawn": str(target), "frames": rows}


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    args = parse(argv)
    from tqdm import tqdm

    from openvocab import load_predictor
    from openvocab.media import find_media, is_video, sample_pictures

    words = words_of(args)
    if args.samples:
        jobs = [(p, words or prompt) for p, prompt in sample_pictures()]
    else:
        if words is None:
            raise ConfigError("say what to look for: --text 'cat. dog.', --vocabulary coco, or --caption 'a sentence'")
        jobs = [(p, words) for source in args.input for p in find_media(source)]
    predictor = load_predictor(args.model, device=args.device, weights=args.weights, score_threshold=args.threshold)
    results, failed = [], []
    for path, text in tqdm(jobs, desc="pictures", unit="file", disable=len(jobs) < 2):
        try:
            results.append((run_video if is_video(path) else run_picture)(predictor, path, text, args))
        except InputError as error:
            if len(jobs) == 1:
                raise
            failed.append(path)
            print(f"warning: {error}", file=sys.stderr)
    if args.json:
        write_json(Path(args.json) if Path(args.json).is_absolute() else args.output / args.json, results)
    print(f"\n{len(results)} of {len(jobs)} files done; annotated copies are in {args.output}/")
    return 1 if failed and not results else 0


def write_json(path: Path, results: list[dict]) -> None:
    """Write all detections, whole or not at all."""
    from openvocab.io import atomic_write

    with atomic_write(path, "w") as file:
        json.dump(results, file, indent=1)


if __name__ == "__main__":
    cli_main(lambda: main(sys.argv[1:]))

