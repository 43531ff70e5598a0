"""ConventionShapes of one seed as a hub's data sets, and detectors that are trained on them."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from detectron2.utils.events import EventStorage
from fvcore.common.param_scheduler import CosineParamScheduler
from torch import nn

from detection_hub.data import Hub, HubDataset, build_hub_loader
from detection_hub.modeling import DetectionHub
from openvocab.config import instantiate, load_config
from openvocab.engine import build_adamw
from openvocab.testing.convention_shapes import CONVENTION_SETS, SAME_NAMES_SETS, SIDE, ConventionSet
from openvocab.testing.conventions import get_rule
from openvocab.testing.shapes import FIGURES
from openvocab.testing.writer import register_shapes, write_convention
from openvocab.text import BertTextEncoder

logger = logging.getLogger("claims")
_number = itertools.count()  # of data set names in this process
DIFFERENT, SAME = "different names", "same names"
WORLDS: Mapping[str, Mapping[str, ConventionSet]] = {DIFFERENT: CONVENTION_SETS, SAME: SAME_NAMES_SETS}
MODEL = "configs/detection_hub/models/detection_hub_shapes.py"
SEPARATE = ("sep_equal_compute", "sep_equal_steps")
STATIC = "masked"  # the hub's arm that a detector of one set is
MINILM = "full_minilm"
BATCH, RATE, DECAY, CLIP = 8, 6e-4, 1e-4, 1.0
SIZES = {"min_sizes": [SIDE], "max_size": SIDE, "test_size": SIDE}


@dataclass(frozen=True)
class Budget:
    """Pictures of each set, and steps of a joint detector in each world."""

    train: int = 200
    test: int = 100
    steps: int = 450
    same_names_steps: int = 450

    def of(self, world: str) -> int:
        return self.steps if world == DIFFERENT else self.same_names_steps


QUICK = Budget(train=9, test=8, steps=3, same_names_steps=2)


def unknown_sets(world: str) -> list[tuple[ConventionSet, ConventionSet]]:
    """Return pairs of sets with the same pictures and names; the first's flags are declared, the second has another rule's boxes.

    Same names: each of both sets. Else a list of names that no set has: all tight, and all loose.
    """
    if world == SAME:
        one, other = SAME_NAMES_SETS.values()
        return [(one, replace(one, rules=other.rules)), (other, replace(other, rules=one.rules))]
    tight, loose = (ConventionSet("four", FIGURES, (get_rule(r),) * len(FIGURES)) for r in ("tight", "loose:1.4"))
    return [(tight, loose), (loose, tight)]


class Conventions:
    """The sets of one seed, and what is trained on them.

    Args:
        folder: where pictures are written.
        seed: of pictures, weights and order.
        budget: how much of everything.
    """

    def __init__(self, folder: Path, seed: int, budget: Budget) -> None:
        self.folder, self.seed, self.budget, self.number = folder, seed, budget, next(_number)
        self._registered: dict[tuple[ConventionSet, str], str] = {}
        self._fitted: dict[tuple[str, str], list[tuple[DetectionHub, Hub]]] = {}

    def split(self, convention: ConventionSet, split: str) -> str:
        """Write and register a set's pictures, once; return their name."""
        key = (convention, split)
        if key not in self._registered:
            place = len(self._registered)
            num = self.budget.train if split == "train" else self.budget.test
            written = write_convention(self.folder / str(place), num, self.seed, convention=convention, split=split)
            self._registered[key] = f"hub_claims_{self.number}_{place}_{convention.name}_{split}"
            register_shapes(self._registered[key], written)
        return self._registered[key]

    def hub(self, world: str) -> Hub:
        """Return all sets of a world."""
        return Hub(
            [
                HubDataset(
                    name=convention.name,
                    train=self.split(convention, "train"),
                    test=self.split(convention, "test"),
                    classes=list(convention.classes),
                    flags=list(convention.flags),
                    **SIZES,
                )
                for convention in WORLDS[world].values()
            ]
        )

    def fitted(self, arm: str, world: str) -> list[tuple[DetectionHub, Hub]]:
        """Train an arm's detectors, and return each with its sets: one of all, or one a set.

        Where names are the same, "naive" is "masked": there is no foreign name.
        """
        arm = STATIC if (arm, world) == ("naive", SAME) else arm
        if (arm, world) not in self._fitted:
            hub, steps = self.hub(world), self.budget.of(world)
            hubs = [hub.only(name) for name in hub.names] if arm in SEPARATE else [hub]
            steps = max(steps // len(hubs), 1) if arm == SEPARATE[0] else steps
            own = STATIC if arm in SEPARATE else arm
            self._fitted[arm, world] = [(fit(build(own, h, self.seed), h, steps=steps, seed=self.seed), h) for h in hubs]
        return self._fitted[arm, world]


def build(arm: str, hub: Hub, seed: int) -> DetectionHub:
    """Build an arm's detector with random weights."""
    torch.manual_seed(seed)
    node = load_config(MODEL).model
    node.hub.arm = "full" if arm == MINILM else arm
    if arm == MINILM:
        node.hub.embeddings.text_encoder = L(BertTextEncoder)(source="minilm", frozen=True)
        node.hub.embeddings.reference = "coco"  # four names have no mean that others share
    model = instantiate(node)
    model.set_datasets(hub.contexts())
    return model


def fit(model: DetectionHub, hub: Hub, *, steps: int, seed: int) -> DetectionHub:
    """Train: AdamW, one cycle of the rate, gradients cut, batches of one set, each set as often as the others.

    Returns:
        the model, in evaluation mode.
    """
    start = time.perf_counter()
    torch.manual_seed(seed)
    loader = build_hub_loader(
        datasets=hub, total_batch_size=BATCH, seed=seed, grouping="per_step", alpha=0.0, aspect_ratio_grouping=False
    )
    optimizer = build_adamw(model=model, lr=RATE, weight_decay=DECAY)
    cycle = WarmupParamScheduler(CosineParamScheduler(1.0, 0.02), 0.1, 0.05)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cycle(min(step, steps - 1) / steps))
    model.train()
    with EventStorage():
        for batch in itertools.islice(loader, steps):
            losses = model(batch)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            rates.step()
    ends = ", ".join(f"{k} {float(v.detach()):.2f}" for k, v in losses.items() if k.count("_") == 1)
    logger.debug("%d steps in %.0f s: %s", steps, time.perf_counter() - start, ends)
    return model.eval()
