"""Embed class names with a text encoder and write the vectors to a file.

    python tools/dump_text_embeddings.py --vocabulary coco_ovd_65 --pretrained RN50.pt --allow-pickle coco_65.safetensors
    python tools/dump_text_embeddings.py --vocabulary names.txt --model RN50x4 --pretrained clip_rn50x4.safetensors names.npz
    python tools/dump_text_embeddings.py --concepts coco_nouns_4764.txt --pretrained RN50.pt --allow-pickle --plain nouns.pth
    python tools/dump_text_embeddings.py --text "cat. dog." --encoder bert --recipe own two.safetensors

Recipes: "regionclip", the mean of 81 raw vectors, as in RegionCLIP's *_emb.pth files; "openai", 80 vectors normalised, averaged
and normalised again, as in CLIP's ImageNet notebook; "own", the names' own prompts and templates. The two first give other
scores: never mix them within one classifier. The file knows its names, encoder and recipe; openvocab.text.load_text_embeddings
reads it back for a model's set_class_embeddings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from openvocab.errors import ToolParser, cli_main  # noqa: E402

if TYPE_CHECKING:
    from openvocab import Vocabulary


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        ConfigError: for unknown or contradicting options.
    """
    from openvocab.text.command import add_encoder_options, check_encoder_options

    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = parser.add_mutually_exclusive_group(required=True)
    words.add_argument("--vocabulary", metavar="NAME|FILE", help="a built-in list such as coco or lvis, or a text or json file")
    words.add_argument("--text", help="names, each ended by a full stop: 'cat. remote control.'")
    words.add_argument("--concepts", type=Path, metavar="FILE", help="a line a name, up to the first comma ('dog,1234')")
    add_encoder_options(parser)
    parser.add_argument("--plain", action="store_true", help="a .pth with the bare tensor, as microsoft/RegionCLIP reads it")
    parser.add_argument("output", type=Path, metavar="OUT", help=".safetensors, .npz or .pth")
    args = parser.parse_args(argv)
    check_encoder_options(args)
    return args


def words_of(args: argparse.Namespace) -> Vocabulary:
    """Return the names to embed."""
    from openvocab import Vocabulary
    from openvocab.text.command import read_concepts

    if args.text is not None:
        return Vocabulary.from_caption(args.text)
    if args.concepts is not None:
        return read_concepts(args.concepts)
    path = Path(args.vocabulary).expanduser()
    return Vocabulary.from_file(path) if path.is_file() else Vocabulary.builtin(args.vocabulary)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse(argv)
    from openvocab.text import embed_names, save_text_embeddings
    from openvocab.text.command import build_encoder, identity_of

    words, encoder = words_of(args), build_encoder(args)
    vectors, used = embed_names(encoder, words, args.recipe)
    identity = identity_of(encoder, args.recipe)
    written = save_text_embeddings(args.output, vectors, vocabulary=used, encoder=identity, recipe=args.recipe, plain=args.plain)
    print(
        f"{args.output}: {len(used)} names x {vectors.shape[1]}, recipe {args.recipe} ({len(used.templates)} frames), "
        f"encoder {encoder.identity}, fingerprint {written.fingerprint}"
    )
    return 0


if __name__ == "__main__":
    cli_main(lambda: main(sys.argv[1:]))
