"""Numbers of several seeds in words: which claims held, and the page that says so (for `tools/claims.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

SDS = 2.0  # a difference counts from so many standard deviations on


def judged(
    result: Mapping, better: tuple[str, str], worse: tuple[str, str], *, margin: float = 0.0, within: float | None = None
) -> dict | None:
    """Compare two numbers: the difference of their means with twice the root of the sum of their variances, and a margin.

    With `within`, the difference must only not be further than that below 0.

    Returns:
        {"difference", "two_sd", "held"}; None where one of them was not measured.
    """
    pair = [result["arms"].get(arm, {}).get(metric) for arm, metric in (better, worse)]
    if None in pair:
        return None
    difference = pair[0]["mean"] - pair[1]["mean"]
    bound = SDS * (pair[0]["sd"] ** 2 + pair[1]["sd"] ** 2) ** 0.5
    held = difference >= -within if within is not None else difference > max(bound, 0) and difference >= margin
    return {"difference": difference, "two_sd": bound, "held": held}


def claims_of(paper: ModuleType, result: Mapping) -> list[dict]:
    """Judge every claim of the paper."""
    rows = []
    for claim in paper.CLAIMS:
        bounds = {key: claim[key] for key in ("margin", "within") if key in claim}
        verdict = judged(result, tuple(claim["better"]), tuple(claim["worse"]), **bounds)
        verdict = verdict or {"difference": None, "two_sd": None, "held": None}
        rows.append({"text": claim["text"], "better": list(claim["better"]), "worse": list(claim["worse"]), **bounds, **verdict})
    return rows


def sentence_of(claim: Mapping, result: Mapping) -> str:
    """One claim and its verdict in words."""
    if claim["held"] is None:
        return f"**Not measured**: {claim['text']}."
    ends = [f"{cell(result, arm, metric)} ({arm}, {metric})" for arm, metric in (claim["better"], claim["worse"])]
    margin, within = claim.get("margin"), claim.get("within")
    if within is not None:
        word = "Held" if claim["held"] else "Did not hold"
        why = f"{'not ' if claim['held'] else ''}more than {within:g} below in the mean"
        if abs(claim["difference"] + within) < claim["two_sd"]:
            why += ", which so few seeds do not decide"
    elif claim["held"]:
        word, why = "Held", "more than two sd" + (f", and at least {margin:g}" if margin else "")
    elif claim["difference"] > claim["two_sd"]:
        word, why = "Did not hold", f"more than two sd, but less than {margin:g}"
    elif claim["difference"] > 0:
        word, why = "Did not hold", "the difference is positive, but within two sd"
    else:
        word, why = "Did not hold", "there is no gain"
    return (
        f"**{word}**: {claim['text']}: {ends[0]} against {ends[1]}, a difference of {claim['difference']:+.1f} with two sd at "
        f"{claim['two_sd']:.1f}: {why}."
    )


def helps_of(paper: ModuleType, result: Mapping) -> list[str]:
    """Say of each metric which arms are above the one they are compared with, which below, and which neither."""
    base, metrics = getattr(paper, "HELPS", (None, ()))
    sentences = []
    for metric in metrics:
        above, below, same = [], [], []
        for arm in result["arms"]:
            up, down = judged(result, (arm, metric), (base, metric)), judged(result, (base, metric), (arm, metric))
            if arm == base or up is None:
                continue
            (above if up["held"] else below if down["held"] else same).append(arm)
        parts = [
            f"{', '.join(arms)} {'is' if len(arms) == 1 else 'are'} {word}"
            for arms, word in ((above, "above"), (below, "below"), (same, "neither"))
            if arms
        ]
        if parts:
            sentences.append(f"{metric}, by more than two sd against '{base}': {'; '.join(parts)}.")
    return sentences


def cell(result: Mapping, arm: str, metric: str) -> str:
    """mean ± sd, or a dash."""
    found = result["arms"].get(arm, {}).get(metric)
    return "-" if found is None else f"{found['mean']:.1f} ± {found['sd']:.1f}"


def brief(values: Mapping[str, float]) -> str:
    return ", ".join(f"{k} {v:.1f}" for k, v in values.items())


def page_of(paper: ModuleType, result: Mapping) -> str:
    """The page in Markdown."""
    from tabulate import tabulate

    used = [m for m in paper.METRICS if any(m in row for row in result["arms"].values())]
    table = tabulate(
        [[arm, *(cell(result, arm, m) for m in used)] for arm in result["arms"]],
        headers=["arm", *used], tablefmt="github", disable_numparse=True, colalign=["left"] + ["right"] * len(used),
    )  # fmt: skip
    seeds = result["seeds"]
    quick = "\n**A quick run, to see that everything works: no figures to report.**\n" if result["quick"] else ""
    number = f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'} ({', '.join(map(str, seeds))})"
    lines = [
        f"# {paper.TITLE}", "",
        f"Written by `{result['command']}` from the numbers it measured; the sentences too.", quick,
        paper.SETTING.strip(), "",
        "## What held", "",
        *(f"- {sentence_of(c, result)}" for c in result["claims"]), "",
        f"## All arms: mean ± sd of {number}", "", table, "",
        *(f"- {s}" for s in helps_of(paper, result)), "",
        "Arms:", "", *(f"- **{arm}**: {paper.ARMS[arm]}" for arm in result["arms"]), "",
        "Columns:", "", *(f"- **{m}**: {paper.METRICS[m]}" for m in used), "",
        f"A difference counts if it is above two standard deviations of it (2 x the root of the sum of both variances over "
        f"{number}). It took {result['minutes']:.1f} minutes{by_clock(result)} on {result['machine']}"
        f"{', with the code of ' if result.get('commits') else ''}{', '.join(result.get('commits', []))}.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def by_clock(result: Mapping) -> str:
    """How long it was by the clock, where that is known."""
    return f" of its arms, {result['clock']:.1f} by the clock," if result.get("clock") is not None else ""
