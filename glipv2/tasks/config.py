"""From a yaml config to heads."""

from __future__ import annotations

from detectron2.config import CfgNode

from glipv2.modeling.detector import GLIPv2
from glipv2.modeling.mlm import MaskedLanguageHead

from .caption import CaptionHead
from .heads import TaskHead
from .vqa import VQAHead


def heads_from_config(cfg: CfgNode, detector: GLIPv2) -> list[TaskHead]:
    """Return the heads that `MODEL.GLIPV2` asks for, of the detector's widths."""
    node, encoder, heads = cfg.MODEL.GLIPV2, detector.text_encoder, []
    if node.VQA_ANSWERS:
        vqa = VQAHead(
            answers=node.VQA_ANSWERS,
            num_answers=node.VQA_NUM_ANSWERS,
            lang_dim=encoder.dim,
            channels=cfg.MODEL.FPN.OUT_CHANNELS,
            num_levels=len(detector.head.scales),
            hidden_dim=2 * encoder.dim,
        )
        heads.append(vqa)
    if node.CAPTIONS:
        table = encoder.word_embeddings
        words = MaskedLanguageHead(dim=encoder.dim, vocab_size=0 if table is None else len(table))
        heads.append(CaptionHead(words=None if detector.mlm is not None else words))
    return heads
