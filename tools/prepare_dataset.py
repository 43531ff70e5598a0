#!/usr/bin/env python
"""Look a data set over, or turn Pascal VOC or YOLO annotations into COCO json.

    python tools/prepare_dataset.py verify my/train.json --images my/images --write-yaml sets.yaml --name my_train
    python tools/prepare_dataset.py from-voc my/xml --images my/images --output my/train.json
    python tools/prepare_dataset.py from-yolo my/labels --images my/images --names my/data.yaml --output my/train.json

The lines of sets.yaml register the sets: openvocab.data.register_from_yaml("sets.yaml").
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from openvocab.errors import DataError, cli_main  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """Return the command line's description."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = result.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "verify", help="check a COCO json against its pictures and print counts; exit code 1 on problems"
    )
    check.add_argument("annotations", type=Path, help="the COCO json")
    check.add_argument("--decode", action="store_true", help="read every picture in full, not only its header")
    check.add_argument(
        "--write-yaml", type=Path, metavar="FILE", help="add the set's line to FILE if there is no problem"
    )
    check.add_argument("--name", help="the set's name in that line")
    for command, what in (("from-voc", "folder of xml files"), ("from-yolo", "folder of txt files")):
        convert = commands.add_parser(command, help=f"turn a {what} into a COCO json, then check it")
        convert.add_argument("annotations", type=Path, help=what)
        convert.add_argument("--output", type=Path, required=True, help="the COCO json to write")
        needed = command == "from-yolo"
        convert.add_argument(
            "--names", type=Path, required=needed, help="class names: a text file, one a line, or a data.yaml"
        )
        convert.add_argument("--decode", action="store_true", help="read every picture in full, not only its header")
        if not needed:
            convert.add_argument(
                "--zero-based", action="store_true", help="coordinates count from 0, not from 1 as in VOC"
            )
    for command in commands.choices.values():
        command.add_argument("--images", type=Path, required=True, help="the folder of pictures")
    return result


def convert(args: argparse.Namespace) -> Path:
    """Write the COCO json; return its path."""
    from openvocab.data.convert import read_names, voc_to_coco, yolo_to_coco
    from openvocab.io import atomic_write

    if not args.annotations.is_dir():
        raise DataError(f"there is no folder {args.annotations}")
    names = read_names(args.names) if args.names else None
    if args.command == "from-voc":
        content = voc_to_coco(args.annotations, args.images, names=names, one_based=not args.zero_based)
    else:
        content = yolo_to_coco(args.annotations, args.images, names=names)
    with atomic_write(args.output, "w") as file:
        json.dump(content, file)
    print(f"wrote {args.output}")
    return args.output


def write_yaml(path: Path, name: str, annotations: Path, images: Path) -> None:
    """Add one line to a list of data sets.

    Raises:
        DataError: if the name is already in it.
    """
    import yaml

    from openvocab.io import atomic_write

    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    known = yaml.safe_load(old) or {}
    if not isinstance(known, dict) or name in known:
        raise DataError(f"{path} already has a set '{name}', or is no list of sets")
    fields = {"root": "/", "annotations": str(annotations.resolve()), "images": str(images.resolve())}
    line = yaml.safe_dump({name: fields}, default_flow_style=None, sort_keys=False, width=10_000)
    with atomic_write(path, "w") as file:
        file.write(old + ("" if not old or old.endswith("\n") else "\n") + line)
    print(f"added '{name}' to {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if all is well, 1 if the set has problems."""
    from openvocab.data.verify import verify_coco

    args = parser().parse_args(argv)
    wanted = getattr(args, "write_yaml", None)
    if wanted is not None and not args.name:
        raise DataError("--write-yaml needs --name, the set's name")
    annotations = args.annotations if args.command == "verify" else convert(args)
    report = verify_coco(annotations, args.images, decode=args.decode)
    print("\n".join(report.lines()))
    if not report.ok:
        return 1
    if wanted is not None:
        write_yaml(wanted, args.name, annotations, args.images)
    return 0


if __name__ == "__main__":
    cli_main(main)
