"""Measure the central claim of a paper again, at a scale that a laptop can run; say which part of it held.

    python tools/claims.py regionclip --seeds 3 [--jobs 2]
    python tools/claims.py regionclip --quick --out /tmp/claims        # seconds: does everything run? No figures to report
    python tools/claims.py regionclip --render                         # write the page anew from the numbers that are there

Writes docs/claims/PAPER.json (seeds, metrics of every arm as mean, sd, values, machine, command, minutes) and PAPER.md beside it.
Each arm of each seed is kept in output/claims/PAPER as soon as it is measured, and measured again only if the paper's files
changed: a run that was stopped goes on. The page says of which commits the code was; --fresh takes nothing that was kept.
Exit code: 0, whatever held; 2, with one sentence, if it could not be measured.

A paper is benchmarks/claims/PAPER.py; files beside it can be imported. It holds
    TITLE, SETTING   a line, and Markdown that says what is measured, and how
    ARMS, METRICS    {name: what it is}, in the order of the table; higher is better
    CLAIMS           [{"text": ..., "better": (arm, metric), "worse": (arm, metric)}]; with "margin": 10, the difference must
                     also be 10 at least; with "within": 2, the first may be up to 2 below the second, and sds do not count
    HELPS            optional (arm, [metric, ...]): the arm all others are compared with in the sentences on what helps
    FILES            optional: other files, relative to it, on which the numbers depend
    prepare(work, quick) -> state        made once a run; `work` is a folder that stays (with --jobs, one of the process)
    run(state, arm, seed) -> {metric: number}
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from openvocab.errors import ConfigError, ToolParser, cli_main, nearest
from openvocab.processes import MOST, in_processes
from openvocab.testing.verdicts import brief, claims_of, page_of, sentence_of

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "claims"
NEEDED = ("TITLE", "SETTING", "ARMS", "METRICS", "CLAIMS", "prepare", "run")
OWN = "process_"  # a process's folder, with its number
logger = logging.getLogger("claims")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        ConfigError: for unknown options, and values out of range.
    """
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("paper", metavar="PAPER", help=f"one of: {', '.join(papers()) or 'none yet'}")
    add("--seeds", type=int, default=3, metavar="N", help="how many; default 3")
    add("--first-seed", type=int, default=0, metavar="N", help="seeds are N, N+1, ...; default 0")
    add("--arms", metavar="A,B", help="only these, for a look; the files are of these alone")
    add("--out", type=Path, default=ROOT / "docs" / "claims", metavar="DIR", help="default docs/claims")
    add("--work", type=Path, default=ROOT / "output" / "claims", metavar="DIR", help="kept between runs; default output/claims")
    add("--jobs", type=int, default=1, metavar="N", help="processes that measure at once; default 1")
    add("--quick", action="store_true", help="a run of seconds")
    add("--fresh", action="store_true", help="measure everything anew")
    add("--render", action="store_true", help="measure nothing: write the page from the json in --out")
    args = parser.parse_args(argv)
    if args.seeds < 1 or not 1 <= args.jobs <= MOST:
        raise ConfigError(f"--seeds {args.seeds} must be at least 1, and --jobs {args.jobs} from 1 to {MOST}")
    return args


def papers() -> list[str]:
    """Names of the papers that can be measured."""
    return sorted(p.stem for p in FOLDER.glob("*.py") if "\nCLAIMS" in p.read_text(encoding="utf-8"))


