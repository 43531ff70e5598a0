"""Other people's weights in terms of our modules: PeizeSun/SparseR-CNN's checkpoints, where classifier and queries may differ, and
torchvision's ResNets for the backbone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openvocab.errors import WeightsError

FEATURES, BOXES = "init_proposal_features.weight", "init_proposal_boxes.weight"
NOISE = 1e-2  # tells repeated queries apart
_KNOWN = re.compile(
    r"(backbone\.|init_proposal_(features|boxes)\.weight$|head\.head_series\.\d+\."
    r"(self_attn\.(in_proj_|out_proj\.)(weight|bias)|inst_interact\.(dynamic_layer|norm[123]|out_layer)\.(weight|bias)|"
    r"(linear[12]|norm[123])\.(weight|bias)|(cls|reg)_module\.\d+\.(weight|bias)|(class_logits|bboxes_delta)\.(weight|bias))$)"
)
_CLASSIFIER = re.compile(r"head\.head_series\.\d+\.class_logits\.")
_DROPPED = re.compile(r"(pixel_mean|pixel_std|criterion\.empty_weight)$")
_STAGE = re.compile(r"head\.head_series\.(\d+)\.(.+)")
BACKBONE = "backbone.bottom_up."
_LEAF = r"\.(?P<leaf>weight|bias|running_mean|running_var)$"
_STEM = re.compile(r"(?P<kind>conv|bn)1" + _LEAF)
_BLOCK = re.compile(
    r"layer(?P<stage>[1-4])\.(?P<block>\d+)\.((?P<kind>conv|bn)(?P<place>[123])|downsample\.(?P<side>[01]))" + _LEAF
)
_LEFT_OUT = re.compile(r"fc\.(weight|bias)$|.*num_batches_tracked$")


@dataclass
class ConversionReport:
    """What became of each key.

    Attributes:
        matched: official key -> ours.
        missing: keys that a whole checkpoint of so many stages has and this one has not; of a ResNet, the first of each stage.
        dropped: left out on purpose: the classifier of fixed names where a hub takes its place, and buffers made anew.
        unexpected: unknown; left out.
        queries: (number in the file, number returned); (0, 0) for a backbone.
    """

    matched: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    queries: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        counts = ", ".join(f"{len(getattr(self, k))} {k}" for k in ("matched", "missing", "dropped", "unexpected"))
        return f"{counts}; queries {self.queries[0]} -> {self.queries[1]}" if any(self.queries) else counts


def from_sparse_rcnn(
    state_dict: Mapping[str, Tensor], *, num_queries: int | None = None, keep_classifier: bool = False, seed: int = 0
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Take the tensors of a Sparse R-CNN checkpoint (its "model" entry).

    Args:
        state_dict: official names, with or without "module.".
        num_queries: N of our model; None: that of the file. More queries than the file has are its own once more, with noise of
            standard deviation 0.01; fewer are its first.
        keep_classifier: keep `class_logits`, for a model without a hub.
        seed: of the noise.

    Returns:
        a state dict for `DetectionHub` with a `DynamicHead`, and a report.

    Raises:
        WeightsError: if nothing in it is Sparse R-CNN's, or `num_queries` is below 1.
    """
    keys = list(state_dict)
    strip = "module." if keys and all(k.startswith("module.") for k in keys) else ""
    report, result = ConversionReport(), {}
    for key in keys:
        name = key.removeprefix(strip)
        if _DROPPED.search(name) or (_CLASSIFIER.match(name) and not keep_classifier):
            report.dropped.append(key)
        elif _KNOWN.match(name):
            report.matched[key], result[name] = name, state_dict[key]
        else:
            report.unexpected.append(key)
    if not any(_STAGE.match(name) for name in result):
        raise WeightsError(
            f"none of the {len(keys)} tensors has a name of PeizeSun/SparseR-CNN's, such as head.head_series.0.linear1.weight"
        )
    report.missing = _missing(result, keep_classifier)
    _change_queries(result, report, num_queries, seed)
    return result, report


