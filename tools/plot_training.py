"""Turn a run's metrics.json into a small jsonl and a picture of its learning curves.

    python tools/plot_training.py output/glipv2_default/metrics.json docs/curves/default_train
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from openvocab.errors import DataError, cli_main


def read_rows(path: str | Path) -> list[dict[str, float]]:
    """Return the rows of detectron2's metrics.json: one json object a line, each with its `iteration`.

    Raises:
        DataError: if it cannot be read or holds no iteration.
    """
    try:
        rows = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no metrics.json of a run: {error}") from error
    rows = [row for row in rows if "iteration" in row]
    if not rows:
        raise DataError(f"{path} holds no iteration; pass the metrics.json that a run writes to its train.output_dir")
    return sorted(rows, key=lambda row: row["iteration"])


def shorten(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Keep the losses, the learning rate and each set's AP and AP50, in four significant digits."""

    def wanted(key: str) -> bool:
        return key in ("iteration", "lr") or "loss" in key or key.rsplit("/", 1)[-1] in ("AP", "AP50")

    return [{k: v if k == "iteration" else float(f"{v:.4g}") for k, v in row.items() if wanted(k)} for row in rows]


def draw(rows: list[dict[str, float]], target: Path) -> None:
    """Draw losses and, beside them if there is any, AP50 by set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    losses = sorted({k for row in rows for k in row if "loss" in k})
    measured = sorted({k for row in rows for k in row if k.endswith("/AP50")})
    panels = [("training losses", losses, None)] + ([("validation AP50 (%)", measured, "o")] if measured else [])
    figure, axes = plt.subplots(1, len(panels), figsize=(4.75 * len(panels), 3.6), dpi=110, squeeze=False)
    for axis, (title, keys, marker) in zip(axes[0], panels, strict=True):
        for key in keys:
            points = [(row["iteration"] + 1, row[key]) for row in rows if key in row]
            axis.plot(*zip(*points, strict=True), marker=marker, linewidth=1.2, label=key.split("/")[0])
        axis.set(title=title, xlabel="iteration", ylim=(0, None))
        axis.grid(alpha=0.3)
        if keys:
            axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(target)
    plt.close(figure)


def main(argv: list[str]) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics")
    parser.add_argument("target", help="without suffix; .jsonl and .png are written")
    args = parser.parse_args(argv)
    rows = shorten(read_rows(args.metrics))
    target = Path(args.target)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw(rows, target.with_suffix(".png"))
    print(f"{len(rows)} rows of {args.metrics}: {target}.jsonl, {target}.png")
    return 0


if __name__ == "__main__":
    cli_main(lambda: main(sys.argv[1:]))