def load_paper(name: str) -> ModuleType:
    """Import benchmarks/claims/NAME.py.

    Raises:
        ConfigError: for an unknown paper, or one that lacks something.
    """
    path = FOLDER / f"{name}.py"
    if name not in papers():
        raise ConfigError(f"there is no paper '{name}' in {FOLDER}.{nearest(name, papers())} Known: {', '.join(papers())}")
    if str(FOLDER) not in sys.path:
        for other in papers():  # a plugin has its paper's name: first come, never hidden by the file
            with suppress(ModuleNotFoundError):
                import_module(other)
        sys.path.append(str(FOLDER))
    spec = spec_from_file_location(f"claims_of_{name}", path)  # a paper's plugin has its name too
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    lacking = [n for n in NEEDED if not hasattr(module, n)]
    if lacking:
        raise ConfigError(f"{path} lacks {', '.join(lacking)}")
    for claim in module.CLAIMS:
        for arm, metric in (claim["better"], claim["worse"]):
            if arm not in module.ARMS or metric not in module.METRICS:
                raise ConfigError(f"{path}: the claim '{claim['text']}' speaks of ({arm}, {metric}), which is not measured")
    return module


# ---- measuring -----------------------------------------------------------------------------------------------------


def digest_of(paper: ModuleType) -> str:
    """Of the code on which the numbers depend."""
    path = Path(paper.__file__)
    files = [path, *(path.parent / f for f in getattr(paper, "FILES", ()))]
    return hashlib.sha256(b"\0".join(f.read_bytes() for f in files)).hexdigest()[:16]


class Measuring:
    """Measures one arm with one seed, or takes what is kept; `prepare` is called for the first that must be measured.

    Args:
        paper: as the module's docstring says.
        args: of the command line: `paper`, `work`, `quick`, `fresh`.
        own: name of a folder in `work` for what `prepare` and `run` write; None: `work` itself.
    """

    def __init__(self, paper: ModuleType, args: argparse.Namespace, own: str | None = None) -> None:
        self.paper, self.quick, self.fresh, self.digest = paper, args.quick, args.fresh, digest_of(paper)
        self.work = folder_of(args)
        self.own = self.work / own if own else self.work
        self.own.mkdir(parents=True, exist_ok=True)
        self.state: tuple | None = None

    def __call__(self, seed: int, arm: str) -> dict:
        """Return {"values", "minutes", "new": was it measured just now?}."""
        path = self.work / f"{arm.replace(' ', '_').replace('/', '_')}_seed{seed}.json"
        found = None if self.fresh else kept(path, self.digest)
        if found is not None:
            return {**found, "new": False}
        start = time.perf_counter()
        if self.state is None:
            self.state = (self.paper.prepare(self.own, self.quick),)
        values = {k: float(v) for k, v in self.paper.run(self.state[0], arm, seed).items()}
        check(values, self.paper, arm)
        minutes = (time.perf_counter() - start) / 60
        found = {"digest": self.digest, "commit": commit(), "minutes": minutes, "values": values}
        keep(path, found)
        logger.info("%s, seed %d: %s (%.1f min)", arm, seed, brief(values), found["minutes"])
        return {**found, "new": True}


def folder_of(args: argparse.Namespace) -> Path:
    """Where a paper's numbers are kept."""
    return args.work / (args.paper + ("_quick" if args.quick else ""))


_measuring: list[Measuring] = []  # of a process of `measure`


