"""Few-shot curves of the three tuning modes on the small real sets, from the shipped weights (configs/glipv2/adapt)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from detectron2.data import transforms as T
from omegaconf import DictConfig
from regionclip_fitting import batches
from torch import Tensor, nn

from glipv2.modeling.trunk import Trunk
from glipv2.tuning import TunedGLIPv2
from openvocab.config import instantiate, load_config
from openvocab.data import DatasetMapper, FewShot, get_records
from openvocab.errors import DataError
from openvocab.evaluation import COCODetectionEvaluator, evaluate
from openvocab.io import load_into, load_weights

logger = logging.getLogger("claims")
SETS = {"deeppcb": (288, 288), "bccd": (240, 320), "aquarium": (240, 320)}  # (height, width) that all pictures get
MODES = {"zero-shot": None, "full tuning": "full", "linear probe": "linear_probe", "prompt tuning": "prompt"}
ZERO_SHOT = "zero-shot"


@dataclass(frozen=True)
class Budget:
    """How much of everything; `rates` in place of the configs', whose runs are longer."""

    shots: tuple[int, ...] = (1, 3, 5, 10)
    steps: int = 48
    batch: int = 2
    test: int = 40
    rates: dict[str, float] = field(default_factory=lambda: {"full": 1e-3, "linear_probe": 2e-2, "prompt": 0.1})


QUICK = Budget(shots=(1,), steps=1, batch=1, test=1)


@lru_cache
def words_of(mode: str) -> nn.Module:
    """Build a mode's text encoder once."""
    return instantiate(load_config(f"glipv2/adapt/{mode}").model.text_encoder)


@lru_cache
def weights_of(name: str) -> dict[str, Tensor]:
    """Read weights once."""
    return load_weights(name).tensors


class KeptTrunk:
    """What a frozen backbone makes of each picture, made once; pictures have one size.

    Args:
        model: its own `run_trunk` is called for pictures that are new.
    """

    def __init__(self, model: TunedGLIPv2) -> None:
        self.run, self.kept = model.run_trunk, {}
        self.asked: Sequence[Tensor] = ()  # last

    @torch.no_grad()
    def __call__(self, images: Sequence[Tensor]) -> Trunk:
        self.asked = list(images)
        for image in images:
            if id(image) not in self.kept:
                self.kept[id(image)] = image, self.run([image])
        parts = [self.kept[id(image)][1] for image in images]
        features = [torch.cat(level) for level in zip(*(p.features for p in parts), strict=True)]
        valid = [torch.cat(level) for level in zip(*(p.valid for p in parts), strict=True)]
        return Trunk(features, valid, parts[0].anchors, [s for p in parts for s in p.sizes])


