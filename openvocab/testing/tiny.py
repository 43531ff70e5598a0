"""Models small enough for a test: their shapes are those of the real thing, their numbers are not."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from openvocab.errors import ConfigError, missing

# for BertTextEncoder(source=None, config=TINY_BERT): random weights, the tokenizer of BERT-base
TINY_BERT: dict[str, int | float] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# in the form of open_clip's model files; the tokenizer of CLIP
TINY_CLIP: dict[str, int | dict[str, int]] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def tiny_clip(name: str = "openvocab-tiny-clip") -> str:
    """Make the model `TINY_CLIP` known to open_clip; return its name, for CLIPTextEncoder(model=...).

    Raises:
        MissingDependencyError: without open_clip.
    """
    try:
        import open_clip
    except ImportError as error:
        raise missing("open_clip_torch", "clip") from error
    if name not in open_clip.list_models():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.json"
            path.write_text(json.dumps(TINY_CLIP), encoding="utf-8")
            open_clip.add_model_config(path)
    return name


class TinyBackbone(Backbone):
    """A few convolutions with a pyramid's outputs; no pretrained weights, and no batch statistics.

    Args:
        channels: C of every output; a multiple of 4.
        in_channels: of the picture.
        first, last: the levels; level l has stride 2**l and is called "p<l>".
        top_down: add each coarser level to the next finer one, as an FPN.
        groups: of the group norms; as many as channels takes a picture's overall colour away.

    Raises:
        ConfigError: for levels or channels that make no pyramid, or groups that do not divide the channels.
    """

    def __init__(
        self, *, channels: int = 16, in_channels: int = 3, first: int = 3, last: int = 5, top_down: bool = True, groups: int = 4
    ) -> None:
        super().__init__()
        if channels < 4 or channels % 4 or groups < 1 or channels % groups or not 1 <= first <= last:
            raise ConfigError(
                f"TinyBackbone: channels={channels} must be a multiple of 4 and of groups={groups},"
                f" and first={first}, last={last} two levels in order, from 1 on"
            )
        self.levels, self.top_down = list(range(first, last + 1)), top_down
        steps = [self._step(in_channels if i == 0 else channels, channels, groups) for i in range(last)]
        self.stem = nn.Sequential(*steps[:first])
        self.stages = nn.ModuleList(steps[first:])
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in self.levels)
        self._out_features = [f"p{level}" for level in self.levels]
        self._channels = channels

    @staticmethod
    def _step(inputs: int, outputs: int, groups: int) -> nn.Sequential:
        """Halve the resolution."""
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GroupNorm(groups, outputs), nn.ReLU())

    @property
    def size_divisibility(self) -> int:
        """Pictures are padded to a multiple of the coarsest stride."""
        return 2 ** self.levels[-1]

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every output."""
        return {f"p{level}": ShapeSpec(channels=self._channels, stride=2**level) for level in self.levels}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the pyramid.

        Args:
            x: (B, in_channels, H, W).

        Returns:
            "p<l>": (B, C, H / 2**l, W / 2**l), rounded up, from fine to coarse.
        """
        features = [self.stem(x)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        if self.top_down:
            for i in range(len(features) - 2, -1, -1):
                features[i] = features[i] + F.interpolate(features[i + 1], size=features[i].shape[-2:], mode="nearest")
        return {f"p{level}": conv(f) for level, conv, f in zip(self.levels, self.outputs, features, strict=True)}


def tiny_picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Return a random picture, (3, H, W) uint8; the same at every call."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