def _begin(folder: Path, args: argparse.Namespace) -> None:
    """Make a process of `measure` ready."""
    import signal

    import torch

    global FOLDER
    FOLDER = folder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    torch.set_num_threads(max((os.cpu_count() or 1) // args.jobs, 1))
    _measuring.append(Measuring(load_paper(args.paper), args, f"{OWN}{os.getpid()}"))


def _one(unit: tuple[int, str]) -> dict:
    return _measuring[0](*unit)


def measure(paper: ModuleType, args: argparse.Namespace, arms: Sequence[str]) -> dict:
    """Run all arms with all seeds, or take what is kept.

    Args:
        args: of the command line; with `jobs` above 1, so many processes take the next arm each.

    Returns:
        {"seeds", "arms", "minutes": of all arms together, "clock": minutes that passed, None if something was kept, "commits": of
        the code}.
    """
    seeds = list(range(args.first_seed, args.first_seed + args.seeds))
    units = [(seed, arm) for seed in seeds for arm in arms]  # a whole seed first: a stopped run has all arms of some seeds
    start = time.perf_counter()
    if getattr(args, "jobs", 1) > 1:
        try:
            found = in_processes(_one, units, jobs=args.jobs, begin=_begin, args=(FOLDER, args))
        finally:
            for folder in folder_of(args).glob(f"{OWN}*"):
                shutil.rmtree(folder, ignore_errors=True)
    else:
        measuring = Measuring(paper, args)
        found = [measuring(*unit) for unit in units]
    clock = round((time.perf_counter() - start) / 60, 2) if all(f["new"] for f in found) else None
    rows = {arm: [f["values"] for f, (_, a) in zip(found, units, strict=True) if a == arm] for arm in arms}
    minutes = round(sum(f["minutes"] for f in found), 2)
    result = {"seeds": seeds, "arms": {arm: summed(values) for arm, values in rows.items()}, "minutes": minutes, "clock": clock}
    return result | {"commits": sorted({f.get("commit", "") for f in found} - {""})}


def check(values: Mapping[str, float], paper: ModuleType, arm: str) -> None:
    """See that an arm gave numbers that the table knows.

    Raises:
        ConfigError: else.
    """
    unknown = [m for m in values if m not in paper.METRICS]
    if unknown or not values:
        raise ConfigError(f"the arm '{arm}' of {paper.__file__} gave {unknown or 'nothing'}, which METRICS does not list")


def kept(path: Path, digest: str) -> dict | None:
    """Return what an earlier run measured with the same code."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("digest") == digest else None


def keep(path: Path, content: dict) -> None:
    """Write json so that a stopped run leaves no half of it."""
    from openvocab.io import atomic_write

    with atomic_write(path, "w") as file:
        json.dump(content, file, indent=1)


def summed(values: Sequence[Mapping[str, float]]) -> dict[str, dict]:
    """{metric: {"mean", "sd" (of the sample; 0 with one seed), "values"}}."""
    result = {}
    for metric in values[0]:
        row = [v[metric] for v in values]
        result[metric] = {"mean": statistics.fmean(row), "sd": statistics.stdev(row) if len(row) > 1 else 0.0, "values": row}
    return result


def commit() -> str:
    """The code that measures, as git knows it; with a + if files differ from it. Empty where there is no git."""
    try:
        words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def machine(jobs: int = 1) -> str:
    """Say where it was measured."""
    import torch

    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    share = f"{threads} threads" if jobs == 1 else f"{jobs} processes of {max(cores // jobs, 1)} threads"
    return f"{platform.machine()}, {cores} cores, {share}, torch {torch.__version__}"


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    paper = load_paper(args.paper)
    numbers = args.out / f"{args.paper}.json"
    if args.render:
        result = read(numbers)
    else:
        arms = chosen(paper, args.arms)
        result = measure(paper, args, arms)
        command = f"python tools/claims.py {shlex.join(argv)}"
        result |= {"machine": machine(args.jobs), "command": command, "quick": args.quick}
    result["claims"] = claims_of(paper, result)
    keep(numbers, result)
    from openvocab.io import atomic_write

    with atomic_write(args.out / f"{args.paper}.md", "w") as file:
        file.write(page_of(paper, result))
    print("\n".join(sentence_of(c, result) for c in result["claims"]), flush=True)
    return 0


def chosen(paper: ModuleType, text: str | None) -> list[str]:
    """The arms to run.

    Raises:
        ConfigError: for an unknown one.
    """
    if text is None:
        return list(paper.ARMS)
    names = [n.strip() for n in text.split(",") if n.strip()]
    for name in names:
        if name not in paper.ARMS:
            raise ConfigError(f"there is no arm '{name}'.{nearest(name, list(paper.ARMS))} Known: {', '.join(paper.ARMS)}")
    return names


def read(path: Path) -> dict:
    """Read an earlier result.

    Raises:
        ConfigError: if there is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); run without --render first") from error


if __name__ == "__main__":
    cli_main(main)
