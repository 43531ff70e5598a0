"""Make a concept pool from captions: the nouns that occur often, for RegionCLIP's pretraining (arXiv 2112.09106, section 3.2).

    python tools/build_concepts.py captions_train2017.json coco_nouns.txt
    python tools/build_concepts.py 'cc3m/*.tar' --min-count 200 cc3m_nouns.txt
    python tools/build_concepts.py captions.txt --form both --extra coco nouns.txt
    python tools/build_concepts.py coco_mini_train --min-count 5 nouns.txt

SOURCE is a COCO Captions json, a text file with a caption a line, webdataset shards (.tar), tsv shards (the picture files), or a
registered data set. A shard's damaged samples are skipped and counted. OUT has a line 'name,count' each, most frequent first:
`tools/dump_text_embeddings.py --concepts OUT` embeds it, `concepts=ConceptPool.load(OUT)` trains with it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from openvocab.errors import ConfigError, DataError, ToolParser, cli_main  # noqa: E402


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        ConfigError: for unknown options, and counts out of range.
    """
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", metavar="SOURCE")
    add("output", type=Path, metavar="OUT")
    add("--min-count", type=int, default=100, metavar="N", help="fewest occurrences; default 100, as in the paper")
    add("--form", choices=("head", "compound", "both"), default="head", help="'cake', 'birthday cake', or both; default head")
    add("--keep-plurals", action="store_true", help="count 'dogs' apart from 'dog'")
    add("--backend", default="rules", help="of the phrase chunker; default rules")
    add("--extra", metavar="NAME|FILE", help="a vocabulary whose names are in the pool anyway, such as coco")
    args = parser.parse_args(argv)
    if args.min_count < 1:
        raise ConfigError(f"--min-count {args.min_count} must be at least 1")
    return args


def captions_in(source: str) -> Iterator[str]:
    """Yield all captions of a file, of shards, or of a registered data set.

    Raises:
        DataError: for what is none of these, or cannot be read.
    """
    from openvocab.data.coco_json import read_coco
    from regionclip.pretraining import TarShards, TsvShards, captions_of

    path, kind = Path(source).expanduser(), Path(source).suffix.casefold()
    if kind == ".json":
        rows = read_coco(path)["annotations"]
        yield from (r["caption"] for r in rows if isinstance(r, dict) and isinstance(r.get("caption"), str))
    elif kind in (".tar", ".tsv"):
        yield from _of_shards(TarShards(source) if kind == ".tar" else TsvShards(source))
    elif kind == ".txt":
        yield from _lines(path)
    else:
        yield from captions_of(source)


def _of_shards(shards: object) -> Iterator[str]:
    damaged = []
    for number in range(len(shards.names)):
        for place, _ in shards.scan(number, None):
            try:
                yield from shards.read(place)["captions"]
            except DataError as error:
                damaged.append(error)
    if damaged:
        print(f"warning: {len(damaged)} samples are left out; the first: {damaged[0]}", file=sys.stderr)


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the caption file {path} cannot be read: {error}") from error


def extra_names(text: str | None) -> Iterable[str]:
    """Names of a built-in vocabulary or of a file."""
    from openvocab import Vocabulary

    if text is None:
        return ()
    path = Path(text).expanduser()
    return (Vocabulary.from_file(path) if path.is_file() else Vocabulary.builtin(text)).names


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse(argv)
    from regionclip.pretraining import build_pool

    pool = build_pool(
        captions_in(args.source),
        min_count=args.min_count,
        form=args.form,
        fold_plurals=not args.keep_plurals,
        backend=args.backend,
        extra=list(extra_names(args.extra)),
    )
    pool.save(args.output)
    first = ", ".join(f"{n} {c}" for n, c in list(zip(pool.names, pool.counts, strict=True))[:5])
    print(f"{args.output}: {len(pool.names)} concepts ({first}{', ...' if len(pool.names) > 5 else ''})")
    return 0


if __name__ == "__main__":
    cli_main(lambda: main(sys.argv[1:]))
