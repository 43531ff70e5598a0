"""Turn other people's weight files into ours.

    python tools/convert_weights.py --from regionclip regionclip_pretrained-cc_rn50.pth regionclip_rn50.safetensors
    python tools/convert_weights.py --from regionclip-rpn rpn_lvis_866.pth rpn.safetensors
    python tools/convert_weights.py --from regionclip regionclip_pretrained-cc_rn50.pth --rpn rpn_coco_48.pth coco_start.safetensors
    python tools/convert_weights.py --from clip --variant RN50 --allow-pickle RN50.pt clip_rn50.safetensors
    python tools/convert_weights.py --from glip glip_tiny_model_o365_goldg_cc_sbu.pth glip_tiny.safetensors
    python tools/convert_weights.py --from sparse-rcnn --num-queries 300 r50_100pro_3x_model.pth sparse_rcnn_r50.safetensors
    python tools/convert_weights.py --from resnet resnet50-11ad3fa6.pth r50_backbone.safetensors
    python tools/convert_weights.py --from swin swin_tiny_patch4_window7_224.pth swin_t.safetensors
    python tools/convert_weights.py --from as-is --allow-pickle theirs.pkl theirs.safetensors

Prints what became of each part. OUT is .safetensors or .pth and is written whole or not at all; it says where it comes from.
Files that can run code while they load (.pkl, TorchScript archives such as OpenAI's RN50.pt) need --allow-pickle.
Exit code: 0; 2, with one sentence, if IN cannot be converted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from openvocab.errors import ConfigError, ToolParser, cli_main  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

# name -> module and function that rename a state dict, and the options it takes
_KINDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "glip": ("glipv2.convert", "from_official", ()),
    "swin": ("glipv2.convert", "from_swin", ()),
    "regionclip": ("regionclip.convert", "from_official", ("classes", "variant")),
    "regionclip-rpn": ("regionclip.convert", "from_rpn", ()),
    "clip": ("regionclip.convert", "from_clip", ("variant",)),
    "clip-text": ("regionclip.convert", "text_tower", ()),
    "sparse-rcnn": ("detection_hub.convert", "from_sparse_rcnn", ("num_queries", "keep_classifier")),
    "resnet": ("detection_hub.convert", "from_resnet", ()),
}
AS_IS = "as-is"
RPN, WITH_RPN = "regionclip-rpn", ("regionclip", "clip", AS_IS)
OURS = "offline_rpn."
SUFFIXES = (".safetensors", ".pth")
SHOWN = 10


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        ConfigError: for options that are unknown or do not go together, and an OUT that cannot be.
    """
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, metavar="IN", help="a weight file")
    parser.add_argument("output", type=Path, metavar="OUT", help=".safetensors, or .pth")
    parser.add_argument("--from", dest="kind", required=True, choices=[*_KINDS, AS_IS], help="whose names IN has")
    parser.add_argument("--variant", help="what CLIP's image tower must be, such as RN50 or RN50x4; else any")
    parser.add_argument("--classes", choices=["test", "train"], help="which class embeddings of a fine-tuned RegionCLIP")
    parser.add_argument(
        "--num-queries", type=int, metavar="N", help="queries of our model, for --from sparse-rcnn; else the file's"
    )
    more = {"action": "store_true", "default": None}
    parser.add_argument("--keep-classifier", **more, help="of fixed names, for --from sparse-rcnn and a model with hub=None")
    parser.add_argument("--rpn", type=Path, metavar="FILE", help="put the RPN of this file into OUT, in place of the one in IN")
    parser.add_argument("--allow-pickle", action="store_true", help="read files that may run code while they load; only if trusted")
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the report as json")
    args = parser.parse_args(argv)
    takes = _KINDS[args.kind][2] if args.kind in _KINDS else ()
    for option in ("variant", "classes", "num_queries", "keep_classifier"):
        if getattr(args, option) is not None and option not in takes:
            raise ConfigError(f"--{option.replace('_', '-')} does not go with --from {args.kind}")
    if args.rpn is not None and args.kind not in WITH_RPN:
        raise ConfigError(f"--rpn goes with --from {', '.join(WITH_RPN)}, not with {args.kind}")
    if args.output.suffix not in SUFFIXES:
        raise ConfigError(f"OUT must end in {' or '.join(SUFFIXES)}, not '{args.output.name}'")
    if args.output.resolve() == args.input.resolve():
        raise ConfigError(f"OUT is IN ({args.input}); name another file")
    return args


