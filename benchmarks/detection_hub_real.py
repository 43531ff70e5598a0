"""One hub of seven small real sets against a detector for each: at equal steps a set, at equal steps in all, with less data.

    python benchmarks/detection_hub_real.py --seeds 3 --steps 200 [--arms hub,single] [--json FILE]

The sets are those of configs/detection_hub/hubs/small_sets.py (bccd in two conventions, raccoon, aquarium, pothole, deeppcb,
coco_mini; of $OPENVOCAB_SHARED_DATA, or ../shared/data). --steps counts batches of each set. Results are kept for each arm and seed
in --work, and for each detector of the arms "single..."; a training that was stopped goes on from its checkpoint. Writes the page
docs/claims/detection_hub_real.md, its curves beside it (.png), and all numbers with --json.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

from openvocab.errors import ConfigError, cli_main, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/detection_hub/hubs/small_sets.py"
NAME = "detection_hub_real"
# cheaper than the config's; the same for all arms
SIZES = {"min_sizes": [160, 192, 224], "max_size": 320, "test_size": 192}
QUERIES, BATCH = 50, 2
KEPT_METRICS = ("AP", "AP50", "AP75")
logger = logging.getLogger("claims")

TITLE = "Detection Hub on seven small real sets: one detector, or seven"
SETTING = """
bccd in two conventions (its training pictures are halved: the first half as it is; in the second, platelets have no labels, the
other names are written out, and boxes are 1.3 times as large), raccoon, aquarium, pothole, deeppcb and coco_mini: the sets of
`configs/detection_hub/hubs/small_sets.py`, on the model `detection_hub_mini`, with pictures of short side {min_sizes} in training
and {test_size} in tests, {queries} queries and batches of {batch} pictures of one set. Tested on the validation splits, which have
30 to 328 pictures. {steps} steps a set: the hub has {total} in all. A seed chooses initial weights, order, and the quarters.
"""
ARMS = {
    "hub": "one detector for all sets, arm 'full'",
    "single": "a detector for each set, with as many steps of that set as the hub has, and as many in all as the hub",
    "single_triple": "a detector for each set, with three times as many steps of that set as the hub has: three times the compute",
    "single_long": "a detector for each set, each with as many steps as the hub has in all: seven times the compute",
    "hub_triple": "as hub, with three times the steps: as many in all as single_triple",
    "hub_quarter": "as hub, on a quarter of each set's training pictures",
    "single_quarter": "as single, on the same quarters",
    "single_triple_quarter": "as single_triple, on the same quarters",
    "single_long_quarter": "as single_long, on the same quarters",
}
SETS = ("bccd", "bccd_loose", "raccoon", "aquarium", "pothole", "deeppcb", "coco_mini")
METRICS = {
    "AP": "mean over the sets",
    "AP75": "the same at IoU 0.75",
    "worst AP": "the lowest AP of a set",
    **{f"{name} AP": "of this set alone" for name in SETS},
}
CLAIMS = [
    {"text": f"one hub is {word} seven detectors {when}{data}", "better": (f"hub{s}", "AP"), "worse": (f"{arm}{s}", "AP"), **bound}
    for s, data in (("", ""), ("_quarter", ", on a quarter of the pictures"))
    for arm, word, when, bound in (
        ("single", "better than", "at as many steps a set", {}),
        ("single_triple", "not below", "that have three times its steps", {"within": 0}),
        ("single_long", "better than", "that each have as many steps as it has in all", {}),
    )
]
_LATER = "one hub is better than seven detectors at three times as many steps a set"
CLAIMS.append({"text": _LATER, "better": ("hub_triple", "AP"), "worse": ("single_triple", "AP")})
HELPS = ("hub", list(METRICS))
FILES = [f"../{CONFIG}", "../configs/detection_hub/models/detection_hub_mini.py"]


def claims_tool() -> ModuleType:
    """tools/claims.py: it keeps, sums up and judges."""
    if str(ROOT / "tools") not in sys.path:
        sys.path.append(str(ROOT / "tools"))
    return import_module("claims")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        ConfigError: for an unknown arm, or values out of range.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--seeds", type=int, default=3, metavar="N", help="how many; default 3")
    add("--first-seed", type=int, default=0, metavar="N", help="seeds are N, N+1, ...; default 0")
    add("--steps", type=int, default=200, metavar="M", help="of each set; default 200")
    add("--arms", metavar="A,B", help=f"default all: {', '.join(ARMS)}")
    add("--json", type=Path, metavar="FILE", help="also write all numbers")
    add("--page", type=Path, default=ROOT / "docs" / "claims" / f"{NAME}.md", metavar="FILE")
    add("--work", type=Path, default=ROOT / "output" / NAME, metavar="DIR", help="kept between runs")
    add("--fresh", action="store_true", help="measure everything anew")
    args = parser.parse_args(argv)
    if min(args.seeds, args.steps) < 1:
        raise ConfigError(f"--seeds {args.seeds} and --steps {args.steps} must be at least 1")
    args.arms = list(ARMS) if args.arms is None else [n.strip() for n in args.arms.split(",") if n.strip()]
    for name in args.arms:
        if name not in ARMS:
            raise ConfigError(f"there is no arm '{name}'.{nearest(name, ARMS)} Known: {', '.join(ARMS)}")
    return args


# ---- what is trained -------------------------------------------------------------------------------------------------


def quarter_of(split: object, seed: int) -> DictConfig:
    """Return a quarter of a split (a name, or a config of a `DerivedSet`); those of seeds 0 to 3 share no picture."""
    from detectron2.config import LazyCall

    from detection_hub.data import DerivedSet

    if isinstance(split, str):
        return LazyCall(DerivedSet)(source=split, part=[seed % 4 + 1, 4])
    part, parts = split.get("part", [1, 1])
    quarter = split.copy()
    quarter.part = [part + parts * (seed % 4), 4 * parts]
    return quarter


def config_of(arm: str, names: tuple[str, ...], *, steps: int, seed: int, folder: Path) -> DictConfig:
    """Return what trains one detector of an arm on some of the sets.

    Args:
        steps: of each set, as the command has it.
        folder: of the run.
    """
    from detection_hub.lazy import hub_dataloader, hub_datasets
    from openvocab.config import load_config

    cfg = load_config(CONFIG)
    nodes = [node.copy() for node in cfg.dataloader.train.datasets if node.name in names]
    for node in nodes:
        node.update(SIZES)
        if arm.endswith("_quarter"):
            node.train = quarter_of(node.train, seed)
    options = {k: v for k, v in cfg.dataloader.train.items() if k not in ("_target_", "datasets")}
    cfg.model.hub.datasets = hub_datasets(nodes)
    cfg.model.num_queries = QUERIES
    cfg.dataloader = hub_dataloader(nodes, **{**options, "total_batch_size": BATCH, "num_workers": 0, "seed": seed})
    cfg.train.max_iter = steps * times_of(arm) * len(names)
    cfg.train.update(seed=seed, output_dir=str(folder), eval_period=0, best_metric="", log_period=50)
    cfg.train.checkpointer = {"period": 200, "max_to_keep": 1}
    return cfg


def detectors_of(arm: str) -> list[tuple[str, ...]]:
    """Return the sets of each detector of an arm."""
    return [SETS] if arm.startswith("hub") else [(name,) for name in SETS]


def times_of(arm: str) -> int:
    """Return how many times the command's steps of a set an arm's detectors have."""
    kind = arm.removesuffix("_quarter")
    return 3 if kind.endswith("_triple") else len(SETS) if kind == "single_long" else 1


def steps_of(arm: str, steps: int) -> int:
    """Return how many steps an arm's detectors have in all."""
    return steps * len(SETS) * times_of(arm)


