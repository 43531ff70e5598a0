"""What is measured of the detectors of Detection Hub's claims."""

from __future__ import annotations

from collections.abc import Mapping

from detection_hub_conventions import DIFFERENT, MINILM, SAME, SEPARATE, SIZES, Conventions, unknown_sets

from detection_hub.data import Hub, HubDataset
from detection_hub.evaluation import hub_test, swap_test
from detection_hub.modeling import DetectionHub
from openvocab.engine.evaluation import mean_row
from openvocab.evaluation import mean_of

EVALUATION_BATCH = 25
NEAR = {"person": "human", "ball": "sphere", "box": "crate", "cone": "pyramid"}
UNRELATED = {"person": "river", "ball": "music", "box": "engine", "cone": "winter"}
STATIC_ARMS = ("naive", "masked")  # no context changes what they do
KNOWING = ("id", "full", MINILM)  # arms that know flags


def measure(conventions: Conventions, arm: str) -> dict[str, float]:
    """Return all numbers of an arm."""
    rows = boxes_of(conventions, arm, DIFFERENT)
    result = named(rows) | {f"person {name}": rows[name]["AP-person"] for name in ("A", "B")}
    if arm != MINILM:  # words of any kind say nothing there
        result |= {f"{SAME}: {key}": value for key, value in named(boxes_of(conventions, arm, SAME)).items()}
    if arm in SEPARATE or arm in STATIC_ARMS:
        return result
    model, hub = conventions.fitted(arm, DIFFERENT)[0]
    result |= swapped(model, hub)
    for what, names in (("near", NEAR), ("unrelated", UNRELATED)):
        result[f"{what} names"] = heard_as(conventions, model, names)
    if arm in KNOWING:
        result |= followed(conventions, model, DIFFERENT, "new list")
    if arm in KNOWING and arm != MINILM:
        result |= followed(conventions, conventions.fitted(arm, SAME)[0][0], SAME, "unknown")
    return result


def boxes_of(conventions: Conventions, arm: str, world: str) -> dict[str, Mapping[str, float]]:
    """Return {set: box results} of an arm's detectors."""
    rows = {}
    for model, hub in conventions.fitted(arm, world):
        rows.update({name: row["bbox"] for name, row in tested(model, hub).items()})
    return rows


def tested(model: DetectionHub, hub: Hub) -> dict[str, Mapping]:
    """Return {set: results}."""
    results = hub_test(model, hub, batch_size=EVALUATION_BATCH)
    return {name: results[name] for name in hub.names}


def named(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Sum up the sets' results as the table has them."""
    means = mean_row(list(rows.values()))
    return {"AP": means["AP"], "AP75": means["AP75"], "worst AP": means["worst"]}


def swapped(model: DetectionHub, hub: Hub) -> dict[str, float]:
    """Means over the swap matrix's pairs."""
    matrix = swap_test(model, hub, batch_size=EVALUATION_BATCH)
    cells = [cell for name, row in matrix.items() if name != "hub" for cell in row.values()]
    own, other = (mean_of([cell[key] for cell in cells]) for key in ("AP75_own", "AP75"))
    return {"swap: own AP75": own, "swap: other AP75": other, "swap: difference": own - other}


def followed(conventions: Conventions, model: DetectionHub, world: str, what: str) -> dict[str, float]:
    """AP of an unknown set on the boxes of its flags, and on those of the other rule; means over `unknown_sets`."""
    found: dict[str, list[float]] = {"own": [], "other": []}
    for i, (own, other) in enumerate(unknown_sets(world)):
        for rule, truth in (("own", own), ("other", other)):
            name = f"{what} {i}, {rule} boxes"
            test = conventions.split(truth, f"unknown {i}")  # the same pictures for both
            row = HubDataset(name=name, test=test, classes=list(own.classes), flags=list(own.flags), **SIZES)
            model.add_dataset(row.context())  # its vector and bias are zero
            found[rule].append(tested(model, Hub([row]))[name]["bbox"]["AP"])
    return {f"{what}: {rule} rule": sum(values) / len(values) for rule, values in found.items()}


def heard_as(conventions: Conventions, model: DetectionHub, names: Mapping[str, str]) -> float:
    """Mean AP over A, B, C where the text encoder hears other words for the names."""
    rows = []
    for row in conventions.hub(DIFFERENT):
        words = {name: names[name] for name in row.vocabulary.names}
        rows.append(HubDataset(name=row.name, test=row.test, classes=row.classes, aliases=words, **SIZES))
    return named({name: row["bbox"] for name, row in tested(model, Hub(rows)).items()})["AP"]
