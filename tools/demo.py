"""Find things in pictures, folders and videos by their names.

    python tools/demo.py --samples
    python tools/demo.py --input photo.jpg --text "cat. remote control."
    python tools/demo.py --input folder/ clip.mp4 --vocabulary coco --output found/ --json
    python tools/demo.py --input photo.jpg --caption "a man with a red umbrella"
    python tools/demo.py --input photo.jpg --model M --weights W --question "what color is the umbrella?"
    python tools/demo.py --input photo.jpg --model M --weights W --caption
    python tools/demo.py --input photo.jpg --model M --weights W --masks --text "cat. remote control."
    python tools/demo.py --input folder/ --model my_regionclip.py --weights rn50.safetensors --embeddings lvis.npz
    python tools/demo.py --input photo.jpg --model my_hub.py --weights hub.pth --dataset aquarium

Prints a table a picture and writes annotated copies to the output folder, with masks where the model gives them (the json then has
them as COCO run lengths), or with an answer or a caption and the boxes of its words; inputs are never overwritten. M and W: a
model with heads for that, and weights that were trained for it; others, as the default's, say what they were trained for.
Of several files, bad ones are counted and left out. Exit code: 0; 1 if all of several files were bad; 2, with one sentence,
if the command itself cannot be done.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openvocab.errors import ConfigError, InputError, ToolParser, VocabularyError, cli_main

if TYPE_CHECKING:
    from openvocab import Detections, Vocabulary
    from openvocab.linked_text import LinkedText
    from openvocab.prompting import Caption
    from openvocab.text import TextEmbeddings

MAX_ROWS = 20
WRITE = object()  # --caption without a sentence


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        ConfigError: for unknown or contradicting options, and values out of range.
    """
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", metavar="FILE|DIR|VIDEO", help="pictures, folders or videos")
    source.add_argument("--samples", action="store_true", help="sample photos of scikit-image, each with a prompt of its own")
    words = parser.add_mutually_exclusive_group()
    words.add_argument("--text", help="names, each ended by a full stop: 'cat. remote control.'")
    words.add_argument("--vocabulary", metavar="NAME|FILE", help="a built-in list such as coco or lvis, or a text or json file")
    words.add_argument(
        "--caption", nargs="?", const=WRITE, metavar="SENTENCE", help="a sentence whose noun phrases are found; alone: write one"
    )
    words.add_argument("--question", metavar="SENTENCE", help="a question about each picture")
    parser.add_argument("--masks", action="store_true", help="refuse weights that give none (those that do are asked anyway)")
    parser.add_argument("--model", default="default", help="a name of the zoo ('default', 'bridge'), or a config")
    parser.add_argument("--weights", metavar="FILE", help="a weight file instead of the model's own")
    parser.add_argument(
        "--embeddings", metavar="FILE", help="text embeddings for a model without text encoder (tools/dump_text_embeddings.py)"
    )
    parser.add_argument("--dataset", metavar="NAME", help="look as a data set that the model knows does: its names and its boxes")
    parser.add_argument("--output", type=Path, default=Path("output/demo"), metavar="DIR", help="default: output/demo")
    parser.add_argument(
        "--json", nargs="?", const="", metavar="FILE", help="also write all detections; default: detections.json in --output"
    )
    parser.add_argument("--threshold", type=float, help="least score, 0 to 1; default: the model's (0.3, bridge 0)")
    parser.add_argument(
        "--overlap",
        type=float,
        default=0.6,
        help="IoU above which only the better of two boxes is shown, whatever their names; 1 shows all; default 0.6",
    )
    parser.add_argument("--top", type=int, help="most detections a picture")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    args = parser.parse_args(argv)
    for option in ("threshold", "overlap"):
        value = getattr(args, option)
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"--{option} {value} must lie between 0 and 1")
    if args.top is not None and args.top < 1:
        raise ConfigError(f"--top {args.top} must be at least 1")
    if args.output.exists() and not args.output.is_dir():
        raise ConfigError(f"--output {args.output} is a file; name a folder")
    return args


def words_of(args: argparse.Namespace) -> Vocabulary | Caption | None:
    """Return what to look for, from --text, --vocabulary or --caption; None if none is given."""
    from openvocab import Vocabulary
    from openvocab.prompting import noun_phrases

    if args.text is not None:
        return Vocabulary.from_caption(args.text)
    if args.caption is not None and args.caption is not WRITE:
        return noun_phrases(args.caption)
    if args.vocabulary is not None:
        path = Path(args.vocabulary).expanduser()
        return Vocabulary.from_file(path) if path.is_file() else Vocabulary.builtin(args.vocabulary)
    return None