def draw_curves(result: Mapping, target: Path) -> None:
    """Draw the mean AP of hubs and of separate detectors over the steps that they have in all, with sds.

    Args:
        result: of `claims.measure`, with "steps".
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.8), dpi=110)
    styles = {"hub": ("C0", "one hub"), "single": ("C1", "a detector for each set")}
    for kind, (color, label) in styles.items():
        for suffix, line, mark, data in (("", "-", "o", ""), ("_quarter", "--", "s", ", a quarter of the pictures")):
            names = [n for n in result["arms"] if n.startswith(kind) and n.endswith("_quarter") == bool(suffix)]
            found = [(steps_of(n, result["steps"]), result["arms"][n]["AP"]) for n in names]
            points = sorted((steps, ap["mean"], ap["sd"]) for steps, ap in found)
            if points:
                x, mean, sd = zip(*points, strict=True)
                style = {"color": color, "linestyle": line, "marker": mark, "markerfacecolor": "none" if suffix else color}
                axis.errorbar(x, mean, sd, capsize=3, label=label + data, **style)
    axis.set(xlabel="training steps in all", ylabel="AP, mean over the sets", xlim=(0, None), ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(target)
    plt.close(figure)


# ---- as tools/claims.py has it ----------------------------------------------------------------------------------------


def prepare(work: Path, quick: bool) -> Path:
    """See `tools/claims.py`."""
    return work


def trained(arm: str, names: tuple[str, ...], seed: int, steps: int, work: Path, digest: str) -> Mapping[str, Mapping[str, float]]:
    """Train a detector, or take what is kept: {set: {metric: percent}}."""
    from openvocab.engine import train

    claims = claims_tool()
    label = arm if len(names) > 1 else f"{arm}_{names[0]}"
    path = work / f"part_{label}_seed{seed}.json"
    found = claims.kept(path, digest)
    if found is None:
        start = time.perf_counter()
        folder = work / f"run_{label}_seed{seed}_{digest}"
        results = train(config_of(arm, names, steps=steps, seed=seed, folder=folder), resume=True)
        rows = {name: {m: results[name]["bbox"][m] for m in KEPT_METRICS} for name in names}
        found = {"digest": digest, "minutes": (time.perf_counter() - start) / 60, "values": rows}
        claims.keep(path, found)
        for checkpoint in folder.glob("*.pth"):
            checkpoint.unlink()
    return found["values"]


def paper_of(steps: int) -> SimpleNamespace:
    """This file as a paper of `tools/claims.py`, at a number of steps a set."""
    claims = claims_tool()
    here = SimpleNamespace(__file__=__file__, FILES=FILES)
    digest = claims.digest_of(here)

    def run(work: Path, arm: str, seed: int) -> dict[str, float]:
        from openvocab.engine.evaluation import mean_row

        rows: dict[str, Mapping[str, float]] = {}
        for names in detectors_of(arm):
            rows.update(trained(arm, names, seed, steps, work, digest))
        means = mean_row(list(rows.values()))
        own = {f"{name} AP": row["AP"] for name, row in rows.items()}
        return {"AP": means["AP"], "AP75": means["AP75"], "worst AP": means["worst"], **own}

    sizes = {"min_sizes": ", ".join(map(str, SIZES["min_sizes"])), "test_size": SIZES["test_size"]}
    setting = SETTING.format(**sizes, queries=QUERIES, batch=BATCH, steps=steps, total=steps * len(SETS))
    words = {"TITLE": TITLE, "SETTING": setting, "ARMS": ARMS, "METRICS": METRICS, "CLAIMS": CLAIMS, "HELPS": HELPS}
    return SimpleNamespace(**words, **vars(here), prepare=prepare, run=run)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    from openvocab.data import register_shared
    from openvocab.io import atomic_write

    register_shared()
    claims, paper = claims_tool(), paper_of(args.steps)
    logger.info("%d steps for each seed", sum(steps_of(arm, args.steps) for arm in args.arms))
    wanted = argparse.Namespace(**vars(args), paper=f"{args.steps}_steps", quick=False)
    result = claims.measure(paper, wanted, args.arms)
    command = f"python benchmarks/{NAME}.py {shlex.join(argv)}"
    result |= {"machine": claims.machine(), "command": command, "quick": False, "steps": args.steps}
    result["claims"] = claims.claims_of(paper, result)
    args.page.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.page, "w") as file:
        file.write(claims.page_of(paper, result))
        file.write(f"\n![mean AP over training steps]({args.page.stem}.png)\n")
    draw_curves(result, args.page.with_suffix(".png"))
    if args.json:
        claims.keep(args.json, result)
    print(json.dumps({arm: {m: round(v["mean"], 2) for m, v in row.items()} for arm, row in result["arms"].items()}), flush=True)
    print("\n".join(claims.sentence_of(c, result) for c in result["claims"]), flush=True)
    return 0


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # beside this file lies detection_hub.py, which has the name of the package
    cli_main(lambda: main(sys.argv[1:]))
