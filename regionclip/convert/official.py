"""Checkpoints of microsoft/RegionCLIP, pretrained and fine-tuned, in terms of our modules."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from openvocab.errors import WeightsError

from .clip import BACKBONE, is_text, take_image_tower
from .report import ConversionReport, Shapes, dimension, take_part, without_wrapper
from .rpn import has_rpn, take_rpn

BOX, MASK = "roi_heads.box_predictor.", "roi_heads.mask_head."
CLASSES = f"{BOX}class_embeddings"
_SCORES = {"test": ("test_cls_score.weight", "cls_score.weight"), "train": ("cls_score.weight", "test_cls_score.weight")}
_TEACHER = ("teacher_backbone.", "teacher_roi_heads.")
_CONSTANTS = ("pixel_mean", "pixel_std", "concept_emb", "teacher_concept_emb", "logit_scale")


def from_official(
    state_dict: Mapping[str, Tensor], *, classes: str = "test", variant: str | None = None
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Rename the tensors of an official RegionCLIP checkpoint (its "model" entry).

    Backbone, attention pool, box regression, mask head and offline RPN keep their meaning. The frozen text tower and the
    teacher of pretraining are dropped. Class embeddings become "roi_heads.box_predictor.class_embeddings" (K, D); they are
    text embeddings, no learned weights, and give way to any vocabulary that is set after loading.

    Args:
        state_dict: pretrained, or fine-tuned on COCO or LVIS.
        classes: which embeddings, where a file has two: "test" (65 or 1203 names, for evaluation) or "train" (48 or 866, to
            go on with training).
        variant: what the backbone must be, such as "RN50"; None takes any.

    Returns:
        a state dict for `regionclip.modeling.RegionCLIP`, float32, and a report.

    Raises:
        WeightsError: if a part is not whole, has another size, or the file is not RegionCLIP's.
    """
    if classes not in _SCORES:
        raise WeightsError(f"classes='{classes}' is not one of {', '.join(_SCORES)}")
    tensors, report = without_wrapper(state_dict), ConversionReport()
    _refuse_others(tensors)
    result = take_image_tower(tensors, BACKBONE, report, variant)
    width = dimension(tensors, f"{BACKBONE}attnpool.c_proj.weight", 0, "image tower", 2)
    channels = dimension(tensors, f"{BACKBONE}attnpool.c_proj.weight", 1, "image tower", 2)
    result |= _take_box(tensors, width, classes, report) | _take_mask(tensors, channels, report)
    if has_rpn(tensors):
        result |= take_rpn(tensors, report)
    else:
        report.missing.append("offline_rpn.*")
    _note_the_rest(tensors, report)
    return result, report


def _refuse_others(tensors: Mapping[str, Tensor]) -> None:
    if f"{BACKBONE}attnpool.c_proj.weight" in tensors or any(k.startswith(f"{BACKBONE}layer1.") for k in tensors):
        return
    hint = ""
    if any(k.startswith("visual.") for k in tensors):
        hint = " This is a file of CLIP: use from_clip (--from clip)."
    elif any(k.startswith("proposal_generator.") for k in tensors):
        hint = " This is an RPN (a Mask R-CNN of detectron2): use from_rpn (--from regionclip-rpn)."
    raise WeightsError(
        f"none of these {len(tensors)} tensors is of RegionCLIP's backbone, such as "
        f"'{BACKBONE}attnpool.c_proj.weight'; the first is '{next(iter(tensors))}'.{hint}"
    )


def _take_box(tensors: Mapping[str, Tensor], width: int, classes: str, report: ConversionReport) -> dict[str, Tensor]:
    """Class embeddings and box regression; pretrained files have none."""
    given = {k.removeprefix(BOX) for k in tensors if k.startswith(BOX)}
    regression: Shapes = {"bbox_pred.weight": (4, width), "bbox_pred.bias": (4,)}
    if not given:
        report.missing += [CLASSES, *(BOX + k for k in regression)]
        return {}
    if "cls_score.bias" in given:
        raise WeightsError(
            f"'{BOX}cls_score.bias' is of an ordinary linear classifier: this detector has CLIP's backbone but no text "
            "embeddings; RegionCLIP's transfer models have cls_score.weight alone"
        )
    own = {k: v for k, v in tensors.items() if k.startswith(BOX)}
    first, second = _SCORES[classes]
    used = next((k for k in (first, second) if k in given), None)
    scores = {} if used is None else {used: (dimension(own, BOX + used, 0, "box predictor", 2), width)}
    if used is None:
        raise WeightsError("the box predictor is not whole: it has neither cls_score.weight nor test_cls_score.weight")
    report.drop("background", _background(own), "zero: a constant logit of 0")
    if used == first and second in given:
        report.drop("other class embeddings", [BOX + second], f"classes='{classes}' takes {first}")
    rest = {k: v for k, v in own.items() if k not in report.dropped}
    result = take_part(rest, regression | scores, part="box predictor", theirs=BOX, ours=BOX, report=report)
    result[CLASSES] = result.pop(BOX + used)
    report.matched[BOX + used] = CLASSES
    report.parts["box predictor"] = f"{len(result[CLASSES])} class embeddings ({used}), class-agnostic boxes"
    return result


def _background(own: Mapping[str, Tensor]) -> list[str]:
    key = f"{BOX}cls_bg_score.weight"
    if key in own and own[key].any():
        raise WeightsError(f"'{key}' is not zero; RegionCLIP's background embedding is fixed at zero, and so is ours")
    return [k for k in (key,) if k in own]


def _take_mask(tensors: Mapping[str, Tensor], channels: int, report: ConversionReport) -> dict[str, Tensor]:
    """The class-agnostic mask head of the LVIS models."""
    if not any(k.startswith(MASK) for k in tensors):
        return {}
    inner = dimension(tensors, f"{MASK}deconv.weight", 1, "mask head", 4)
    table: Shapes = {
        "deconv.weight": (channels, inner, 2, 2),
        "deconv.bias": (inner,),
        "predictor.weight": (1, inner, 1, 1),
        "predictor.bias": (1,),
    }
    result = take_part(tensors, table, part="mask head", theirs=MASK, ours=MASK, report=report)
    report.parts["mask head"] = f"class-agnostic, {len(result)} tensors"
    return result


def _note_the_rest(tensors: Mapping[str, Tensor], report: ConversionReport) -> None:
    """Note dropped parts; whatever is left is unexpected."""
    report.drop("teacher", [k for k in tensors if k.startswith(_TEACHER)], "frozen copy of CLIP, of use in pretraining only")
    report.drop("text tower", [k for k in tensors if is_text(k)], "frozen; see regionclip.convert.text_tower")
    report.drop("constants", [k for k in tensors if k in _CONSTANTS], "given by the config")
    known = {*report.matched, *report.dropped, *report.unexpected}
    report.unexpected += [k for k in tensors if k not in known]
