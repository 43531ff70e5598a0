"""Names and shapes of the networks in RegionCLIP's and CLIP's files, made from their measures (no list of strings).

Source: He et al. 2015 (bottleneck), Radford et al. 2021 (ModifiedResNet, text transformer), Lin et al. 2017 (FPN).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from openvocab.errors import WeightsError

from .report import Shapes, dimension, last_index

STAGES = 4
EXPANSION = 4
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def _norm(name: str, channels: int) -> Shapes:
    return {f"{name}.{k}": (channels,) for k in _BATCH_NORM}


def _linear(name: str, inside: int, outside: int) -> Shapes:
    return {f"{name}.weight": (outside, inside), f"{name}.bias": (outside,)}


def _layer_norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


@dataclass(frozen=True)
class ClipResNet:
    """Measures of CLIP's ModifiedResNet.

    Attributes:
        blocks: of each stage.
        width: channels after the stem.
        embed_dim: D, of the common space.
        side: of the grid that the attention pool takes.
    """

    blocks: tuple[int, ...]
    width: int
    embed_dim: int
    side: int

    @property
    def name(self) -> str:
        """CLIP's name ("RN50"), or the measures of a tower that CLIP never published."""
        known = next((n for n, v in VARIANTS.items() if v == self), None)
        return known or f"ModifiedResNet of {'-'.join(map(str, self.blocks))} blocks, width {self.width}, D {self.embed_dim}"

    def shapes(self) -> Shapes:
        """Names and shapes without a prefix."""
        half, out = self.width // 2, self.width * 2 ** (STAGES + 1)
        result: Shapes = {}
        for i, (a, b) in enumerate(((3, half), (half, half), (half, self.width)), start=1):
            result |= {f"conv{i}.weight": (b, a, 3, 3), **_norm(f"bn{i}", b)}
        channels = self.width
        for stage, count in enumerate(self.blocks):
            inner = self.width * 2**stage
            for block in range(count):
                result |= _clip_block(f"layer{stage + 1}.{block}", channels, inner, shortcut=block == 0)
                channels = inner * EXPANSION
        result["attnpool.positional_embedding"] = (self.side**2 + 1, out)
        for name in ("k_proj", "q_proj", "v_proj"):
            result |= _linear(f"attnpool.{name}", out, out)
        return result | _linear("attnpool.c_proj", out, self.embed_dim)

    @staticmethod
    def read(tensors: Mapping[str, Tensor], prefix: str) -> ClipResNet:
        """Read the measures off the keys and four shapes.

        Raises:
            WeightsError: if a tensor that gives a measure is missing, or a published width has a depth of its own (blocks are
                missing as a whole).
        """
        part = "image tower"
        tokens = dimension(tensors, f"{prefix}attnpool.positional_embedding", 0, part, 2)
        side = math.isqrt(max(tokens - 1, 0))
        if side * side != tokens - 1 or side == 0:
            raise WeightsError(f"'{prefix}attnpool.positional_embedding' has {tokens} rows; one more than a square was expected")
        found = ClipResNet(
            blocks=tuple(last_index(tensors, f"{prefix}layer{i}.") for i in range(1, STAGES + 1)),
            width=dimension(tensors, f"{prefix}conv3.weight", 0, part, 4),
            embed_dim=dimension(tensors, f"{prefix}attnpool.c_proj.weight", 0, part, 2),
            side=side,
        )
        depths = {v.blocks for v in VARIANTS.values() if v.width == found.width}
        if depths and found.blocks not in depths:
            raise WeightsError(
                f"the {part} is not whole: its stages have {', '.join(map(str, found.blocks))} blocks; at width {found.width} "
                f"CLIP has {' or '.join(', '.join(map(str, d)) for d in sorted(depths))}"
            )
        return found


VARIANTS = {
    "RN50": ClipResNet((3, 4, 6, 3), 64, 1024, 7),
    "RN101": ClipResNet((3, 4, 23, 3), 64, 512, 7),
    "RN50x4": ClipResNet((4, 6, 10, 6), 80, 640, 9),
    "RN50x16": ClipResNet((6, 8, 18, 8), 96, 768, 12),
    "RN50x64": ClipResNet((3, 15, 36, 10), 128, 1024, 14),
}


def _clip_block(name: str, before: int, inner: int, *, shortcut: bool) -> Shapes:
    result: Shapes = {}
    for i, (a, b, kernel) in enumerate(((before, inner, 1), (inner, inner, 3), (inner, inner * EXPANSION, 1)), start=1):
        result |= {f"{name}.conv{i}.weight": (b, a, kernel, kernel), **_norm(f"{name}.bn{i}", b)}
    if shortcut:
        out = inner * EXPANSION
        result |= {f"{name}.downsample.0.weight": (out, before, 1, 1), **_norm(f"{name}.downsample.1", out)}
    return result


