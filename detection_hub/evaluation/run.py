"""`hub_test`: all data sets of a hub in one run, always the same shape of result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.data import transforms as T
from torch import nn

from detection_hub.data import Hub, HubDataset, HubMapper, hub_test_records
from openvocab.data import build_test_loader
from openvocab.engine import TestSet, do_test
from openvocab.errors import DataError

from .evaluators import build_hub_evaluator

HUB = "hub"
ROW = ("AP", "AP50", "AP75", "worst")


def hub_test_sets(
    hub: Hub | Sequence[HubDataset | Mapping],
    *,
    batch_size: int = 1,
    num_workers: int = 0,
    image_format: str = "RGB",
    augmentations: Sequence[T.Augmentation | T.Transform] | None = None,
    output_dir: str | Path | None = None,
) -> dict[str, TestSet]:
    """Build loader and evaluator of every data set that has a test split, by the data sets' names.

    Args:
        hub: a `Hub`, or what makes one.
        batch_size: of each process.
        num_workers: reading processes.
        image_format: as the model says.
        augmentations: in place of the resize to the data sets' own test sizes.
        output_dir: predictions go into a folder for each data set below it.

    Raises:
        DataError: if no data set has a test split.
        ConfigError: as `build_hub_evaluator`.
    """
    hub = hub if isinstance(hub, Hub) else Hub(hub)
    sets = {}
    for row in hub:
        if row.test is None:
            continue
        mapper = HubMapper(
            dataset=row,
            is_train=False,
            augmentations=augmentations or (),
            resize=augmentations is None,
            image_format=image_format,
        )
        records = hub_test_records(dataset=row)
        loader = build_test_loader(dataset=records, mapper=mapper, num_workers=num_workers, batch_size=batch_size)
        folder = {} if output_dir is None else {"output_dir": Path(output_dir) / row.name}
        sets[row.name] = TestSet(loader, build_hub_evaluator(dataset=row, **folder))
    if not sets:
        raise DataError(f"none of the hub's data sets ({', '.join(hub.names)}) has a split to be tested on")
    return sets


def hub_test(model: nn.Module, hub: Hub | Sequence[HubDataset | Mapping], **options: object) -> dict[str, dict]:
    """Evaluate a model on every data set of a hub, each by its own evaluator; a collective call.

    Each picture says of which data set it is and which names that has: a hub that does not know the data set judges by names alone.

    Args:
        model: not wrapped; its mode is restored.
        hub: what to test on.
        options: of `hub_test_sets`; `image_format` is the model's unless given.

    Returns:
        on rank 0 {data set: its evaluator's results, ..., "hub": {"AP", "AP50", "AP75": means over the data sets, "worst": the
        lowest AP}}, in percent, whatever the number of data sets; {} on other ranks.

    Raises:
        ConfigError, DataError: as `hub_test_sets`.
    """
    options = {"image_format": getattr(model, "input_format", "RGB"), **options}
    results = do_test(model, hub_test_sets(hub, **options))
    if not results:
        return {}
    means = results.pop("mean", {})
    return {**results, HUB: {key: means.get(key, float("nan")) for key in ROW}}
