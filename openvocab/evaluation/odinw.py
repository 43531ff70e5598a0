"""Object Detection in the Wild (Li et al. 2022, ELEVATER): mean and median of COCO's AP over 13 or 35 sets."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.evaluation import DatasetEvaluator

from openvocab.errors import EvaluationError, nearest
from openvocab.vocabulary import Vocabulary

from .coco import COCODetectionEvaluator
from .keys import BOX, ODINW, class_key, group_key, mean_of, median_of

logger = logging.getLogger(__name__)
SUITES = (13, 35)
METRICS = ("AP", "AP50")
PREFERRED = {"plantdoc": "plantdoc_416x416"}  # of two sizes, the one that is among the 35


def odinw_sets(suite: int) -> tuple[str, ...]:
    """Return the names of the sets of ODinW-13 or ODinW-35, in alphabetical order.

    Raises:
        EvaluationError: for another number.
    """
    if suite not in SUITES:
        raise EvaluationError(f"suite={suite!r} must be one of {', '.join(map(str, SUITES))}")
    prefix = f"odinw{suite}/"
    return tuple(n.removeprefix(prefix) for n in Vocabulary.builtin_names() if n.startswith(prefix))


def find_odinw(suite: int, root: str | Path | None = None) -> dict[str, str]:
    """Register the ODinW folders below `root` and say which registered data set is which set of the suite.

    The test split is taken, the validation split where there is none (PascalVOC).

    Args:
        suite: 13 or 35.
        root: as for `openvocab.data.register_odinw`.

    Returns:
        {set: data set}, of those that were found.

    Raises:
        EvaluationError: if several data sets could be one set; pass the mapping by hand then.
    """
    from openvocab.data import register_odinw

    registered = register_odinw(root)
    found = {}
    for name in odinw_sets(suite):
        matches = _matches(name, registered)
        if len(matches) > 1:
            raise EvaluationError(
                f"'{name}' of ODinW-{suite} could be {' or '.join(map(repr, matches))}; say which with datasets={{'{name}': ...}}"
            )
        if matches:
            found[name] = matches[0]
    return found


def _matches(name: str, registered: Sequence[str]) -> list[str]:
    """Registered names of one set: exact, or below a folder of its name."""
    word = re.sub(r"[^A-Za-z0-9]+", "_", PREFERRED.get(name, name))
    for split in ("test", "val"):
        exact = f"odinw_{word}_{split}"
        if exact in registered:
            return [exact]
        below = sorted(n for n in registered if n.startswith(f"odinw_{word}_") and n.endswith(f"_{split}"))
        if below:
            return below
    return []


def summarize_odinw(results: Mapping[str, Mapping], suite: int) -> dict[str, dict[str, float]]:
    """Sum up COCO results of single sets.

    Args:
        results: {set: {"bbox": {"AP", "AP50", ...}}} of the sets there are, in percent.
        suite: 13 or 35.

    Returns:
        {"odinw": {...}}, always of the same keys: AP_mean, AP_median, AP50_mean, AP50_median over the sets that are there, how many
        `sets` the suite has and how many are missing (`sets_missing`), and "AP-<set>", "AP50-<set>" of every set, nan where it is
        missing. A warning names the missing ones: the mean of a part is no figure to compare with published ones.

    Raises:
        EvaluationError: for a set that is not of the suite.
    """
    names = odinw_sets(suite)
    _check_sets(results, names, suite)
    missing = [n for n in names if n not in results]
    if missing:
        logger.warning(
            "ODinW-%d: %d of %d sets are missing, so mean and median are not those of the benchmark: %s",
            suite,
            len(missing),
            len(names),
            ", ".join(missing),
        )
    summary: dict[str, float] = {}
    for metric in METRICS:
        values = [float(results[n][BOX][metric]) if n in results else float("nan") for n in names]
        summary[group_key(metric, "mean")], summary[group_key(metric, "median")] = mean_of(values), median_of(values)
        summary.update({class_key(metric, n): v for n, v in zip(names, values, strict=True)})
    return {ODINW: {**summary, "sets": float(len(names)), "sets_missing": float(len(missing))}}


def _check_sets(given: Mapping, names: Sequence[str], suite: int) -> None:
    for name in given:
        if name not in names:
            raise EvaluationError(f"'{name}' is no set of ODinW-{suite}.{nearest(name, names)} Sets: {', '.join(names)}")


class ODinWEvaluator(DatasetEvaluator):
    """ODinW in one pass: takes pictures of all sets, mixed ("dataset" in the input says of which), and sums up.

    A loader for it: `build_test_loader(dataset=odinw_records(evaluator_datasets), mapper=...)`.

    Args:
        suite: 13 or 35.
        datasets: {set of the suite: registered data set}; by default those found by `find_odinw`.
        root: where to look for them.
        output_dir: predictions go into a folder for each set below it.
        distributed: gather the predictions of all processes.

    Raises:
        EvaluationError: for a set that is not of the suite, or none at all.
        DataError: for an unknown data set.
    """

    def __init__(
        self,
        *,
        suite: int = 13,
        datasets: Mapping[str, str] | None = None,
        root: str | Path | None = None,
        output_dir: str | Path | None = None,
        distributed: bool = True,
    ) -> None:
        names = odinw_sets(suite)
        datasets = find_odinw(suite, root) if datasets is None else dict(datasets)
        _check_sets(datasets, names, suite)
        if not datasets:
            raise EvaluationError(
                f"no set of ODinW-{suite} was found; put them below $DETECTRON2_DATASETS/odinw, or pass datasets={{set: data set}}"
            )
        self.suite = suite
        self.evaluators = {
            name: COCODetectionEvaluator(
                datasets[name], output_dir=None if output_dir is None else Path(output_dir) / name, distributed=distributed
            )
            for name in names
            if name in datasets
        }
        self._by_dataset = {e.dataset_name: e for e in self.evaluators.values()}

    def reset(self) -> None:
        """Forget all predictions."""
        for evaluator in self.evaluators.values():
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take one batch; `inputs` have "dataset" and "image_id".

        Raises:
            EvaluationError: for a picture of another data set; else as `COCODetectionEvaluator`.
        """
        if len(inputs) != len(outputs):
            raise EvaluationError(f"the model returned {len(outputs)} outputs for {len(inputs)} pictures")
        for x, output in zip(inputs, outputs, strict=True):
            evaluator = self._by_dataset.get(x.get("dataset"))
            if evaluator is None:
                raise EvaluationError(
                    f"picture {x.get('image_id')!r} is of data set {x.get('dataset')!r}, which is not among those evaluated: "
                    f"{', '.join(self._by_dataset)}"
                )
            evaluator.process([x], [output])

    def evaluate(self) -> dict:
        """Return what `summarize_odinw` does; {} on other ranks than 0.

        Raises:
            EvaluationError: if no picture of one of the sets was processed.
        """
        gathered = {name: e.gather() for name, e in self.evaluators.items()}  # collective, so before anything that may raise
        results = {name: e.score(gathered[name]) for name, e in self.evaluators.items()}
        return summarize_odinw(results, self.suite) if all(results.values()) else {}


def odinw_records(datasets: Mapping[str, str]) -> list[dict]:
    """Return the records of several sets in one list, for `build_test_loader(dataset=...)`.

    Args:
        datasets: as for `ODinWEvaluator`, such as `find_odinw(13)`.
    """
    from openvocab.data import get_records

    return [record for name in datasets.values() for record in get_records(name)]


def odinw_wording(datasets: Mapping[str, str]) -> dict[str, Vocabulary]:
    """Return GLIP's engineered prompts (those of its odinw_35 configs) for a mapper: `DatasetMapper(wording=...)`.

    Args:
        datasets: as for `ODinWEvaluator`, such as `find_odinw(13)`.

    Returns:
        {data set: vocabulary}, such as "stingray" followed by " which is flat and round"; sets without engineered words have
        their names.
    """
    _check_sets(datasets, odinw_sets(35), 35)
    return {dataset: Vocabulary.builtin(f"odinw35/{name}") for name, dataset in datasets.items()}
