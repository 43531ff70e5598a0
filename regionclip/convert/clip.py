"""CLIP's own files: OpenAI's (TorchScript archives) and open_clip's, which share their names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from openvocab.errors import WeightsError

from .keys import VARIANTS, ClipResNet, text_shapes
from .report import ConversionReport, take_part, without_wrapper

BACKBONE, IMAGE = "backbone.", "visual."
TEXT_NAMES = ("transformer.", "token_embedding.", "ln_final.", "positional_embedding", "text_projection")
# prefixes under which the text tower stands: RegionCLIP's, open_clip's custom models', CLIP's
TEXT_PREFIXES = ("lang_encoder.", "text.", "")
_CONSTANTS = ("logit_scale", "logit_bias", "input_resolution", "context_length", "vocab_size", "attn_mask", "text.attn_mask")
_VIT = ("visual.class_embedding", "visual.transformer.", "visual.trunk.", "vision_model.")


def is_text(key: str) -> bool:
    """Say whether a key is of the text tower."""
    return any(key.startswith(prefix) and key[len(prefix) :].startswith(TEXT_NAMES) for prefix in TEXT_PREFIXES)


def take_image_tower(
    tensors: Mapping[str, Tensor], theirs: str, report: ConversionReport, variant: str | None
) -> dict[str, Tensor]:
    """Rename a ModifiedResNet to "backbone.*".

    Raises:
        WeightsError: if it is not whole, or another one than `variant`.
    """
    if variant is not None and variant not in VARIANTS:
        raise WeightsError(f"variant='{variant}' is not one of {', '.join(VARIANTS)}")
    found = ClipResNet.read(tensors, theirs)
    if variant is not None and found != VARIANTS[variant]:
        raise wrong_variant(found.name, variant)
    result = take_part(tensors, found.shapes(), part="image tower", theirs=theirs, ours=BACKBONE, report=report)
    report.variant = found.name
    report.parts["backbone"] = f"{found.name}, {len(result)} tensors"
    return result


def wrong_variant(found: str, needed: str) -> WeightsError:
    """The error for an image tower of another size than the model's."""
    return WeightsError(
        f"these weights are of {found} and the model is built for {needed}: take the file of {needed}, or build the model for "
        f"{found} (its ROI pooler and text embeddings change with it)"
    )


def from_clip(state_dict: Mapping[str, Tensor], *, variant: str | None = None) -> tuple[dict[str, Tensor], ConversionReport]:
    """Rename the image tower of a CLIP ResNet; the text tower is dropped, see `text_tower`.

    OpenAI's archives are read with `openvocab.io.load_weights(path, allow_pickle=True)`. Their float16 becomes float32.

    Args:
        state_dict: of OpenAI's CLIP or open_clip's.
        variant: what it must be: "RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"; None takes any.

    Returns:
        "backbone.*", and a report.

    Raises:
        WeightsError: for a ViT, another variant, a tower that is not whole, or a file that is not CLIP's.
    """
    tensors, report = without_wrapper(state_dict), ConversionReport()
    _refuse_others(tensors)
    result = take_image_tower(tensors, IMAGE, report, variant)
    report.drop("text tower", [k for k in tensors if is_text(k)], "not part of the detector: it takes text embeddings")
    report.drop("constants", [k for k in tensors if k in _CONSTANTS], "fixed in RegionCLIP (temperature 0.01)")
    known = {*report.matched, *report.dropped, *report.unexpected}
    report.unexpected += [k for k in tensors if k not in known]
    report.missing = ["roi_heads.*", "offline_rpn.*"]
    return result, report


def _refuse_others(tensors: Mapping[str, Tensor]) -> None:
    vit = next((k for k in tensors if k.startswith(_VIT)), None)
    if vit is not None:
        raise WeightsError(
            f"these are weights of a CLIP whose image tower is no ResNet ('{vit}' is of a ViT or a timm model); RegionCLIP's "
            f"backbone is CLIP's ModifiedResNet: take {', '.join(VARIANTS)}"
        )
    if not any(k.startswith(IMAGE) for k in tensors):
        begins = sorted({k.partition(".")[0] for k in tensors})
        other = " This is a RegionCLIP checkpoint: use from_official (--from regionclip)." if "backbone" in begins else ""
        raise WeightsError(
            f"there is no image tower of CLIP's: no name begins with 'visual.' (they begin with {', '.join(begins[:6])}).{other}"
        )


def text_tower(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ConversionReport]:
    """Take the text tower out of a file of CLIP, open_clip or RegionCLIP (pretrained: "lang_encoder.*").

    A state dict does not say which activation it was trained with. OpenAI's and RegionCLIP's need QuickGELU:
    `openvocab.text.CLIPTextEncoder(model="RN50", quick_gelu=True)`; see `openvocab.text.require_quick_gelu`.

    Returns:
        CLIP's bare names ("transformer.resblocks.0...."), those of `CLIPTextEncoder`; and a report.

    Raises:
        WeightsError: if there is no text tower, or one that is not whole.
    """
    tensors, report = without_wrapper(state_dict), ConversionReport()
    prefix = next((p for p in TEXT_PREFIXES if f"{p}token_embedding.weight" in tensors), None)
    if prefix is None:
        raise WeightsError(
            "there is no text tower: no 'token_embedding.weight', alone or after 'lang_encoder.'; fine-tuned RegionCLIP files "
            "have none, take the pretrained one or CLIP's own"
        )
    own = {k: v for k, v in tensors.items() if is_text(k) and k.startswith(prefix)}
    result = take_part(own, text_shapes(own, prefix), part="text tower", theirs=prefix, ours="", report=report)
    report.parts["text tower"] = f"{len(result)} tensors"
    report.drop("other parts", [k for k in tensors if k not in own], "not of the text tower")
    return result, report
