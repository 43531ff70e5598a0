"""Tensors into modules, with a count of what fitted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from openvocab.errors import WeightsError

EXAMPLES = 5


@dataclass
class LoadReport:
    """What a load did, as sorted names.

    Attributes:
        matched: taken over.
        missing: of the module, not in the file; they keep their values.
        unexpected: in the file, not of the module.
        mismatched: in both, of another shape.
        shapes: of each mismatched name (in the file, in the module).
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line: counts, and up to five names of each kind that did not fit."""
        parts = [f"{len(self.matched)} tensors matched"]
        for what in ("missing", "unexpected", "mismatched"):
            names = getattr(self, what)
            if names:
                shown = ", ".join(map(self._describe, names[:EXAMPLES])) + (", ..." if len(names) > EXAMPLES else "")
                parts.append(f"{len(names)} {what} ({shown})")
        return "; ".join(parts)

    def _describe(self, name: str) -> str:
        if name not in self.shapes:
            return name
        given, own = self.shapes[name]
        return f"{name}: {list(given)} in the file, {list(own)} in the model"


def load_into(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    min_matched: int = 1,
    strict: bool = False,
    prefix: str = "",
    allow_nonfinite: bool = False,
) -> LoadReport:
    """Copy tensors into a module by exact name; all else of the module keeps its values.

    Nothing goes through a partial `load_state_dict`, on which detectron2's FrozenBatchNorm2d resets its statistics. If
    an error is raised, the module is as it was.

    A part of the module that has a method `before_load(tensors, prefix)` is asked first: it may make room for what the
    file brings (such as a hub's data sets), and put its own value in place of an entry that is no weight. It may return a
    function that undoes this, which is called if the load fails.

    Args:
        module: where to.
        tensors: from `load_weights`.
        min_matched: fewer matches than this are an error.
        strict: anything missing, unexpected or mismatched is an error.
        prefix: taken off the names in `tensors`; names without it are unexpected.
        allow_nonfinite: accept NaN and infinity.

    Raises:
        WeightsError: as above, with the counts and examples.
    """
    given = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    with ExitStack() as undo:
        for name, part in module.named_modules():
            if callable(getattr(part, "before_load", None)):
                undo.callback(part.before_load(given, f"{name}." if name else "") or _nothing)
        report, whole = _fit(module, tensors, given, prefix, min_matched, strict, allow_nonfinite)
        undo.pop_all()
    module.load_state_dict(whole)
    return report


def _nothing() -> None:
    """Undo what changed nothing."""


def _fit(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    prefix: str,
    min_matched: int,
    strict: bool,
    allow_nonfinite: bool,
) -> tuple[LoadReport, OrderedDict[str, object]]:
    """Return what fits, and the module's whole state with it; see `load_into` for arguments and errors."""
    own = module.state_dict()
    others = [k for k in tensors if not k.startswith(prefix)]
    report = _compare(own, given, others)
    if len(report.matched) < min_matched:
        found, hint = f"{len(report.matched)} of at least {min_matched} tensors fit", _prefix_hint(own, tensors)
        raise WeightsError(f"these weights are made for another architecture: {found} ({report}).{hint}")
    if strict and (report.missing or report.unexpected or report.mismatched):
        raise WeightsError(f"these weights do not fit exactly: {report}")
    cast = {k: given[k].to(own[k].dtype) for k in report.matched}
    if not allow_nonfinite:
        _refuse_nonfinite(cast)
    whole = OrderedDict({**own, **cast})
    whole._metadata = getattr(own, "_metadata", None)  # layer versions, so that nothing is "upgraded"
    return report, whole


def _compare(own: Mapping[str, object], given: Mapping[str, Tensor], others: list[str]) -> LoadReport:
    common = {k: own[k] for k in given if isinstance(own.get(k), Tensor)}
    shapes = {k: (tuple(given[k].shape), tuple(v.shape)) for k, v in common.items() if given[k].shape != v.shape}
    return LoadReport(
        matched=sorted(set(common) - set(shapes)),
        missing=sorted(set(own) - set(common)),
        unexpected=sorted({*others, *(k for k in given if k not in common)}),
        mismatched=sorted(shapes),
        shapes=shapes,
    )


def _refuse_nonfinite(tensors: Mapping[str, Tensor]) -> None:
    bad = [k for k, v in tensors.items() if (v.is_floating_point() or v.is_complex()) and not _finite(v)]
    if bad:
        raise WeightsError(
            f"{len(bad)} of {len(tensors)} tensors hold NaN or infinity, such as {bad[0]}: the training that wrote "
            "them had diverged; take an earlier checkpoint, or pass allow_nonfinite=True"
        )


def _finite(value: Tensor) -> bool:
    value = (
        value.float() if value.is_floating_point() and value.element_size() == 1 else value
    )  # float8 has no isfinite
    return bool(torch.isfinite(value).all())


def _prefix_hint(own: Iterable[str], given: Iterable[str]) -> str:
    """Say so, if names would fit with something in front of them taken off."""
    own, given = set(own), list(given)
    for name in given:
        parts = name.split(".")
        for cut in range(1, len(parts)):
            if ".".join(parts[cut:]) in own and "." in ".".join(parts[cut:]):
                return f" Names would fit without their beginning; pass prefix='{'.'.join(parts[:cut])}.'"
    ends = set(given)
    for name in own:
        parts = name.split(".")
        for cut in range(1, len(parts) - 1):
            if ".".join(parts[cut:]) in ends:
                return f" The names are those of a part of this model; load into its '{'.'.join(parts[:cut])}' instead"
    return ""