def table_of(args: argparse.Namespace, words: Vocabulary | Caption | None) -> TextEmbeddings | None:
    """Return the text embeddings of --embeddings; a file that knows no names is of those of --vocabulary.

    Raises:
        VocabularyError: if nobody knows the names.
    """
    if args.embeddings is None:
        return None
    from openvocab.text import load_text_embeddings

    table = load_text_embeddings(args.embeddings)
    if table.vocabulary is None and args.vocabulary is None:
        raise VocabularyError(f"{args.embeddings} does not know its names: say which with --vocabulary")
    return table if table.vocabulary is not None else load_text_embeddings(args.embeddings, vocabulary=words)


class Names:
    """Names for output files: never those of an input, and never one twice.

    Args:
        folder: where outputs go.
        inputs: files to leave alone.
    """

    def __init__(self, folder: Path, inputs: list[Path]) -> None:
        self.folder = folder
        self.taken = {p.resolve() for p in inputs}

    def new(self, stem: str, suffix: str) -> Path:
        """Return DIR/stem.suffix, with a number where that is taken."""
        number = 1
        path = self.folder / f"{stem}{suffix}"
        while path.resolve() in self.taken:
            number += 1
            path = self.folder / f"{stem}-{number}{suffix}"
        self.taken.add(path.resolve())
        return path


@dataclass
class Demo:
    """One run: a predictor, where its output goes, most detections a picture, most overlap of two of them, and what is asked: None
    (detections), `WRITE` (a caption) or a question.
    """

    predictor: Callable[..., Detections]
    names: Names
    top: int | None = None
    overlap: float = 1.0
    asked: Any = None

    def say(self, image: Any) -> LinkedText:
        """Answer or write; keep the links that are shown."""
        from dataclasses import replace

        said = self.predictor.caption(image) if self.asked is WRITE else self.predictor.answer(image, self.asked)
        return replace(said, detections=said.detections.distinct(self.overlap)[: self.top])

    def find(self, image: Any, words: Any) -> Detections:
        """Detect in one picture; keep what is shown."""
        return self.predictor(image, words).distinct(self.overlap)[: self.top]

    def picture(self, path: Path, words: Any) -> dict:
        """Detect, print and draw one picture; return its json entry.

        Raises:
            InputError: if it cannot be read.
        """
        from tqdm import tqdm

        found = self.find(path, words) if self.asked is None else self.say(path)
        table = found.table(MAX_ROWS) if self.asked is None else f"{found.whole}\n{found.detections.table(MAX_ROWS)}"
        target = self.names.new(path.stem, ".png" if path.suffix.lower() == ".png" else ".jpg")
        found.draw().save(target, **({"quality": 92} if target.suffix == ".jpg" else {}))
        tqdm.write(f"\n{path}  ->  {target}\n{table}")
        return {"file": str(path), "drawn": str(target), **found.to_dict()}

    def video(self, path: Path, words: Any) -> dict:
        """Detect in every frame; write an annotated mp4 and, beside it, a json with the frames. Return the json's content.

        Raises:
            InputError: if it cannot be read.
        """
        from tqdm import tqdm

        from openvocab.media import open_video, video_writer

        target, frames = self.names.new(path.stem, ".mp4"), []
        with open_video(path) as (info, pictures), video_writer(target, fps=info.fps) as write:
            bar = tqdm(pictures, total=info.frames or None, desc=path.name, unit="frame", leave=False, disable=None)
            for entry, drawn in self._frames(bar, words, info.fps):
                frames.append(entry)
                write(drawn)
        content = {"file": str(path), "drawn": str(target), "fps": info.fps, "frames": frames}
        beside = self.names.new(target.stem, ".json")
        write_json(beside, content)
        counts = [len(f["detections"]) for f in frames]
        tqdm.write(f"\n{path}  ->  {target}, {beside}\n{sum(counts)} detections in {len(frames)} frames")
        return content

    def _frames(self, pictures: Iterator, words: Any, fps: float) -> Iterator[tuple[dict, Any]]:
        import numpy as np

        for number, pixels in enumerate(pictures):
            found = self.find(pixels, words)
            yield {"frame": number, "seconds": round(number / fps, 4), **found.to_dict()}, np.asarray(found.draw())