class KeptTower(nn.Module):
    """What frozen blocks make of each picture with the one caption, made once; a block in their place.

    Args:
        trunk: knows which pictures are meant.
        blocks: of the model's head.
    """

    def __init__(self, trunk: KeptTrunk, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.trunk, self.run, self.kept = trunk, list(blocks.eval()), {}

    @torch.no_grad()
    def forward(
        self, features: list[Tensor], hidden: Tensor, text_mask: Tensor, valid: list[Tensor] | None
    ) -> tuple[list[Tensor], Tensor]:
        """As `GLIPv2Block`."""
        parts = []
        for i, image in zip(range(len(hidden)), self.trunk.asked, strict=True):
            key = id(image), hidden[i].numpy().tobytes()
            if key not in self.kept:
                one, words = [x[i : i + 1] for x in features], hidden[i : i + 1]
                inside = None if valid is None else [m[i : i + 1] for m in valid]
                for block in self.run:
                    one, words = block(one, words, text_mask[i : i + 1], inside)
                self.kept[key] = one, words
            parts.append(self.kept[key])
        return [torch.cat(level) for level in zip(*(p[0] for p in parts), strict=True)], torch.cat([p[1] for p in parts])


class Adapting:
    """One of the sets, and what is tuned on it.

    Args:
        name: of the set.
        budget: how much of everything.

    Raises:
        DataError: if the set is not on the disk.
    """

    def __init__(self, name: str, budget: Budget) -> None:
        self.name, self.budget = name, budget
        self.records, test = get_records(f"{name}_train"), get_records(f"{name}_val")
        resize = [T.Resize(SETS[name])]
        self.mapper = DatasetMapper(is_train=True, augmentations=resize)
        self.inputs: dict[object, dict] = {}
        step = max(len(test) // budget.test, 1)
        self.test = [DatasetMapper(is_train=False, augmentations=resize)(r) for r in test[::step][: budget.test]]
        self.kept: KeptTrunk | None = None
        self.tower: KeptTower | None = None

    def model(self, mode: str) -> tuple[TunedGLIPv2, DictConfig]:
        """Build a detector with the shipped weights, and its config."""
        cfg = load_config(f"glipv2/adapt/{mode}", [f"dataloader.dataset={self.name}"])
        cfg.model.text_encoder = copy.deepcopy(words_of(mode))  # prompt tuning hooks on to it, full tuning trains it
        model = instantiate(cfg.model)
        load_into(model, weights_of(cfg.train.init_checkpoint))
        if mode != "full":  # the same frozen backbone whatever else trains
            self.kept = self.kept or KeptTrunk(model)
            model.run_trunk = self.kept
        if mode == "linear_probe":
            self.tower = self.tower or KeptTower(self.kept, model.head.blocks)
            model.head.blocks = nn.ModuleList([self.tower])
        return model.eval(), cfg

    def input(self, record: dict) -> dict:
        """Map a training record once."""
        if record["image_id"] not in self.inputs:
            self.inputs[record["image_id"]] = self.mapper(record)
        return self.inputs[record["image_id"]]

    def judged(self, model: TunedGLIPv2) -> float:
        """AP50 on validation pictures."""
        evaluator = COCODetectionEvaluator(f"{self.name}_val")
        found = evaluate(model, batches(self.test, 8), evaluator, progress=False)
        return found["bbox"]["AP50"]

    def tuned(self, mode: str, shots: int, seed: int) -> float:
        """Tune on `shots` pictures of each class that the seed chooses; AP50."""
        torch.manual_seed(seed)
        model, cfg = self.model(mode)
        inputs = [self.input(r) for r in FewShot(shots=shots, seed=seed)(self.records)]
        cfg.optimizer._set_flag("allow_objects", True)
        cfg.optimizer.update(model=model, lr=self.budget.rates[mode])
        self.fit(model, instantiate(cfg.optimizer), inputs, seed)
        return self.judged(model)

    def fit(self, model: TunedGLIPv2, optimizer: torch.optim.Optimizer, inputs: list[dict], seed: int) -> None:
        """A short training with one cycle of the rate."""
        order, steps = torch.Generator().manual_seed(seed), self.budget.steps
        rates = [g["lr"] for g in optimizer.param_groups]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=steps + 1, pct_start=0.1)
        model.train()
        for _ in range(steps):
            rows = torch.randperm(len(inputs), generator=order)[: self.budget.batch].tolist()
            optimizer.zero_grad()
            sum(model([inputs[i] for i in rows]).values()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        model.eval()


def load_sets(budget: Budget) -> dict[str, Adapting]:
    """Read the sets that are on the disk, and say which are not."""
    found = {}
    for name in SETS:
        try:
            found[name] = Adapting(name, budget)
        except DataError as error:
            logger.warning("few-shot curves leave out %s: %s", name, error)
    return found


def measured(sets: dict[str, Adapting], budget: Budget, arm: str, seed: int) -> dict[str, float]:
    """AP50 of an arm on every set with every number of shots, and the share of the parameters that it trains."""
    mode = MODES[arm]
    if mode is None:
        result = {f"{n}: 0 shots": s.judged(s.model("linear_probe")[0]) for n, s in sets.items()}
        return {**result, "trained": 0.0}
    result = {f"{n}: {k} shots": s.tuned(mode, k, seed) for n, s in sets.items() for k in budget.shots}
    return {**result, "trained": share_of(mode)}


@lru_cache
def share_of(mode: str) -> float:
    """Percent of the parameters that train, the text encoder's too."""
    cfg = load_config(f"glipv2/adapt/{mode}")
    cfg.model.text_encoder = copy.deepcopy(words_of(mode))
    sizes = [(p.numel(), p.requires_grad) for p in instantiate(cfg.model).parameters()]
    return 100 * sum(n for n, trains in sizes if trains) / sum(n for n, _ in sizes)
