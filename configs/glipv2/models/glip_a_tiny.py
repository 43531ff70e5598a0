"""GLIP-T (A): no fusion, cells are compared with BERT's own words; 151.4 M parameters."""

from .glip_tiny import model

for _block in model.head.blocks:
    _block.fusion = _block.language = None
model.head.fused_words = False
