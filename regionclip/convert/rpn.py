"""Offline RPN: whole Mask R-CNN checkpoints of detectron2, of which backbone and proposal generator are used."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from openvocab.errors import WeightsError

from .keys import fpn_shapes, resnet_shapes, rpn_head_shapes
from .report import ConversionReport, Shapes, as_float, take_part, without_wrapper

OURS = "offline_rpn."
_ALONE = ("backbone.", "proposal_generator.")
_INSIDE = ("offline_backbone.", "offline_proposal_generator.")
_CONSTANT = "anchor_generator.cell_anchors."  # old files save the anchors, which the config gives


def has_rpn(tensors: Mapping[str, Tensor], prefixes: tuple[str, str] = _INSIDE) -> bool:
    """Say whether a checkpoint has a proposal generator, or a backbone that serves none but it."""
    return any(k.startswith(prefixes[1]) or (prefixes == _INSIDE and k.startswith(prefixes[0])) for k in tensors)


def take_rpn(tensors: Mapping[str, Tensor], report: ConversionReport, prefixes: tuple[str, str] = _INSIDE) -> dict[str, Tensor]:
    """Rename backbone and proposal generator to "offline_rpn.*".

    Args:
        tensors: with both, under these prefixes.
        report: gets what happened.
        prefixes: of the backbone and the proposal generator.

    Raises:
        WeightsError: if either is not whole, or the backbone is no ResNet of detectron2.
    """
    theirs, head = prefixes
    if f"{theirs}conv3.weight" in tensors or f"{theirs}bottom_up.conv3.weight" in tensors:
        raise WeightsError(
            f"the RPN's backbone ('{theirs}*') is CLIP's ModifiedResNet, not detectron2's ResNet; take an RPN such as "
            "rpn_coco_48.pth, rpn_lvis_866.pth or rpn_lvis_866_lsj.pth"
        )
    pyramid = any(k.startswith((f"{theirs}bottom_up.", f"{theirs}fpn_")) for k in tensors)
    table = fpn_shapes(tensors, theirs) if pyramid else resnet_shapes(tensors, theirs)
    result = take_part(tensors, table, part="offline RPN's backbone", theirs=theirs, ours=f"{OURS}backbone.", report=report)
    channels = _channels(table, pyramid)
    heads = {k: v for k, v in tensors.items() if not k.startswith(head + _CONSTANT)}
    report.drop("anchors", [k for k in tensors if k.startswith(head + _CONSTANT)], "given by the config")
    shapes = {f"rpn_head.{k}": v for k, v in rpn_head_shapes(heads, f"{head}rpn_head.", channels).items()}
    ours = f"{OURS}proposal_generator."
    result |= take_part(heads, shapes, part="offline RPN's head", theirs=head, ours=ours, report=report)
    kind = "FPN" if pyramid else "C4"
    kind += " with norms (LSJ)" if "fpn_output2.norm.weight" in table else ""
    report.parts["offline_rpn"] = f"{kind}, {len(result)} tensors"
    return {k: as_float(v) for k, v in result.items()}


def _channels(table: Shapes, pyramid: bool) -> int:
    """Return the channels of the maps that the head sees: the FPN's, or those of the last stage."""
    return table["fpn_output2.weight"][0] if pyramid else max(v[0] for k, v in table.items() if k.endswith(".conv3.weight"))


def from_rpn(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ConversionReport]:
    """Rename the RPN of an official "rpn_*.pth", of detectron2's own Mask R-CNN (R-50-C4, R-50-FPN, also with SyncBN and a
    two-layer head as in the LSJ variant), or of a whole RegionCLIP checkpoint.

    Load the result by `openvocab.io.load_into`, which leaves all else of the model as it is. (A partial
    `load_state_dict` over the whole model resets every FrozenBatchNorm2d to mean 0 and variance 1: the "AP 0" of the
    official code.)

    Args:
        state_dict: the file's "model" entry.

    Returns:
        "offline_rpn.backbone.*" and "offline_rpn.proposal_generator.*", float32, and a report.

    Raises:
        WeightsError: if there is no RPN in it, or one that is not whole.
    """
    tensors, report = without_wrapper(state_dict), ConversionReport()
    prefixes = _INSIDE if has_rpn(tensors) else _ALONE
    if not has_rpn(tensors, prefixes):
        begins = sorted({k.partition(".")[0] for k in tensors})
        raise WeightsError(
            f"there is no RPN among these {len(tensors)} tensors: no name begins with 'proposal_generator.' or "
            f"'offline_proposal_generator.' (they begin with {', '.join(begins[:6])}); give a file such as rpn_coco_48.pth or "
            "rpn_lvis_866.pth, or a whole Mask R-CNN checkpoint of detectron2"
        )
    result = take_rpn(tensors, report, prefixes)
    rest = [k for k in tensors if not k.startswith(prefixes)]
    report.drop("other parts", rest, "not of the RPN")
    return result, report
