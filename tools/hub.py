"""A trained hub of data sets: what it knows, how good it is on each, what other contexts do, and one more data set.

    python tools/hub.py list --weights hub.pth
    python tools/hub.py test --config-file detection_hub/hubs/small_sets --weights hub.pth --json results.json
    python tools/hub.py swap --config-file detection_hub/hubs/small_sets --weights hub.pth --datasets bccd,bccd_loose
    python tools/hub.py add --config-file detection_hub/hubs/small_sets --weights hub.pth --hub mine.yaml --datasets night \\
        --output with_night.pth
    python tools/hub.py tune --config-file detection_hub/hubs/small_sets --weights hub.pth --hub mine.yaml --datasets night \\
        --output output/night --steps 200

`list` shows the data sets in the weights. `test` evaluates on each, `swap` detects in each data set's pictures as if they were
another's. `add` writes weights that also know a data set by its names and flags: nothing is trained, and with `classes: [owl, bat]`
in the yaml no picture is needed. `tune` trains a data set's own vector and bias and nothing else, and writes
--output/model_final.pth, which knows the old data sets as they were and the new one. Then
load_predictor(CONFIG, weights=FILE, dataset="night") needs no data set on the disk.

Data sets are those of the config (`dataloader.train.datasets`), or of a yaml file: a list of the fields of `HubDataset`, such as
    - {name: night, train: night_train, test: night_val, flags: [loose], aliases: {owl_s: owl}}
A split is a registered name; `--register FILE` registers folders with a COCO json first (see openvocab.data.register_from_yaml).
`key=value` overrides, behind the options, change the config. Exit codes: 0; 2, with one sentence, if the input cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from openvocab.errors import ConfigError, DataError, ToolParser, WeightsError, cli_main

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from detection_hub.data import Hub
    from detection_hub.modeling import DetectionHub

METRICS = ("AP", "AP50", "AP75")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        ConfigError: for unknown or missing options, and values out of range.
    """
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="list|test|swap|add|tune")
    listing = commands.add_parser("list", help="the data sets in a weight file")
    listing.add_argument("--weights", required=True, metavar="FILE", help="of a trained hub")
    kinds = {"test": "evaluate", "swap": "the context-swap matrix", "add": "weights that know a data set by its names and flags"}
    for name, text in {**kinds, "tune": "train one data set's vector and bias"}.items():
        add = commands.add_parser(name, help=text, allow_abbrev=False).add_argument
        add("--config-file", required=True, metavar="FILE", help="a path or name of a config with a hub")
        add("--weights", required=True, metavar="FILE", help="of the trained hub")
        add("--hub", type=Path, metavar="FILE", help="a yaml list of data sets; default: those of the config")
        add("--datasets", metavar="A,B", help="only these of them; tune: the one to tune")
        add("--register", type=Path, metavar="FILE", help="a yaml list of folders to register")
        add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
        add("opts", nargs="*", metavar="key=value", help="config overrides")
        if name == "add":
            add("--output", required=True, type=Path, metavar="FILE.pth", help="weights with the data sets added")
        elif name == "tune":
            add("--output", required=True, metavar="DIR", help="of the run")
            add("--steps", type=int, default=200, metavar="N")
            add("--lr", type=float, default=0.02)
            add("--batch-size", type=int, default=4, metavar="N", help="pictures of a step")
            add("--resume", action="store_true", help="go on from the newest checkpoint in --output")
        else:
            add("--json", type=Path, metavar="FILE", help="also write all numbers")
            add("--batch-size", type=int, default=1, metavar="N", help="pictures that go through the network together")
    args = parser.parse_args(argv)
    for option in ("steps", "batch_size"):
        if getattr(args, option, 1) < 1:
            raise ConfigError(f"--{option.replace('_', '-')} {getattr(args, option)} must be at least 1")
    return args


