"""Train, resume or evaluate a config.

    python tools/train_net.py --config-file configs/glipv2/default.py train.max_iter=100
    python tools/train_net.py --config-file configs/glipv2/default.py --resume
    python tools/train_net.py --config-file configs/glipv2/default.py --eval-only train.init_checkpoint=model.pth
    python tools/train_net.py --config-file configs/glipv2/adapt/full.py --register sets.yaml dataloader.dataset=my

Flags are detectron2's; `key=value` overrides may stand anywhere, `+key=value` adds a key. Exit codes: 0 done, 2 something is wrong
with the input (one sentence on standard error), 130 stopped by a signal after saving a checkpoint.
"""

from __future__ import annotations

import argparse
import os
import sys

from openvocab.errors import cli_main


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(2, f"error: {message}; see --help\n")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="a .py or .yaml config, or a shipped one such as glipv2/default")
    add("--register", metavar="FILE", help="a yaml list of folders to register first (see tools/prepare_dataset.py)")
    add("--resume", action="store_true", help="go on from the newest readable checkpoint in train.output_dir")
    add("--eval-only", action="store_true", help="evaluate train.init_checkpoint (with --resume: the newest checkpoint)")
    add("--strict", action="store_true", help="stop at the first bad picture or annotation, instead of skipping a few")
    add("--num-gpus", type=int, default=1, metavar="N", help="GPUs of this machine; 0 or 1 run in one process (default: 1)")
    add("--cpu-procs", type=int, default=0, metavar="N", help="instead of GPUs, N processes on the CPU")
    add("--num-machines", type=int, default=1, metavar="N", help="machines of the run")
    add("--machine-rank", type=int, default=0, metavar="R", help="which of them this is")
    add("--dist-url", default="auto", metavar="URL", help="tcp://ADDRESS:PORT of machine 0; auto: a free port here")
    add("opts", nargs="*", metavar="key=value", help="config overrides; unknown keys are refused, +key=value adds one")
    args = parser.parse_intermixed_args(argv)
    if args.num_gpus < 0 or args.cpu_procs < 0:
        parser.error("--num-gpus and --cpu-procs must be 0 or more")
    return args


def register(path: str | None) -> None:
    """Register the data sets of a yaml file; a second time in one process changes nothing."""
    if path is not None:
        from openvocab.data import register_from_yaml

        register_from_yaml(path)


def run(args: argparse.Namespace) -> None:
    """Do it, in one process of the run."""
    from openvocab.config import load_config
    from openvocab.engine import evaluate_config, train

    register(args.register)
    cfg = load_config(args.config_file, args.opts)
    if args.cpu_procs or args.num_gpus == 0:
        cfg.train.device = "cpu"
    (evaluate_config if args.eval_only else train)(cfg, resume=args.resume)


def main() -> int:
    """Start as many processes as are asked for."""
    args = parse()
    if args.strict:
        os.environ["OPENVOCAB_STRICT"] = "1"  # openvocab.data.budget reads it, in every process of the run
    from openvocab.config import load_config
    from openvocab.engine import Interrupted, launch

    register(args.register)
    load_config(args.config_file, args.opts)  # mistakes show here, before processes are started
    names = ("num_gpus", "cpu_procs", "num_machines", "machine_rank", "dist_url")
    try:
        launch(run, (args,), **{n: getattr(args, n) for n in names})
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    cli_main(main)
