"""Names of the official GLIP checkpoints (microsoft/GLIP) in terms of our modules: an explicit table, no guessing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from openvocab.errors import WeightsError

BERT_ENTRIES, BERT_TOKENIZER = 30_522, "bert:75b0b67765a1"  # bert-base-uncased's, the released checkpoints'
_WORD_TABLE = "text_encoder.bert.embeddings.word_embeddings.weight"
# official prefix -> ours; the first that fits is used
_PREFIXES = (
    ("backbone.body.", "backbone.bottom_up."),
    ("backbone.fpn.top_blocks.", "backbone.top_block."),
    ("language_backbone.body.model.", "text_encoder.bert."),
    ("rpn.head.bbox_pred.", "head.bbox_pred."),
    ("rpn.head.centerness.", "head.centerness."),
    ("rpn.head.scales.", "head.scales."),
    ("rpn.head.dot_product_projection_text.", "head.alignment.projection."),
    ("rpn.head.log_scale", "head.alignment.log_scale"),
    ("rpn.head.bias_lang", "head.alignment.bias_lang"),
    ("rpn.head.bias0", "head.alignment.bias0"),
    ("rpn.head.mlm_head.transform.dense.", "mlm.head.dense."),
    ("rpn.head.mlm_head.transform.LayerNorm.", "mlm.head.norm."),
    ("rpn.head.mlm_head.decoder.weight", "mlm.head.decoder.weight"),
    ("rpn.head.mlm_head.bias", "mlm.head.bias"),
    ("rpn.loss_evaluator.shallow_contrastive_projection_image.", "contrast.project_regions."),
    ("rpn.loss_evaluator.shallow_contrastive_projection_text.", "contrast.project_words."),
    ("rpn.loss_evaluator.shallow_log_scale", "contrast.log_scale"),
    ("roi_heads.mask.predictor.conv5_mask.", "mask_branch.head.upsample."),
    ("roi_heads.mask.predictor.dot_product_projection_text.", "mask_branch.head.alignment.projection."),
    ("roi_heads.mask.predictor.log_scale", "mask_branch.head.alignment.log_scale"),
    ("roi_heads.mask.predictor.bias_lang", "mask_branch.head.alignment.bias_lang"),
)
_FUSION = {
    "gamma_v": "gamma_v",
    "gamma_l": "gamma_l",
    "layer_norm_v": "layer_norm_v",
    "layer_norm_l": "layer_norm_l",
    "attn": "attn",
}
_LANGUAGE = (
    ("attention.self.query.", "query."),
    ("attention.self.key.", "key."),
    ("attention.self.value.", "value."),
    ("attention.output.dense.", "attention_output."),
    ("attention.output.LayerNorm.", "attention_norm."),
    ("intermediate.dense.", "intermediate."),
    ("output.dense.", "output."),
    ("output.LayerNorm.", "output_norm."),
)
_DYNAMIC = (
    ("DyConv.0.conv.", "from_coarser.conv."),
    ("DyConv.0.bn.", "from_coarser.norm."),
    ("DyConv.1.conv.", "from_same.conv."),
    ("DyConv.1.bn.", "from_same.norm."),
    ("DyConv.2.conv.", "from_finer.conv."),
    ("DyConv.2.bn.", "from_finer.norm."),
    ("AttnConv.1.", "scale_attention.conv."),
    ("relu.fc.", "relu.fc."),
    ("offset.", "offset."),
)
_HOURGLASS = {
    "up1": "skip",
    "low1": "down",
    "low2": "inner",
    "low3": "up",
    "conv1": "layers.0",
    "conv2": "layers.1",
    "conv3": "layers.2",
}
# never used at run time: the dead class head, buffers that are recomputed, the hidden-word head's second name for its bias, what
# tuning and BERT add
_DROPPED = re.compile(
    r"rpn\.head\.cls_logits\.|rpn\.anchor_generator\.|rpn\.head\.mlm_head\.decoder\.bias|rpn\.head\.tunable_linear\.|rpn\.resizer\.|"
    r"rpn\.loss_evaluator\.(?!shallow_)|roi_heads\.(?!mask\.)|language_backbone\.body\.model\.pooler\.|"
    r"language_backbone\.body\.model\.embeddings\.position_ids"
)
_TOWER = re.compile(r"rpn\.head\.dyhead_tower\.(\d+)\.(.+)")
_FPN = re.compile(r"backbone\.fpn\.fpn_(inner|layer)(\d)\.(.+)")
_MASK_TRUNK = re.compile(r"roi_heads\.mask\.feature_extractor\.mask_(fcn|hg)(\d+)\.(?:(.+)\.)?(weight|bias)")


@dataclass
class ConversionReport:
    """What became of each key: renamed ones (official -> ours), dropped on purpose, and unknown.

    `tokenizer`: the `tokenizer_id` that the weights belong to, where it is known.
    """

    matched: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    tokenizer: str = ""

    def __str__(self) -> str:
        return f"{len(self.matched)} matched, {len(self.dropped)} dropped on purpose, {len(self.unexpected)} unexpected"


def _rename(key: str, table: tuple[tuple[str, str], ...]) -> str | None:
    return next((ours + key[len(theirs) :] for theirs, ours in table if key.startswith(theirs)), None)


def _tower_key(index: int, rest: str, fused: bool) -> str | None:
    block, part = divmod(index, 3) if fused else (index, 2)
    if part == 0:
        name, _, tail = rest.removeprefix("b_attn.").partition(".")
        if not rest.startswith("b_attn.") or name not in _FUSION:
            return None
        inner = f"fusion.{_FUSION[name]}" + (f".{tail}" if tail else "")
    else:
        renamed = _rename(rest, _LANGUAGE if part == 1 else _DYNAMIC)
        if renamed is None:
            return None
        inner = f"{'language' if part == 1 else 'dynamic'}.{renamed}"
    return f"head.blocks.{block}.{inner}"


def _mask_trunk_key(kind: str, number: int, path: str, tail: str) -> str | None:
    """A convolution is there by itself ("conv1.weight"), or as 0 with its normalisation as 1 ("conv1.0.weight")."""
    parts = path.split(".") if path else []
    layer = {"0": "conv", "1": "norm"}[parts.pop()] if parts and parts[-1] in ("0", "1") else "conv"
    if any(p not in _HOURGLASS for p in parts) or (kind == "fcn" and parts):
        return None
    inner = [_HOURGLASS[p] for p in parts]
    return ".".join([f"mask_branch.head.trunk.{'layers' if kind == 'fcn' else 'blocks'}.{number - 1}", *inner, layer, tail])


def official_key(key: str, *, fused: bool) -> str | None:
    """Return our name for an official key (without "module."), or None for an unknown one.

    `fused`: towers of GLIP-T B, C, T and GLIP-L count three entries a block, that of GLIP-A one.
    """
    if match := _TOWER.fullmatch(key):
        return _tower_key(int(match[1]), match[2], fused)
    if match := _FPN.fullmatch(key):  # Swin's stages 2, 3, 4 become levels p3, p4, p5
        return f"backbone.fpn_{'lateral' if match[1] == 'inner' else 'output'}{int(match[2]) + 1}.{match[3]}"
    if match := _MASK_TRUNK.fullmatch(key):
        return _mask_trunk_key(match[1], int(match[2]), match[3] or "", match[4])
    return _rename(key, _PREFIXES)


def from_official(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ConversionReport]:
    """Rename the tensors of an official GLIP checkpoint (its "model" entry).

    Returns:
        a state dict for `glipv2.modeling.GLIPv2` as configs/glipv2/models/glip_*.py build it, and a report. A mask head's tensors
        (`roi_heads.mask.`; no released file is known to have them) are named for `GLIPv2(mask_branch=...)`, those of pretraining's
        losses for `GLIPv2(contrast=..., mlm=...)` with a decoder that is not tied.

    Raises:
        WeightsError: if nothing in it is GLIP's.
    """
    keys = list(state_dict)
    strip = "module." if keys and all(k.startswith("module.") for k in keys) else ""
    fused = any(".b_attn." in k for k in keys)
    report, result = ConversionReport(), {}
    for key in keys:
        name = key.removeprefix(strip)
        if _DROPPED.match(name):
            report.dropped.append(key)
            continue
        ours = official_key(name, fused=fused)
        if ours is None:
            report.unexpected.append(key)
        else:
            report.matched[key], result[ours] = ours, state_dict[key]
    if not result:
        raise WeightsError(f"none of the {len(keys)} tensors has a name of microsoft/GLIP's, such as rpn.head.log_scale")
    table = result.get(_WORD_TABLE)
    if table is not None and len(table) == BERT_ENTRIES:
        report.tokenizer = BERT_TOKENIZER
    return result, report


_SWIN = re.compile(r"(patch_embed\.|layers\.\d+\.(blocks\.\d+\.(norm[12]|attn|mlp)|downsample)\.|norm[0-3]\.)")
_SWIN_LEFT_OUT = re.compile(r"(head|norm)\.(weight|bias)$|.*\.attn_mask$")


def from_swin(
    state_dict: Mapping[str, Tensor], *, prefix: str = "backbone.bottom_up."
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Take an ImageNet Swin of microsoft/Swin-Transformer (its "model" entry) as the image network that pretraining starts from.

    The classifier and the norm before it are dropped; a detector's norms of single stages (norm0 to norm3) are not in such a file.

    Args:
        state_dict: "patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight", ...
        prefix: of our names.

    Raises:
        WeightsError: if nothing in it is a Swin's.
    """
    report, result = ConversionReport(), {}
    for key, value in state_dict.items():
        if _SWIN_LEFT_OUT.match(key):
            report.dropped.append(key)
        elif _SWIN.match(key):
            report.matched[key], result[prefix + key] = prefix + key, value
        else:
            report.unexpected.append(key)
    if not result:
        number = len(state_dict)
        raise WeightsError(f"none of the {number} tensors is named as microsoft/Swin-Transformer's are, patch_embed.proj.weight")
    return result, report