def read_hub(path: Path) -> list[dict]:
    """Read a yaml list of data sets.

    Raises:
        DataError: for another content.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"the list of data sets {path} cannot be read: {error}") from error
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise DataError(f"{path} must be a list of data sets, such as '- {{name: night, train: night_train, test: night_val}}'")
    return content


def nodes_of(args: argparse.Namespace, cfg: DictConfig) -> dict[str, DictConfig]:
    """Return the data sets as config nodes, by name: those of --hub or else of the config, and of these --datasets.

    Raises:
        ConfigError: if there are none, or one is unknown.
    """
    from detectron2.config import LazyCall

    from detection_hub.data import Hub, HubDataset
    from openvocab.config import instantiate

    if args.hub is not None:
        rows = read_hub(args.hub)
        Hub(rows)  # checks them
        nodes = {row["name"]: LazyCall(HubDataset)(**row) for row in rows}
    else:
        found = cfg.get("dataloader", {}).get("train", {}).get("datasets")
        if not found:
            raise ConfigError(f"{args.config_file} has no dataloader.train.datasets; say which with --hub FILE")
        nodes = {node.name: node for node in found}
    wanted = [n.strip() for n in args.datasets.split(",")] if args.datasets else list(nodes)
    Hub([instantiate(node) for node in nodes.values()]).only(*wanted)
    return {name: nodes[name] for name in wanted}


def hub_of(args: argparse.Namespace) -> tuple[DetectionHub, Hub]:
    """Load the model, and the data sets to look at.

    Raises:
        ConfigError, WeightsError, DataError: for what cannot be used.
    """
    from detection_hub.data import Hub
    from openvocab import load_predictor
    from openvocab.config import instantiate, load_config

    nodes = nodes_of(args, load_config(args.config_file, args.opts))
    model = load_predictor(args.config_file, weights=args.weights, device=args.device, overrides=args.opts).model
    if not hasattr(model, "hub"):
        raise ConfigError(f"{args.config_file} builds a {type(model).__name__}, not a detector with a hub")
    return model, Hub([instantiate(node) for node in nodes.values()])


def listed(args: argparse.Namespace) -> None:
    """Print the data sets that a weight file knows.

    Raises:
        WeightsError: for weights without a hub.
    """
    from tabulate import tabulate

    from detection_hub.modeling import read_metadata
    from openvocab.io import load_weights

    tensors = load_weights(args.weights).tensors
    key = next((k for k in tensors if k.endswith("hub.metadata")), None)
    if key is None:
        raise WeightsError(f"{args.weights} has no hub: there is no entry 'hub.metadata' in it")
    found = read_metadata(tensors[key])
    rows = []
    for row in found["datasets"]:
        names = row["vocabulary"]["names"]
        shown = ", ".join(names[:4]) + (f", ... ({len(names)})" if len(names) > 4 else "")
        rows.append([row["name"], shown, ", ".join(row["flags"]), row["label_policy"], row["evaluator"]])
    print(f"arm '{found.get('arm')}', text encoder {found.get('text_encoder')}")
    print(tabulate(rows, headers=["data set", "names", "flags", "labels", "evaluator"]))


def tested(args: argparse.Namespace) -> dict:
    """Evaluate on every data set and print a table."""
    from detection_hub.evaluation import hub_test
    from openvocab.evaluation import print_results

    results = hub_test(*hub_of(args), batch_size=args.batch_size)
    print(print_results({name: row for name, row in results.items() if name != "hub"}))
    print("hub " + ", ".join(f"{k} {v:.1f}" for k, v in results["hub"].items()))
    return results


def swapped(args: argparse.Namespace) -> dict:
    """Print the context-swap matrix, a row a pair."""
    from tabulate import tabulate

    from detection_hub.evaluation import swap_test

    results = swap_test(*hub_of(args), batch_size=args.batch_size)
    rows = [
        [one, other, int(cell["names"]), *(f"{cell[m + '_own']:.1f} -> {cell[m]:.1f}" for m in METRICS)]
        for one, row in results.items()
        if one != "hub"
        for other, cell in row.items()
    ]
    print(tabulate(rows, headers=["pictures of", "as if of", "shared names", *(f"{m}, own -> other" for m in METRICS)]))
    print("mean of own less other: " + ", ".join(f"{k} {v:.1f}" for k, v in results["hub"].items()))
    return results


def added(args: argparse.Namespace) -> None:
    """Write weights that know more data sets, by names and flags alone; one that is known keeps its vector.

    Raises:
        ConfigError: for an --output that is no .pth.
    """
    import torch

    from openvocab.io import atomic_write

    if args.output.suffix != ".pth":
        raise ConfigError(f"--output {args.output} must end in .pth")
    model, hub = hub_of(args)
    for row in hub:
        model.add_dataset(row.context())
    with atomic_write(args.output) as file:
        torch.save({"model": {name: value.cpu() for name, value in model.state_dict().items()}}, file)
    print(f"wrote {args.output}: use it with dataset={' or '.join(map(repr, hub.names))}")


def tuned(args: argparse.Namespace) -> None:
    """Tune a data set.

    Raises:
        ConfigError: if --datasets does not name one.
    """
    from detection_hub.tune import tuning_config
    from openvocab.config import load_config
    from openvocab.engine import train

    cfg = load_config(args.config_file, args.opts)
    nodes = nodes_of(args, cfg)
    if len(nodes) != 1:
        raise ConfigError(f"tune takes one data set: name it with --datasets, one of {', '.join(nodes)}")
    (node,) = nodes.values()
    sizes = {"steps": args.steps, "lr": args.lr, "total_batch_size": args.batch_size}
    cfg = tuning_config(cfg, dataset=node, weights=args.weights, output_dir=args.output, **sizes)
    cfg.train.device = args.device
    train(cfg, resume=args.resume)
    print(f"wrote {Path(args.output) / 'model_final.pth'}: use it with dataset='{node.name}'")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse(argv)
    if getattr(args, "register", None) is not None:
        from openvocab.data import register_from_yaml

        register_from_yaml(args.register)
    results = {"list": listed, "test": tested, "swap": swapped, "add": added, "tune": tuned}[args.command](args)
    if getattr(args, "json", None) is not None:
        from openvocab.io import atomic_write

        with atomic_write(args.json, "w") as file:
            json.dump(json.loads(json.dumps(results), parse_constant=lambda _: None), file, indent=1)  # null where undefined
    return 0


if __name__ == "__main__":
    cli_main(lambda: main(sys.argv[1:]))
