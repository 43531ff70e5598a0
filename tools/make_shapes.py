#!/usr/bin/env python
"""Write data sets of coloured shapes: pictures with boxes, masks, captions, referring expressions and questions; clips.

    python tools/make_shapes.py images out/shapes --num 500 --split train --taxonomy color_shape --held-out pairs
    python tools/make_shapes.py images out/shapes --num 100 --split val --taxonomy color_shape
    python tools/make_shapes.py conventions out/conventions --num 200 --sets A B C
    python tools/make_shapes.py clips out/clips.npz --num 64
    python tools/make_shapes.py sheet out/look.png

The same seed gives the same files on every machine with the same numpy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from openvocab.errors import cli_main  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """Return the command line's description."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = result.add_subparsers(dest="command", required=True)
    images = commands.add_parser("images", help="pictures with COCO json and all language files")
    images.add_argument("--taxonomy", default="color_shape", help="shape, color, color_shape, size_shape or coarse")
    images.add_argument("--rule", default="visible", help="visible, tight, loose[:1.3], center_half, square, ...")
    images.add_argument("--held-out", choices=("classes", "pairs"), help="what the split 'train' lacks")
    images.add_argument("--needs-sentence", action="store_true", help="doubles that only a relation tells apart")
    images.add_argument("--max-overlap", type=float, default=0.15, help="share of a shape that others may hide")
    conventions = commands.add_parser("conventions", help="sets that disagree about names and boxes")
    conventions.add_argument("--sets", nargs="+", default=["A", "B", "C"], help="A B C, or full upper")
    clips = commands.add_parser("clips", help="clips with actions, one npz file")
    clips.add_argument("--frames", type=int, default=16, help="frames of a clip")
    sheet = commands.add_parser("sheet", help="a picture of pictures, to look at")
    for command, size in ((images, 128), (clips, 64), (sheet, 128)):
        command.add_argument("--size", type=int, default=size, help=f"side in pixels (default {size})")
    for command, what in ((images, "folder"), (conventions, "folder"), (clips, "npz file"), (sheet, "png file")):
        command.add_argument("output", type=Path, help=f"the {what} to write")
        command.add_argument("--num", type=int, default=24 if command is sheet else 100, help="how many")
        command.add_argument("--seed", type=int, default=0, help="another seed gives another world")
        command.add_argument("--split", default="train", help="splits of a seed share nothing")
    return result


def make_images(args: argparse.Namespace) -> None:
    """Write pictures and json files."""
    from openvocab.testing import ShapesWorld, write_coco

    world = ShapesWorld(image_size=args.size, max_overlap=args.max_overlap, needs_sentence=args.needs_sentence)
    options = {"taxonomy": args.taxonomy, "rule": args.rule, "split": args.split, "held_out": args.held_out}
    written = write_coco(args.output, args.num, args.seed, world=world, **options)
    print(f"wrote {args.num} pictures and {', '.join(p.name for p in written.files.values())} to {args.output}")


def make_conventions(args: argparse.Namespace) -> None:
    """Write one folder a set."""
    from openvocab.testing import write_convention

    for name in args.sets:
        write_convention(args.output / name, args.num, args.seed, convention=name, split=args.split)
        print(f"wrote {args.num} pictures and instances_{args.split}.json to {args.output / name}")


def make_clips(args: argparse.Namespace) -> None:
    """Write one npz file."""
    from openvocab.testing import ClipWorld, write_clips

    world = ClipWorld(seed=args.seed, split=args.split, frames=args.frames, image_size=args.size)
    write_clips(args.output, world.clips(args.num))
    print(f"wrote {args.num} clips to {args.output}")


def make_sheet(args: argparse.Namespace) -> None:
    """Write one picture."""
    from openvocab.testing import ShapesWorld, Tile, caption_of, contact_sheet, questions_of

    tiles = []
    for scene in ShapesWorld(seed=args.seed, split=args.split, image_size=args.size).scenes(args.num):
        lines = [caption_of(scene).text, *(f"{q.text} {q.answer}" for q in questions_of(scene, 2))]
        tiles.append(Tile(scene.image, [o.visible_box for o in scene.objects], lines))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(tiles, lines=6).save(args.output)
    print(f"wrote {args.output}")


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "images": make_images,
    "conventions": make_conventions,
    "clips": make_clips,
    "sheet": make_sheet,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    _COMMANDS[args.command](args)
    return 0


if __name__ == "__main__":
    cli_main(main)