def _missing(result: Mapping[str, Tensor], keep_classifier: bool) -> list[str]:
    """Each stage should have what any stage has; and the queries should be there."""
    stages: dict[int, set[str]] = {}
    for name in result:
        if match := _STAGE.match(name):
            stages.setdefault(int(match[1]), set()).add(match[2])
    every = set().union(*stages.values()) | ({"class_logits.weight", "class_logits.bias"} if keep_classifier else set())
    lacking = [f"head.head_series.{k}.{n}" for k in range(max(stages) + 1) for n in sorted(every - stages.get(k, set()))]
    return [n for n in (FEATURES, BOXES) if n not in result] + lacking


def _change_queries(result: dict[str, Tensor], report: ConversionReport, wanted: int | None, seed: int) -> None:
    if FEATURES not in result or BOXES not in result:
        return
    have = len(result[FEATURES])
    wanted = have if wanted is None else wanted
    if wanted < 1:
        raise WeightsError(f"num_queries={wanted} must be at least 1")
    report.queries = (have, wanted)
    generator = torch.Generator().manual_seed(seed)
    for name in (FEATURES, BOXES):
        value = result[name]
        rows = value.repeat(-(-wanted // have), *[1] * (value.ndim - 1))[:wanted].clone()
        if wanted > have:
            rows[have:] += NOISE * torch.randn(rows[have:].shape, generator=generator).to(rows)
        result[name] = rows


def from_resnet(state_dict: Mapping[str, Tensor], *, prefix: str = BACKBONE) -> tuple[dict[str, Tensor], ConversionReport]:
    """Take a ResNet of torchvision (ImageNet weights) as the backbone of a detector, in detectron2's names.

    torchvision's stride stands in the 3 x 3 convolution and its pictures are RGB / 255 less a mean: as in detection_hub_r50.py.

    Args:
        state_dict: "conv1.weight", "layer1.0.conv1.weight", ...
        prefix: of our names.

    Returns:
        the backbone's tensors, and a report; `openvocab.io.load_into` and `train.init_checkpoint` leave all else as it is.

    Raises:
        WeightsError: if nothing in it is a ResNet's.
    """
    report, result = ConversionReport(), {}
    for key, value in state_dict.items():
        name = _resnet_name(key)
        if name is not None:
            report.matched[key], result[prefix + name] = prefix + name, value
        else:
            (report.dropped if _LEFT_OUT.match(key) else report.unexpected).append(key)
    if not result:
        raise WeightsError(f"none of the {len(state_dict)} tensors is named as torchvision's ResNets' are (layer1.0.conv1.weight)")
    whole = ["stem.conv1.weight", *(f"res{stage}.0.conv1.weight" for stage in (2, 3, 4, 5))]
    report.missing = [prefix + name for name in whole if prefix + name not in result]
    return result, report


def _resnet_name(key: str) -> str | None:
    """torchvision's name of a ResNet's tensor -> detectron2's; None for another."""
    if found := _STEM.match(key):
        return f"stem.conv1.{_part(found['kind'])}{found['leaf']}"
    if not (found := _BLOCK.match(key)):
        return None
    place = "shortcut" if found["side"] else f"conv{found['place']}"
    kind = found["kind"] or ("bn" if found["side"] == "1" else "conv")
    return f"res{int(found['stage']) + 1}.{found['block']}.{place}.{_part(kind)}{found['leaf']}"


def _part(kind: str) -> str:
    return "norm." if kind == "bn" else ""


def warm_alignment(class_weight: Tensor, text: Tensor) -> Tensor:
    """Return a projection W (t, D) of region features under which names score as an old classifier's rows did, up to scale.

    The least-squares solution of text @ W = class_weight, row lengths apart: cosine scores have none (ours).

    Args:
        class_weight: (C, D), a stage's `class_logits.weight`.
        text: (C, t), `CategoryEmbeddings` of the classifier's names in its order.

    Raises:
        WeightsError: if there are not as many names as rows.
    """
    if len(class_weight) != len(text):
        raise WeightsError(f"a classifier of {len(class_weight)} rows and {len(text)} names: the names must be its own, in order")
    return torch.linalg.lstsq(text.double(), class_weight.double(), driver="gelsd").solution.to(class_weight.dtype)