def write_json(path: Path, content: object) -> None:
    """Write a json file, whole or not at all."""
    from openvocab.io import atomic_write

    with atomic_write(path, "w") as file:
        json.dump(content, file, indent=1)


def jobs_of(args: argparse.Namespace, words: Any) -> list[tuple[Path, Any]]:
    """List files with what to look for in each.

    Raises:
        InputError: if there is nothing to look at.
    """
    from openvocab.media import find_inputs, write_samples

    if args.samples:
        samples = write_samples(args.output / "samples")
        return [(path, words if words is not None else text) for path, text in samples.values()]
    return [(path, words) for path in find_inputs(args.input)]


def check_asked(predictor: Any, asked: Any, jobs: list[tuple[Path, Any]], masks: bool = False) -> None:
    """Refuse a question, or the wish for a caption or for masks, that cannot be met.

    Raises:
        ConfigError, WeightsError: for a model that says nothing, or weights that were not trained for it.
        InputError: for videos.
    """
    from openvocab.media import is_video
    from openvocab.speaking import check_trained

    if asked is None and not masks:
        return
    if not hasattr(predictor, "answer"):
        raise ConfigError("--model bridge only names regions; --question, --caption and --masks need a model with heads for them")
    if masks:
        check_trained(predictor.model, "masks")
    if asked is None:
        return
    check_trained(predictor.model, "caption" if asked is WRITE else "vqa")
    video = next((path for path, _ in jobs if is_video(path)), None)
    if video is not None:
        raise InputError(f"{video} is a video; --question, and --caption without a sentence, are about pictures")


def run(demo: Demo, jobs: list[tuple[Path, Any]]) -> tuple[list[dict], list[Path]]:
    """Do all jobs; return the results and the files that failed. A single file that fails raises instead.

    Raises:
        InputError: for a single bad file.
    """
    from tqdm import tqdm

    from openvocab.media import is_video

    results, failed = [], []
    for path, words in tqdm(jobs, desc="files", unit="file", disable=True if len(jobs) < 2 else None, leave=False):
        try:
            results.append((demo.video if is_video(path) else demo.picture)(path, words))
        except InputError as error:
            if len(jobs) == 1:
                raise
            failed.append(path)
            tqdm.write(f"warning: {' '.join(str(error).split())}", file=sys.stderr)
    return results, failed


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse(argv)
    from openvocab import Predictor, load_predictor

    words = words_of(args)
    jobs = jobs_of(args, words)
    options = {"device": args.device, "weights": args.weights, "score_threshold": args.threshold, "dataset": args.dataset}
    predictor = load_predictor(args.model, embeddings=table_of(args, words), **options)
    asked = WRITE if args.caption is WRITE else args.question
    check_asked(predictor, asked, jobs, args.masks)
    if not args.samples and words is None and predictor.vocabulary is None and asked is None:
        known = getattr(getattr(getattr(predictor, "model", None), "hub", None), "datasets", None)  # of a hub of data sets
        more = f"; or --dataset, one of {', '.join(known)}" if known else ""
        raise VocabularyError(f"say what to look for: --text 'cat. dog.', --vocabulary coco, or --caption 'a sentence'{more}")
    args.output.mkdir(parents=True, exist_ok=True)
    overlap = args.overlap if isinstance(predictor, Predictor) else 1.0  # the bridge gives one box several names
    demo = Demo(predictor, Names(args.output, [path for path, _ in jobs]), args.top, overlap, asked)
    if args.json is not None:
        target = Path(args.json) if args.json else args.output / "detections.json"
        if target.resolve() in demo.names.taken:
            raise ConfigError(f"--json {target} is one of the inputs; name another file")
        demo.names.taken.add(target.resolve())
    results, failed = run(demo, jobs)
    if args.json is not None:
        write_json(target, {"model": args.model, "threshold": predictor.score_threshold, "results": results})
    bad = f", {len(failed)} could not be read" if failed else ""
    print(f"\n{len(results)} of {len(jobs)} files done{bad}; annotated copies are in {args.output}", flush=True)
    return 0 if results else 1


if __name__ == "__main__":
    cli_main(lambda: main(sys.argv[1:]))