def text_shapes(tensors: Mapping[str, Tensor], prefix: str) -> Shapes:
    """Names and shapes of CLIP's text tower, its measures read off the file.

    Raises:
        WeightsError: if a tensor that gives a measure is missing.
    """
    part = "text tower"
    words = dimension(tensors, f"{prefix}token_embedding.weight", 0, part, 2)
    width = dimension(tensors, f"{prefix}token_embedding.weight", 1, part, 2)
    length = dimension(tensors, f"{prefix}positional_embedding", 0, part, 2)
    out = dimension(tensors, f"{prefix}text_projection", 1, part, 2)
    result: Shapes = {
        "positional_embedding": (length, width),
        "token_embedding.weight": (words, width),
        "text_projection": (width, out),
        **_layer_norm("ln_final", width),
    }
    for i in range(last_index(tensors, f"{prefix}transformer.resblocks.")):
        block = f"transformer.resblocks.{i}"
        result |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        result |= _linear(f"{block}.attn.out_proj", width, width)
        result |= _linear(f"{block}.mlp.c_fc", width, 4 * width) | _linear(f"{block}.mlp.c_proj", 4 * width, width)
        result |= _layer_norm(f"{block}.ln_1", width) | _layer_norm(f"{block}.ln_2", width)
    return result


def resnet_shapes(tensors: Mapping[str, Tensor], prefix: str) -> Shapes:
    """Names and shapes of detectron2's bottleneck ResNet, as far as its stages go (res4 in a C4 model, res5 below an FPN).

    Raises:
        WeightsError: if a tensor that gives a measure is missing.
    """
    part = "offline RPN's backbone"
    channels = dimension(tensors, f"{prefix}stem.conv1.weight", 0, part, 4)
    result: Shapes = {"stem.conv1.weight": (channels, 3, 7, 7), **_norm("stem.conv1.norm", channels)}
    inner = dimension(tensors, f"{prefix}res2.0.conv1.weight", 0, part, 4)
    out = dimension(tensors, f"{prefix}res2.0.conv3.weight", 0, part, 4)
    for stage in range(last_stage(tensors, prefix) - 1):
        for block in range(last_index(tensors, f"{prefix}res{stage + 2}.")):
            name = f"res{stage + 2}.{block}"
            sizes = ((channels, inner, 1), (inner, inner, 3), (inner, out, 1))
            for i, (a, b, kernel) in enumerate(sizes, start=1):
                result |= {f"{name}.conv{i}.weight": (b, a, kernel, kernel), **_norm(f"{name}.conv{i}.norm", b)}
            if channels != out:  # detectron2 has a shortcut only where the channels change
                result |= {f"{name}.shortcut.weight": (out, channels, 1, 1), **_norm(f"{name}.shortcut.norm", out)}
            channels = out
        inner, out = inner * 2, out * 2
    return result


def last_stage(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Return the number of a ResNet's last stage: 5 of res2 .. res5."""
    numbers = [k[len(prefix) + 3 :].partition(".")[0] for k in tensors if k.startswith(f"{prefix}res")]
    return max((int(n) for n in numbers if n.isdecimal()), default=1)


def fpn_shapes(tensors: Mapping[str, Tensor], prefix: str) -> Shapes:
    """Names and shapes of an FPN over a ResNet; its convolutions have a bias, or a norm instead (large-scale jittering).

    Raises:
        WeightsError: if a tensor that gives a measure is missing.
    """
    below = resnet_shapes(tensors, f"{prefix}bottom_up.")
    result = {f"bottom_up.{k}": shape for k, shape in below.items()}
    channels = dimension(tensors, f"{prefix}fpn_output2.weight", 0, "offline RPN's FPN", 4)
    normed = f"{prefix}fpn_output2.norm.weight" in tensors
    for level in range(2, last_stage(tensors, f"{prefix}bottom_up.") + 1):
        inside = below.get(f"res{level}.0.conv3.weight", (0,))[0]
        for name, a, kernel in ((f"fpn_lateral{level}", inside, 1), (f"fpn_output{level}", channels, 3)):
            result[f"{name}.weight"] = (channels, a, kernel, kernel)
            result |= _norm(f"{name}.norm", channels) if normed else {f"{name}.bias": (channels,)}
    return result


def rpn_head_shapes(tensors: Mapping[str, Tensor], prefix: str, channels: int) -> Shapes:
    """Names and shapes of detectron2's `StandardRPNHead` on `channels`: one 3 x 3 convolution, or several.

    Raises:
        WeightsError: if a tensor that gives a measure is missing.
    """
    part = "offline RPN's head"
    several = last_index(tensors, f"{prefix}conv.conv")
    names = [f"conv.conv{i}" for i in range(several)] if several else ["conv"]
    result: Shapes = {}
    for name in names:
        out = dimension(tensors, f"{prefix}{name}.weight", 0, part, 4)
        result |= {f"{name}.weight": (out, channels, 3, 3), f"{name}.bias": (out,)}
        channels = out
    anchors = dimension(tensors, f"{prefix}objectness_logits.weight", 0, part, 4)
    for name, count in (("objectness_logits", anchors), ("anchor_deltas", 4 * anchors)):
        result |= {f"{name}.weight": (count, channels, 1, 1), f"{name}.bias": (count,)}
    return result
