"""Evaluate models on data sets and print one table: AP, AP50 (percent) and pictures a second.

    python tools/benchmark.py --models default --datasets raccoon_val,bccd_val --json out.json --markdown out.md
    python tools/benchmark.py --models default,glipv2/my_config.py --datasets coco_2017_val,coco_2017_val:ovd --limit 500
    python tools/benchmark.py --models default --datasets lvis_v1_minival,lvis_v1_minival:fixed,odinw13

Models are names of the zoo or configs. Data sets are registered names; a protocol may follow a colon: coco (the rule), ovd,
ovd-novel, ovd-base, lvis (the rule for LVIS sets), fixed. odinw13 and odinw35 are all their sets below
$DETECTRON2_DATASETS/odinw. Scores are not cut. Pictures a second count the network and its resize, not reading, metrics or the
first batch, in which the text is encoded. Rows are written as they are done. Exit code: 0; 2, with one sentence, if a name is
unknown or a file cannot be used.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openvocab.errors import ConfigError, ToolParser, cli_main, nearest

if TYPE_CHECKING:
    from detectron2.evaluation import DatasetEvaluator

    from openvocab import Predictor

PROTOCOLS = ("coco", "ovd", "ovd-novel", "ovd-base", "lvis", "fixed")
ODINW = {"odinw13": 13, "odinw35": 35}
LIMITS = {"lvis": 300, "fixed": sys.maxsize}  # most detections a picture, where the predictor asks in several prompts
COLUMNS = ("model", "data set", "protocol", "pictures", "AP", "AP50", "images/s")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        ConfigError: for unknown options, and values out of range.
    """
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--models", required=True, metavar="A,B", help="names of the zoo, such as default, or paths or names of configs")
    add("--datasets", required=True, metavar="X,Y", help="registered data sets, NAME or NAME:PROTOCOL")
    add("--register", type=Path, metavar="FILE", help="a yaml list of folders with COCO jsons to register first")
    add("--json", type=Path, metavar="FILE", help="also write all numbers as json")
    add("--markdown", type=Path, metavar="FILE", help="also write the table as Markdown")
    add("--limit", type=int, metavar="N", help="only the first N pictures of each data set: for a quick look, no figure to report")
    add("--batch-size", type=int, default=1, metavar="N", help="pictures that go through the network together; default 1")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    args = parser.parse_args(argv)
    args.models, args.datasets = _list(args.models, "--models"), _list(args.datasets, "--datasets")
    for option in ("limit", "batch_size"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise ConfigError(f"--{option.replace('_', '-')} {value} must be at least 1")
    return args


def _list(text: str, option: str) -> list[str]:
    names = [n.strip() for n in text.split(",") if n.strip()]
    if not names:
        raise ConfigError(f"{option} names nothing")
    return list(dict.fromkeys(names))


@dataclass
class Task:
    """A data set with its protocol, checked.

    Attributes:
        name: as the user wrote it, without the protocol.
        protocol: one of `PROTOCOLS`, or "odinw".
        datasets: {set of the benchmark: registered name}; one entry for a plain data set.
        evaluator: made once, used for every model.
    """

    name: str
    protocol: str
    datasets: dict[str, str]
    evaluator: DatasetEvaluator = field(repr=False)

    def records(self, limit: int | None) -> list[dict]:
        """Read what is to be looked at."""
        from openvocab.data import get_records

        return [record for name in self.datasets.values() for record in get_records(name)[:limit]]

    def loader(self, limit: int | None, batch_size: int) -> Any:
        """Pictures at their own size, RGB, with the names to look for; resizing is the predictor's."""
        from openvocab.data import DatasetMapper, build_test_loader

        words = None if self.protocol == "odinw" else self.evaluator.vocabulary
        mapper = DatasetMapper(is_train=False, image_format="RGB", vocabulary=words)
        return build_test_loader(dataset=self.records(limit), mapper=mapper, batch_size=batch_size)


def task_of(text: str) -> Task:
    """Check one entry of --datasets and make its evaluator.

    Raises:
        ConfigError: for an unknown protocol.
        DataError, EvaluationError: for an unknown data set, or one that the protocol cannot be used on.
    """
    from openvocab.evaluation import ODinWEvaluator, find_odinw

    name, _, protocol = text.partition(":")
    if protocol and protocol not in PROTOCOLS:
        raise ConfigError(f"there is no protocol '{protocol}'.{nearest(protocol, PROTOCOLS)} Known: {', '.join(PROTOCOLS)}")
    if name in ODINW:
        if protocol:
            raise ConfigError(f"'{text}': {name} has one protocol only; leave out ':{protocol}'")
        found = find_odinw(ODINW[name])
        return Task(name, "odinw", found, ODinWEvaluator(suite=ODINW[name], datasets=found))
    protocol = protocol or _usual(name)
    return Task(name, protocol, {name: name}, _evaluator(name, protocol))


def _usual(name: str) -> str:
    from detectron2.data import MetadataCatalog

    from openvocab.data import get_vocabulary

    get_vocabulary(name)
    return "lvis" if MetadataCatalog.get(name).get("evaluator_type") == "lvis" else "coco"


def _evaluator(name: str, protocol: str) -> DatasetEvaluator:
    from openvocab.evaluation import COCODetectionEvaluator, COCOOVDEvaluator, LVISEvaluator, LVISFixedEvaluator

    makers: dict[str, Callable[[], DatasetEvaluator]] = {
        "coco": lambda: COCODetectionEvaluator(name),
        "ovd": lambda: COCOOVDEvaluator(name),
        "ovd-novel": lambda: COCOOVDEvaluator(name, protocol="novel"),
        "ovd-base": lambda: COCOOVDEvaluator(name, protocol="base"),
        "lvis": lambda: LVISEvaluator(name),
        "fixed": lambda: LVISFixedEvaluator(name),
    }
    return makers[protocol]()


def check_models(names: list[str]) -> None:
    """See that every model is known, before hours are spent on the first.

    Raises:
        ConfigError: for an unknown model, with the nearest names, or one that finds no boxes.
    """
    from openvocab.config import ZOO, find_config, list_configs

    for name in names:
        name = name.removeprefix("zoo://")
        if name in ZOO:
            if ZOO[name].config is None:
                raise ConfigError(f"'{name}' names regions but finds none, so there is no AP; choose a detector")
            continue
        try:
            find_config(name)
        except ConfigError as error:
            known = [*ZOO, *list_configs()]
            raise ConfigError(f"there is no model '{name}'.{nearest(name, known)} Models: {', '.join(ZOO)}, or a config") from error


class Timed:
    """A predictor as a model for `evaluate`, with a clock.

    Attributes:
        pictures, seconds: so far, without the first batch (unless there is one only).
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self._batches: list[tuple[int, float]] = []

    def __call__(self, inputs: list[dict]) -> list[dict]:
        """Detect in each input's whole picture the names of its vocabulary."""
        pictures = [x["image"].permute(1, 2, 0).numpy() for x in inputs]
        words = [x["vocabulary"] for x in inputs]
        start = time.perf_counter()
        found = self.predictor.batch(pictures, words, batch_size=len(inputs))
        self._batches.append((len(inputs), time.perf_counter() - start))
        return [{"instances": d.to_instances()} for d in found]

    def speed(self) -> tuple[int, float]:
        """Return the number of pictures, and pictures a second."""
        timed = self._batches[1:] or self._batches
        seconds = sum(s for _, s in timed)
        return sum(n for n, _ in self._batches), sum(n for n, _ in timed) / seconds if seconds else float("nan")


def measure(name: str, predictor: Predictor, task: Task, args: argparse.Namespace) -> dict:
    """Evaluate a model on one data set; return its row."""
    from openvocab.evaluation import evaluate

    usual, predictor.max_detections = predictor.max_detections, LIMITS.get(task.protocol, predictor.max_detections)
    timed = Timed(predictor)
    try:
        results = evaluate(timed, task.loader(args.limit, args.batch_size), task.evaluator, name=f"{name} on {task.name}")
    finally:
        predictor.max_detections = usual
    pictures, speed = timed.speed()
    ap, ap50 = headline_of(results)
    row = {"model": name, "dataset": task.name, "protocol": task.protocol, "pictures": pictures, "AP": ap, "AP50": ap50}
    return {**row, "images_per_second": speed, "results": results}


def headline_of(results: Mapping[str, Mapping[str, float]]) -> tuple[float, float]:
    """AP and AP50 of boxes, or their means over the sets of ODinW."""
    for kind in ("bbox", "bbox_fixed"):
        if kind in results:
            return results[kind]["AP"], results[kind]["AP50"]
    return results["odinw"]["AP_mean"], results["odinw"]["AP50_mean"]


def table_of(rows: list[dict], style: str = "simple") -> str:
    """The rows as a table: "simple" for the screen, or "github" (Markdown)."""
    from tabulate import tabulate

    keys = ("model", "dataset", "protocol", "pictures", "AP", "AP50", "images_per_second")
    lines = [[*(row[k] for k in keys[:4]), *(f"{row[k]:.1f}" for k in keys[4:6]), f"{row[keys[6]]:.3g}"] for row in rows]
    align = ("left",) * 3 + ("right",) * 4
    return tabulate(lines, headers=COLUMNS, tablefmt=style, disable_numparse=True, colalign=align if lines else None)


def notes_of(rows: list[dict]) -> list[str]:
    """What the protocols have beside AP and AP50, a line a row."""
    from openvocab.evaluation.keys import protocol_numbers

    notes = []
    for row in rows:
        for kind, values in row["results"].items():
            if beside := protocol_numbers(values):
                notes.append(f"{row['model']} on {row['dataset']}, {kind}: {', '.join(f'{k} {v:.1f}' for k, v in beside.items())}")
    return notes


def about(args: argparse.Namespace, command: list[str]) -> dict:
    """Say how and where it was measured."""
    import torch

    from openvocab.predictor import choose_device

    device = choose_device(args.device)
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    machine = f"{device.type} ({what}), {torch.get_num_threads()} threads, torch {torch.__version__}"
    return {
        "command": f"python tools/benchmark.py {shlex.join(command)}",
        "machine": machine,
        "limit": args.limit,
        "batch_size": args.batch_size,
    }


def write(rows: list[dict], how: dict, args: argparse.Namespace) -> None:
    """Write the json (null where a number is undefined) and the Markdown that were asked for."""
    from openvocab.io import atomic_write

    if args.json is not None:
        with atomic_write(args.json, "w") as file:
            json.dump(_plain({**how, "rows": rows}), file, indent=1)
    if args.markdown is not None:
        part = f" Only the first {args.limit} pictures of each set: no figures to report." if args.limit else ""
        notes = "\n".join(f"- {n}" for n in notes_of(rows))
        with atomic_write(args.markdown, "w") as file:
            file.write(f"{table_of(rows, 'github')}\n\n{notes}{chr(10) * 2 if notes else ''}")
            file.write(f"AP and AP50 in percent.{part} Measured on {how['machine']}, batch size {how['batch_size']}:\n")
            file.write(f"`{how['command']}`\n")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    if args.register is not None:
        from openvocab.data import register_from_yaml

        register_from_yaml(args.register)
    check_models(args.models)
    tasks = [task_of(text) for text in args.datasets]
    from openvocab import load_predictor

    how, rows = about(args, argv), []
    for name in args.models:
        predictor = load_predictor(name, device=args.device, score_threshold=0.0)
        for task in tasks:
            rows.append(measure(name, predictor, task, args))
            write(rows, how, args)
    print("\n".join([table_of(rows), *notes_of(rows)]), flush=True)
    return 0


if __name__ == "__main__":
    cli_main(main)
