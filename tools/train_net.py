"""Train or evaluate a config, with detectron2's flags.

    python tools/train_net.py --config-file glipv2/default
    python tools/train_net.py --config-file glipv2/default --eval-only train.init_checkpoint=PATH
    python tools/train_net.py --config-file glipv2/default --resume train.max_iter=3000
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from openvocab.errors import ConfigError, cli_main


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise ConfigError(f"{message} (see --help)")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE|NAME", help="a config file, or a shipped one by name")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in train.output_dir")
    parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint on dataloader.test")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs a machine")
    parser.add_argument("--cpu-procs", type=int, default=0, help="processes on the CPU instead (gloo)")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0)
    parser.add_argument("--dist-url", default="auto", help="tcp://HOST:PORT of the first machine")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="changes to the config; +key=value adds a key")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """What each process does."""
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger
    from omegaconf import OmegaConf

    from openvocab.config import load_config
    from openvocab.engine import build_model, do_test, train
    from openvocab.io import atomic_write

    cfg = load_config(args.config_file, args.opts)
    output = Path(cfg.train.output_dir)
    for name in ("openvocab", "detectron2"):
        setup_logger(str(output), distributed_rank=comm.get_rank(), name=name)
    logging.captureWarnings(True)
    if comm.is_main_process():
        with atomic_write(output / "config.yaml", "w") as file:
            file.write(_as_yaml(cfg, OmegaConf))
    if not args.eval_only:
        train(cfg, resume=args.resume)
        return
    results = do_test(cfg, build_model(cfg))
    if comm.is_main_process():
        with atomic_write(output / "results.json", "w") as file:
            json.dump(results, file, indent=1)


def _as_yaml(cfg: object, omega: type) -> str:
    """Write the config down, targets as dotted names."""
    import yaml

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else str(value)

    return yaml.safe_dump(plain(omega.to_container(cfg)), sort_keys=False)


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    args = parse(argv)
    from openvocab.config import load_config
    from openvocab.engine import launch

    load_config(args.config_file, args.opts)  # fail with a sentence before processes start
    launch(
        run,
        processes=args.cpu_procs or args.num_gpus,
        machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
    return 0


if __name__ == "__main__":
    cli_main(lambda: main(sys.argv[1:]))
