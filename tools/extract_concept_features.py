"""Text features of concepts, as microsoft/RegionCLIP's tool of the same name writes them.

    python tools/extract_concept_features.py --input folder/ --output out/ --pretrained regionclip_pretrained-cc_rn50.pth
    python tools/extract_concept_features.py --input concepts.txt --output out/ --pretrained RN50.pt --allow-pickle --format npz

Reads concepts.txt (a line a name) and writes concept_embeds.pth: the bare tensor (names, D) float32, the mean over 81 prompts,
not normalised; always with two axes (the official tool writes (D,) for one name, on which its classifier breaks). With --format
npz or safetensors the file also knows its names and encoder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from openvocab.errors import InputError, ToolParser, cli_main  # noqa: E402

LIST, RESULT = "concepts.txt", "concept_embeds"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        ConfigError: for unknown or contradicting options.
        InputError: if there is no concept list.
    """
    from openvocab.text.command import add_encoder_options, check_encoder_options

    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, metavar="DIR|FILE", help=f"a folder with {LIST}, or the list itself")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the result goes")
    parser.add_argument("--format", choices=["pth", "npz", "safetensors"], default="pth", help="default: pth, the official one")
    add_encoder_options(parser)
    args = parser.parse_args(argv)
    check_encoder_options(args)
    if args.input.is_dir():
        args.input = args.input / LIST
    if not args.input.is_file():
        raise InputError(f"there is no concept list {args.input}: write one, a name a line")
    return args


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse(argv)
    from openvocab.text import embed_names, save_text_embeddings
    from openvocab.text.command import build_encoder, identity_of, read_concepts

    words, encoder = read_concepts(args.input, counted=False), build_encoder(args)
    vectors, used = embed_names(encoder, words, args.recipe)
    target = args.output / f"{RESULT}.{args.format}"
    identity, plain = identity_of(encoder, args.recipe), args.format == "pth"
    save_text_embeddings(target, vectors, vocabulary=used, encoder=identity, recipe=args.recipe, plain=plain)
    print(f"{target}: {len(used)} concepts x {vectors.shape[1]}, {len(used.templates)} prompts each")
    return 0


if __name__ == "__main__":
    cli_main(lambda: main(sys.argv[1:]))
