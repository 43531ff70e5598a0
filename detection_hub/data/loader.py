"""The training loader of a hub: openvocab's, with the hub's order of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from detectron2.data import transforms as T
from detectron2.utils import comm

from openvocab.data import TrainLoader, TrainSource, build_train_loader
from openvocab.errors import ConfigError

from .dataset import Hub, HubDataset
from .mapper import HubMapper
from .ratios import LossDriven
from .records import train_records
from .stream import Change, HubStream

AHEAD = 100  # batches between an observed loss and the first batch drawn by it: more than reading processes can be ahead
LOSSES = ("loss_ce", "loss_giou", "loss_bbox")


class HubTrainLoader:
    """Endless batches with a position that can be saved; told the data sets' losses, it may change their shares.

    Args:
        loader: gives the batches.
        names: of the data sets, in the loader's order.
        weights: of each, before any loss is known.
        changes: the list that the loader's stream reads.
        driver: makes factors of losses; None: shares stay.
    """

    def __init__(
        self,
        *,
        loader: TrainLoader,
        names: Sequence[str],
        weights: Sequence[float],
        changes: list[Change],
        driver: LossDriven | None = None,
    ) -> None:
        self.loader, self.names, self.weights = loader, tuple(names), tuple(weights)
        self.changes, self.driver = changes, driver

    @property
    def dataset(self) -> object:
        """All pictures, for those who ask how many there are."""
        return self.loader.dataset

    def __iter__(self) -> Iterator[list[dict]]:
        return iter(self.loader)

    @property
    def shares(self) -> dict[str, float]:
        """Expected share of each data set in the batches that are drawn next."""
        weights = self.changes[-1][1] if self.changes else self.weights
        return {name: w / sum(weights) for name, w in zip(self.names, weights, strict=True)}

    def observe(self, losses: Mapping[str, Mapping[str, float]]) -> None:
        """Take what `DetectionHub.dataset_losses` returned; the same on all processes.

        New shares hold from a fixed number of batches later, so that neither reading ahead nor a resume changes what is drawn.
        """
        if self.driver is None:
            return
        done = self.loader.state_dict()["delivered"]
        self.driver.observe({n: sum(v[k] for k in LOSSES if k in v) for n, v in losses.items() if n in self.names})
        factors = self.driver.factors()
        weights = [w * factors.get(n, 1.0) for n, w in zip(self.names, self.weights, strict=True)]
        past = [start for start, _ in self.changes if start <= done]
        self.changes[:] = [c for c in self.changes if not past or c[0] >= past[-1]] + [(done + AHEAD, weights)]

    def state_dict(self) -> dict:
        """Return the position and what is known of losses, as plain values."""
        own = {"changes": [[start, list(w)] for start, w in self.changes], "driver": self.driver and self.driver.state_dict()}
        return {**self.loader.state_dict(), "hub": own}

    def load_state_dict(self, state: dict) -> None:
        """Go on from there; the number of reading processes may be another.

        Raises:
            DataError: if the state is of other data sets, sizes or another seed.
        """
        self.loader.load_state_dict({k: v for k, v in state.items() if k != "hub"})
        own = state.get("hub", {})
        self.changes[:] = [(int(start), list(w)) for start, w in own.get("changes", [])]
        if self.driver is not None and own.get("driver"):
            self.driver.load_state_dict(own["driver"])


def _sources(hub: Hub, make: Callable[..., HubMapper], share: float, alpha: float) -> list[TrainSource]:
    """Data sets to train on, with their mappers and weights."""
    sources = [
        TrainSource(
            name=row.name,
            mapper=make(dataset=row),
            records=train_records(row, share),
            repeat_threshold=row.repeat_threshold,
        )
        for row in hub
        if row.train
    ]
    if not sources:
        raise ConfigError(f"none of the hub's data sets ({', '.join(hub.names)}) has a split to train on")
    for source in sources:
        source.weight = hub[source.name].ratio * len(source.load()) ** alpha
    return sources


def build_hub_loader(
    *,
    datasets: Hub | Sequence[HubDataset | Mapping],
    total_batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
    grouping: str = "per_gpu",
    alpha: float = 0.5,
    share: float = 1.0,
    augmentations: Sequence[T.Augmentation | T.Transform] | None = None,
    aspect_ratio_grouping: bool = True,
    image_format: str = "RGB",
    loss_driven: LossDriven | None = None,
) -> HubTrainLoader:
    """Build the endless loader of a hub.

    A data set's share of the samples is ratio * pictures ** alpha, divided by the sum over all: 0 treats them alike, 1 follows
    their sizes (the paper's balance is not known here).

    Args:
        datasets: a `Hub`, or what makes one.
        total_batch_size: over all processes.
        num_workers: reading processes; 0 reads in this one.
        seed: of order and augmentation.
        grouping: "per_gpu", "per_step" or "mixed", see `HubStream`.
        alpha: see above.
        share: of each data set's pictures that are used, see `train_records`.
        augmentations: before the resize to the data set's sizes; None: a horizontal flip, half of the time.
        aspect_ratio_grouping: pictures that lie and pictures that stand get batches of their own.
        image_format: "RGB" or "BGR", as the model says.
        loss_driven: lets shares follow losses; None: they stay.

    Raises:
        ConfigError: for numbers that do not fit, or shares of which none is above 0.
        DataError: for a data set without a box, labels outside its names, or splits that are not there.
    """
    hub = datasets if isinstance(datasets, Hub) else Hub(datasets)
    if not 0 < share <= 1:
        raise ConfigError(f"share={share} of the training pictures must be above 0, and at most 1")
    if num_workers * 2 >= AHEAD:
        raise ConfigError(f"num_workers={num_workers} is too many; at most {AHEAD // 2 - 1} read without losing the order")
    augmentations = [T.RandomFlip()] if augmentations is None else list(augmentations)
    make = partial(HubMapper, is_train=True, augmentations=augmentations, image_format=image_format)
    sources = _sources(hub, make, share, alpha)
    changes: list[Change] = []
    order = partial(HubStream, grouping=grouping, world=comm.get_world_size(), changes=changes)
    loader = build_train_loader(
        sources=sources,
        total_batch_size=total_batch_size,
        num_workers=num_workers,
        seed=seed,
        aspect_ratio_grouping=aspect_ratio_grouping,
        stream=order,
    )
    names, weights = [s.name for s in sources], [s.weight for s in sources]
    return HubTrainLoader(loader=loader, names=names, weights=weights, changes=changes, driver=loss_driven)

