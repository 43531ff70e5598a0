"""Turn a training checkpoint into the weight file that ships: only what no package provides, in 16 bits, with its metadata.

    python tools/pack_weights.py output/glipv2_default/model_final.pth openvocab/weights/default.safetensors
    python tools/pack_weights.py output/regionclip_mini/model_final.pth openvocab/weights/regionclip_mini.safetensors \
        --config regionclip/pretrain/regionclip_mini --without text_encoder. backbone. region_features.class_vectors
"""

from __future__ import annotations

import argparse
import json
import sys

from openvocab.errors import cli_main


def _error(ours: object, exact: object) -> float:
    """Largest difference, relative to the largest value."""
    return float((ours - exact).abs().max() / exact.abs().max().clamp(min=1e-6))


def main(argv: list[str]) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("target")
    parser.add_argument("--config", default="glipv2/default", help="gives the model, its text encoder and its names")
    parser.add_argument(
        "--without", nargs="+", default=["text_encoder."], metavar="PREFIX", help="of tensors that a package provides"
    )
    parser.add_argument("--card", default="docs/model_card.md", help="the page that lists the data")
    args = parser.parse_args(argv)
    import torch

    from openvocab.config import instantiate, load_config
    from openvocab.io import load_into, load_weights, save_weights, sha256_file
    from openvocab.vocabulary import Vocabulary

    cfg = load_config(args.config)
    if "prior" in cfg.model:
        cfg.model.prior = None
    model = instantiate(cfg.model)
    print(load_into(model, load_weights(args.checkpoint).tensors))
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith(tuple(args.without))}
    half = {k: v.to(torch.float16) if v.is_floating_point() else v for k, v in kept.items()}
    worst = max(_error(v.float(), kept[k].float()) for k, v in half.items())
    metadata = {
        "config": args.config,
        "text_encoder": model.text_encoder.identity,
        "tokenizer": model.text_encoder.tokenizer_id,
        "vocabulary": json.dumps(Vocabulary.builtin("coco").to_dict()),
        "license": f"Apache-2.0; trained on data listed in {args.card}",
    }
    save_weights(args.target, half, metadata)
    print(f"{args.target}: {len(half)} tensors, largest relative rounding {worst:.1e}, sha256 {sha256_file(args.target)}")
    return 0


if __name__ == "__main__":
    cli_main(lambda: main(sys.argv[1:]))
