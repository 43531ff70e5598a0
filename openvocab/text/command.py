"""Command-line options that choose a text encoder and a recipe, for tools that embed names."""

from __future__ import annotations

import argparse
from pathlib import Path

from openvocab.errors import ConfigError, VocabularyError
from openvocab.vocabulary import Vocabulary

from .base import TextEncoder, build_text_encoder
from .clip import require_quick_gelu
from .recipes import RECIPES

ENCODERS = ("clip", "bert", "hashed")


def add_encoder_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a text encoder and a recipe."""
    parser.add_argument("--encoder", choices=ENCODERS, default="clip", help="default: clip")
    parser.add_argument("--model", default="RN50", help="CLIP's model name for open_clip; default: RN50")
    parser.add_argument("--pretrained", metavar="FILE", help="CLIP's weights, or a pretrained RegionCLIP file; a BERT folder")
    parser.add_argument("--quick-gelu", choices=["auto", "yes", "no"], default="auto", help="CLIP's activation; default: found out")
    parser.add_argument("--allow-pickle", action="store_true", help="read FILE although it may run code; only if trusted")
    parser.add_argument("--recipe", choices=list(RECIPES), default="regionclip", help="default: regionclip")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")


def check_encoder_options(args: argparse.Namespace) -> None:
    """Refuse options that do not go together.

    Raises:
        ConfigError: naming them.
    """
    if args.encoder == "clip" and args.pretrained is None:
        raise ConfigError("--encoder clip needs --pretrained FILE: random weights give vectors that mean nothing")
    if args.encoder == "hashed" and args.pretrained is not None:
        raise ConfigError("--encoder hashed has no weights: leave --pretrained out")


def read_concepts(path: Path, *, counted: bool = True) -> Vocabulary:
    """Read a concept list, a line a name; a name that comes again is left out.

    Args:
        path: UTF-8 text.
        counted: what follows a line's first comma is a count ("dog,1234"), not part of the name.

    Raises:
        VocabularyError: if there is no such file, or no name in it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(f"the concept list {path} cannot be read: {error}") from error
    names = [(line.partition(",")[0] if counted else line).strip() for line in lines]
    if not any(names):
        raise VocabularyError(f"the concept list {path} holds no names")
    return Vocabulary.from_names(list(dict.fromkeys(n for n in names if n)))


def build_encoder(args: argparse.Namespace) -> TextEncoder:
    """Build the text encoder of the command line.

    Raises:
        TextEncoderError: for an unknown model, or a CLIP tower with plain GELU for a recipe of OpenAI's or RegionCLIP's.
        WeightsError: for weights that do not fit.
    """
    from openvocab.predictor import choose_device

    options: dict[str, object] = {}
    if args.encoder == "clip":
        quick = {"auto": None, "yes": True, "no": False}[args.quick_gelu]
        options = {"model": args.model, "pretrained": args.pretrained, "quick_gelu": quick, "allow_pickle": args.allow_pickle}
    elif args.encoder == "bert" and args.pretrained is not None:
        options = {"source": args.pretrained}
    encoder = build_text_encoder(args.encoder, **options).to(choose_device(args.device))
    if args.encoder == "clip" and args.recipe != "own":
        require_quick_gelu(encoder)
    return encoder


def identity_of(encoder: TextEncoder, recipe: str) -> str:
    """Say how vectors were made, for a file's metadata: the encoder's identity and how its vectors are averaged."""
    return f"{encoder.identity}:{RECIPES[recipe].mode}"
