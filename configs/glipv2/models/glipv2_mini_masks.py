"""`glipv2_mini` with the language-aware mask head: four convolutions on the fused maps, 0.7 M parameters more."""

from detectron2.config import LazyCall as L

from glipv2.modeling import GLIPv2MaskHead, MaskBranch, MaskConvs, MaskPooler, RegionWordAlignment

from .glipv2_mini import CHANNELS, LANG, model

model.mask_branch = L(MaskBranch)(
    pooler=L(MaskPooler)(strides=(8, 16, 32, 64, 128)),
    head=L(GLIPv2MaskHead)(
        trunk=L(MaskConvs)(channels=CHANNELS, num_convs=4),
        alignment=L(RegionWordAlignment)(channels=CHANNELS, lang_dim=LANG, prior_prob=None),
        channels=CHANNELS,
    ),
)
