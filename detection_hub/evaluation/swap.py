"""The context-swap matrix: one data set's pictures, detected as if they were another's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from detectron2.evaluation import DatasetEvaluator
from torch import nn

from detection_hub.data import Hub, HubDataset
from openvocab.errors import DataError
from openvocab.evaluation import evaluate, evaluation_mode, mean_of

from .evaluators import BY_JSON, build_hub_evaluator, evaluator_of, shared_names, spelled_as
from .run import HUB, hub_test_sets

METRICS = ("AP", "AP50", "AP75")


class Several(DatasetEvaluator):
    """Several evaluators of the same predictions; results by their keys."""

    def __init__(self, evaluators: Mapping[str, DatasetEvaluator]) -> None:
        self.evaluators = dict(evaluators)

    def reset(self) -> None:
        for evaluator in self.evaluators.values():
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for evaluator in self.evaluators.values():
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict:
        return {key: evaluator.evaluate() for key, evaluator in self.evaluators.items()}


def pairs_of(hub: Hub) -> dict[tuple[str, str], dict[str, int]]:
    """Return the ordered pairs of data sets that share names, and what `shared_names` says of them."""
    rows = [row for row in hub if row.test is not None and evaluator_of(row) in BY_JSON]
    pairs = {(one.name, other.name): shared_names(one, other) for one in rows for other in hub if one is not other}
    return {pair: names for pair, names in pairs.items() if names}


def swap_test(model: nn.Module, hub: Hub | Sequence[HubDataset | Mapping], **options: object) -> dict[str, dict]:
    """Detect in each data set's test pictures in its own context, and in that of every data set it shares names with.

    Both are judged by the pictures' own boxes, on the shared names only. A detector that has learned conventions finds the
    other data set's boxes, so its figures fall; one that has not shows no difference. A collective call.

    Args:
        model: not wrapped; it must know the data sets.
        hub: data sets with test splits and json evaluators; others take part as contexts only.
        options: of `hub_test_sets`.

    Returns:
        on rank 0 {pictures of: {context of: {"names": how many, "AP", "AP50", "AP75": under that context, "AP_own", "AP50_own",
        "AP75_own": under their own}}, "hub": {"AP", "AP50", "AP75": mean of own less other over all pairs}}; {} elsewhere.

    Raises:
        DataError: if no two data sets share a name, or the model does not know one of them.
    """
    hub = hub if isinstance(hub, Hub) else Hub(hub)
    pairs = pairs_of(hub)
    if not pairs:
        raise DataError(f"no two of the data sets {', '.join(hub.names)} share a name, so no context can be swapped")
    known = getattr(getattr(model, "hub", None), "datasets", {})
    lacking = [name for name in hub.names if name not in known]
    if lacking:
        raise DataError(f"the model does not know the data set '{lacking[0]}', so it has no context to swap; register it first")
    options = {"image_format": getattr(model, "input_format", "RGB"), **options}
    sets = hub_test_sets(hub.only(*dict.fromkeys(one for one, _ in pairs)), **options)
    result: dict[str, dict] = {}
    with evaluation_mode(model):
        for one in sets:
            rows = _row(model, hub, one, sets[one].loader, {o: n for (p, o), n in pairs.items() if p == one})
            result.update({one: rows} if rows else {})
    if not result:
        return {}
    every = [cell for row in result.values() for cell in row.values()]
    return {**result, HUB: {m: mean_of([cell[f"{m}_own"] - cell[m] for cell in every]) for m in METRICS}}


def _row(model: nn.Module, hub: Hub, one: str, loader: object, others: Mapping[str, Mapping[str, int]]) -> dict[str, dict]:
    """Evaluate one data set's pictures in all contexts; {} on other ranks than 0."""
    judges = {o: build_hub_evaluator(dataset=hub[one], category_names=list(names)) for o, names in others.items()}
    own = evaluate(_in_context(model, hub[one]), loader, Several(judges), progress=False)
    row = {}
    for other, names in others.items():
        words = spelled_as(names, hub[other].vocabulary)
        judge = build_hub_evaluator(dataset=hub[one], vocabulary=words, category_names=list(names))
        swapped = evaluate(_in_context(model, hub[other]), loader, judge, progress=False)
        if swapped:
            numbers = {m: swapped["bbox"][m] for m in METRICS}
            numbers |= {f"{m}_own": own[other]["bbox"][m] for m in METRICS}
            row[other] = {"names": float(len(names)), **numbers}
    return row


def _in_context(model: nn.Module, dataset: HubDataset) -> Callable[[list[dict]], list[dict]]:
    """The model, told that every picture is of `dataset`."""

    def detect(inputs: list[dict]) -> list[dict]:
        told = {"dataset": dataset.name, "vocabulary": dataset.vocabulary}
        return model([{**x, **told} for x in inputs])

    return detect
