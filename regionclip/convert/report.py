"""What became of each key of somebody else's checkpoint, and the check that a part of it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openvocab.errors import WeightsError

Shapes = dict[str, tuple[int, ...]]
EXAMPLES = 3


@dataclass
class ConversionReport:
    """What a conversion did.

    Attributes:
        variant: the image tower's name ("RN50", "RN50x4"), or its measures; "" if the file has none that we take.
        matched: their key -> ours.
        missing: keys of ours that this file does not bring; a part whose keys depend on a choice stands as "offline_rpn.*".
        dropped: their keys that are left out on purpose.
        unexpected: their keys that nobody knows.
        parts: a part of the file -> what became of it, in words.
    """

    variant: str = ""
    matched: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    parts: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = (
            f"{len(self.matched)} matched, {len(self.missing)} missing, {len(self.dropped)} dropped on purpose, "
            f"{len(self.unexpected)} unexpected"
        )
        return "; ".join([counts, *(f"{name}: {text}" for name, text in self.parts.items())])

    def drop(self, part: str, keys: list[str], why: str) -> None:
        """Note keys as left out on purpose, if there are any."""
        if keys:
            self.dropped += keys
            self.parts[part] = f"{len(keys)} tensors, {why}"


def without_wrapper(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the "module." of data-parallel training taken off.

    Raises:
        WeightsError: if it is empty, or something else than tensors by name.
    """
    if not isinstance(state_dict, Mapping) or not state_dict:
        raise WeightsError(f"a state dict of tensors by name is needed, not {_what(state_dict)}; read the file with load_weights")
    wrong = next((k for k, v in state_dict.items() if not isinstance(k, str) or not isinstance(v, Tensor)), None)
    if wrong is not None:
        raise WeightsError(
            f"'{wrong}' holds {_what(state_dict[wrong])}, no tensor: pass the checkpoint's 'model' or 'state_dict' entry"
        )
    if all(k.startswith("module.") for k in state_dict):
        return {k.removeprefix("module."): v for k, v in state_dict.items()}
    return dict(state_dict)


def _what(value: object) -> str:
    return "an empty one" if isinstance(value, Mapping) and not value else f"a {type(value).__name__}"


def take_part(
    tensors: Mapping[str, Tensor], table: Shapes, *, part: str, theirs: str, ours: str, report: ConversionReport
) -> dict[str, Tensor]:
    """Rename one part of a checkpoint by its table; all of it must be there.

    Args:
        tensors: the checkpoint.
        table: names and shapes of the part, without a prefix.
        part: what it is called in messages.
        theirs, ours: prefixes.
        report: gets what happened; other keys below `theirs` count as unexpected, but for BatchNorm's step counters.

    Returns:
        our names, float32.

    Raises:
        WeightsError: if a tensor of the table is missing, or has another shape.
    """
    absent = [k for k in table if theirs + k not in tensors]
    shapes = {k: tuple(tensors[theirs + k].shape) for k in table if k not in absent}
    wrong = [k for k, shape in shapes.items() if shape != table[k]]
    if absent or wrong:
        fit = len(table) - len(absent) - len(wrong)
        details = [f"missing are {_some(theirs, absent)}"] if absent else []
        details += [f"{theirs}{k} has shape {list(shapes[k])}, expected {list(table[k])}" for k in wrong[:EXAMPLES]]
        raise WeightsError(f"the {part} is not whole: {fit} of {len(table)} tensors fit; {'; '.join(details)}")
    rest = [k for k in tensors if k.startswith(theirs) and k.removeprefix(theirs) not in table]
    report.dropped += [k for k in rest if k.endswith(".num_batches_tracked")]
    report.unexpected += [k for k in rest if not k.endswith(".num_batches_tracked")]
    report.matched |= {theirs + k: ours + k for k in table}
    return {ours + k: as_float(tensors[theirs + k]) for k in table}


def as_float(value: Tensor) -> Tensor:
    """Return floating point numbers as float32 (CLIP's archives hold float16), others as they are."""
    return value.detach().to(torch.float32) if value.is_floating_point() else value.detach()


def _some(prefix: str, names: list[str]) -> str:
    shown = ", ".join(prefix + k for k in names[:EXAMPLES])
    return shown + (f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else "")


def last_index(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Return how many numbered children "<prefix>0.", "<prefix>1." ... the keys speak of: the highest number plus one."""
    numbers = [k[len(prefix) :].partition(".")[0] for k in tensors if k.startswith(prefix)]
    return max((int(n) + 1 for n in numbers if n.isdecimal()), default=0)


def dimension(tensors: Mapping[str, Tensor], key: str, axis: int, part: str, ndim: int) -> int:
    """Return the size of a tensor along an axis, which decides what the rest must look like.

    Raises:
        WeightsError: if the tensor is not there, or has not `ndim` axes.
    """
    if key not in tensors:
        raise WeightsError(f"the {part} is not whole: '{key}' is missing, which gives its size")
    if tensors[key].ndim != ndim:
        raise WeightsError(f"'{key}' has shape {list(tensors[key].shape)}; in a {part} it has {ndim} axes")
    return int(tensors[key].shape[axis])
