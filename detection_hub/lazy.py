"""A hub in a LazyConfig: its data sets once, as a list of calls, and all that follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from omegaconf import DictConfig

from openvocab.data import build_test_loader
from openvocab.errors import ConfigError, nearest

from .data import HubMapper, build_hub_loader, hub_contexts, hub_test_records
from .data.dataset import MAX_SIZE, TEST_SIZE
from .evaluation import build_hub_evaluator


def hub_datasets(datasets: Sequence[DictConfig]) -> DictConfig:
    """Return what `model.hub.datasets` is to be.

    Args:
        datasets: `L(HubDataset)(...)` each.
    """
    return L(hub_contexts)(datasets=list(datasets))


def hub_dataloader(datasets: Sequence[DictConfig], *, test_workers: int = 0, **options: object) -> dict:
    """Return a config's `dataloader`: the training loader of the hub, and loader and evaluator of each test split.

    `tools/train_net.py --eval-only` evaluates on all of them; their results stand beside "mean": {AP, AP50, AP75, worst}.

    Args:
        datasets: `L(HubDataset)(...)` each.
        test_workers: reading processes of each test loader.
        options: of `build_hub_loader`.
    """
    image_format = options.get("image_format", "RGB")
    return {
        "train": L(build_hub_loader)(datasets=list(datasets), **options),
        "test": {
            d.name: {"loader": _test_loader(d, test_workers, image_format), "evaluator": L(build_hub_evaluator)(dataset=d)}
            for d in datasets
            if d.get("test") is not None
        },
    }


def _test_loader(dataset: DictConfig, workers: int, image_format: str) -> DictConfig:
    """The resize stands here openly, where `load_predictor` finds it."""
    short, longest = dataset.get("test_size", TEST_SIZE), dataset.get("max_size", MAX_SIZE)
    resize = L(T.ResizeShortestEdge)(short_edge_length=short, max_size=longest)
    options = {"augmentations": [resize], "resize": False, "image_format": image_format}
    mapper = L(HubMapper)(dataset=dataset, is_train=False, **options)
    return L(build_test_loader)(dataset=L(hub_test_records)(dataset=dataset), mapper=mapper, num_workers=workers)


def only(name: str, *, model: DictConfig, dataloader: Mapping) -> None:
    """Change a config of a hub, in place, into that of one of its data sets: a separate detector to compare with.

    Raises:
        ConfigError: for a data set that it does not have.
    """
    names = [d.name for d in dataloader["train"].datasets]
    if name not in names:
        raise ConfigError(f"the config's hub has no data set '{name}'.{nearest(name, names)} Known: {', '.join(names)}")
    for node in (model.hub.datasets, dataloader["train"]):
        node.datasets = [d for d in node.datasets if d.name == name]
    for other in list(dataloader["test"]):
        if other != name:
            del dataloader["test"][other]
