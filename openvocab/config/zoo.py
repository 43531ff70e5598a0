"""Models by name: their config, weights and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from openvocab.errors import ConfigError, WeightsError, nearest


@dataclass(frozen=True)
class ZooEntry:
    """One model.

    Attributes:
        config: name of its config.
        weights: file inside the package, below openvocab/weights; None if the config needs none.
        sha256: of that file.
        licence: of the weights.
        note: in one line, what it is.
    """

    config: str
    weights: str | None = None
    sha256: str = ""
    licence: str = "Apache-2.0"
    note: str = field(default="", compare=False)

    def weights_path(self) -> Path | None:
        """Return the weight file.

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
            raise WeightsError(f"{path} is damaged: its sha256 is not {self.sha256[:12]}...")
        return path


ZOO: dict[str, ZooEntry] = {
    "default": ZooEntry(
        config="glipv2/default",
        weights="default.safetensors",
        sha256="",
        note="glipv2_mini trained on five small real sets, with the bridge as a prior for rare and unseen names",
    ),
}


def find_model(name: str) -> ZooEntry:
    """Return the entry of a model ("zoo://default" or "default").

    Raises:
        ConfigError: with the nearest names.
    """
    name = name.removeprefix("zoo://")
    if name not in ZOO:
        raise ConfigError(f"there is no model '{name}'.{nearest(name, ZOO)} Known: {', '.join(ZOO)}")
    return ZOO[name]