def converter(kind: str) -> Callable[..., tuple[dict[str, Tensor], Any]]:
    """Return the function that renames a state dict of this kind.

    Raises:
        ConfigError: if its plugin is not installed here.
    """
    module, function, _ = _KINDS[kind]
    try:
        return getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise ConfigError(f"--from {kind} needs '{module}', which this installation lacks") from error
    except AttributeError as error:
        raise ConfigError(f"--from {kind} needs '{module}.{function}', which this installation lacks") from error


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write .safetensors, or a .pth with the tensors under "model" and the metadata beside it; whole or not at all."""
    import torch

    from openvocab.io import atomic_write, save_weights

    if path.suffix == ".safetensors":
        save_weights(path, tensors, metadata)
        return
    with atomic_write(path) as file:
        torch.save({**metadata, "model": {k: v.contiguous().clone() for k, v in tensors.items()}}, file)


def show(report: Any, file: Any) -> None:
    """Print a report: a line of counts, a line a part, and names that nobody knows."""
    parts = getattr(report, "parts", {})
    print(str(report).partition("; ")[0] if parts else report, file=file)  # the parts follow, a line each
    for part, text in parts.items():
        print(f"  {part}: {text}", file=file)
    for what in ("missing", "unexpected"):
        names = getattr(report, what, [])
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            print(f"  {what}: {', '.join(names[:SHOWN])}{more}", file=file)


def with_rpn(tensors: Mapping[str, Tensor], path: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """Return the tensors with the RPN of another file: an official rpn_*.pth, a Mask R-CNN, or one of ours.

    Raises:
        WeightsError: if there is none in it.
    """
    from openvocab.io import load_weights

    other = load_weights(path, allow_pickle=allow_pickle).tensors
    found = {k: v for k, v in other.items() if k.startswith(OURS)}
    if not found:
        found, report = converter(RPN)(other)
        print(f"  from {path.name}: {report.parts['offline_rpn']}")
    return {**{k: v for k, v in tensors.items() if not k.startswith(OURS)}, **found}


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse(argv)
    rename = converter(args.kind) if args.kind != AS_IS else None
    from openvocab.io import atomic_write, load_weights, sha256_file

    content = load_weights(args.input, allow_pickle=args.allow_pickle)
    tensors, metadata = content.tensors, {"converted_from": args.kind, "source": args.input.name}
    metadata["source_sha256"] = sha256_file(args.input)
    if rename is None:
        metadata = {**content.metadata, **metadata}
        print(f"{len(tensors)} tensors under their own names")
    else:
        options = {k: getattr(args, k) for k in _KINDS[args.kind][2] if getattr(args, k) is not None}
        tensors, report = rename(content.tensors, **options)
        show(report, sys.stdout)
        metadata |= {k: getattr(report, k) for k in ("variant", "tokenizer") if getattr(report, k, "")}
        if args.report is not None:
            with atomic_write(args.report, "w") as file:
                json.dump(vars(report), file, indent=1, default=str)
    if args.rpn is not None:
        tensors = with_rpn(tensors, args.rpn, args.allow_pickle)
        metadata |= {"rpn_source": args.rpn.name, "rpn_sha256": sha256_file(args.rpn)}
    write(args.output, tensors, metadata)
    print(f"{args.output}: {len(tensors)} tensors, sha256 {sha256_file(args.output)}")
    return 0


if __name__ == "__main__":
    cli_main(lambda: main(sys.argv[1:]))
