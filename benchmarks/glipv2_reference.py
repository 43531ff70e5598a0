"""GLIP as published, as plainly as can be: what `benchmarks/glipv2.py` measures ours against.

Written from the formulas (arXiv 2112.03857, arXiv 2106.08322): text padded to 256 tokens and encoded for every picture, attention
in its published order, torchvision's deformable operator, Swin's attention as detectron2 writes it. Children carry our names, so
that both sides hold the same weights. Anchors, boxes and suppression are ours on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from glipv2.modeling import GLIPv2, LanguageLayer
from openvocab.config import load_config
from openvocab.prompting import Caption, token_map
from openvocab.text import LanguageFeatures, TokenBatch

TOKENS = 256
CLAMP = 50000.0


class PlainAttention(nn.Module):
    """Facts 1.5, steps 3 to 7. E = 2048 in 8 heads."""

    def __init__(self, channels: int, lang_dim: int, width: int = 2048, heads: int = 8) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.v_proj, self.l_proj = nn.Linear(channels, width), nn.Linear(lang_dim, width)
        self.values_v_proj, self.values_l_proj = nn.Linear(channels, width), nn.Linear(lang_dim, width)
        self.out_v_proj, self.out_l_proj = nn.Linear(width, channels), nn.Linear(width, lang_dim)

    def split(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        return x.view(batch, length, self.heads, -1).transpose(1, 2).contiguous().flatten(0, 1)

    def join(self, x: Tensor, batch: int) -> Tensor:
        return x.unflatten(0, (batch, self.heads)).transpose(1, 2).flatten(2)

    def forward(self, v: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        batch = len(v)
        query, key = self.split(self.v_proj(v) * self.scale), self.split(self.l_proj(words))
        value_v, value_l = self.split(self.values_v_proj(v)), self.split(self.values_l_proj(words))
        scores = torch.bmm(query, key.transpose(1, 2)).clamp(min=-CLAMP).clamp(max=CLAMP)
        turned = scores.transpose(1, 2)
        turned = (turned - turned.max(dim=-1, keepdim=True)[0]).clamp(min=-CLAMP).clamp(max=CLAMP)
        blocked = mask[:, None, None, :].float().expand(-1, 1, v.shape[1], -1)
        blocked = blocked.masked_fill(blocked == 0, -9e15)
        scores = (scores.unflatten(0, (batch, self.heads)) + blocked).flatten(0, 1)
        delta_v = torch.bmm(scores.softmax(dim=-1), value_l)
        delta_l = torch.bmm(turned.softmax(dim=-1), value_v)
        return self.out_v_proj(self.join(delta_v, batch)), self.out_l_proj(self.join(delta_l, batch))


class PlainFusion(nn.Module):
    """Facts 1.5."""

    def __init__(self, channels: int, lang_dim: int) -> None:
        super().__init__()
        self.layer_norm_v, self.layer_norm_l = nn.LayerNorm(channels), nn.LayerNorm(lang_dim)
        self.attn = PlainAttention(channels, lang_dim)
        self.gamma_v, self.gamma_l = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.ones(lang_dim))

    def forward(self, features: list[Tensor], words: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor]:
        v = torch.cat([f.flatten(2).transpose(1, 2) for f in features], dim=1)
        v, words = self.layer_norm_v(v), self.layer_norm_l(words)
        delta_v, delta_l = self.attn(v, words, mask)
        v, words = v + self.gamma_v * delta_v, words + self.gamma_l * delta_l
        parts = v.split([f[0, 0].numel() for f in features], dim=1)
        return [p.transpose(1, 2).reshape(f.shape).contiguous() for p, f in zip(parts, features, strict=True)], words


class PlainConv(nn.Module):
    """One deformable convolution and its norm (arXiv 2106.08322)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
        self.norm = nn.GroupNorm(16, channels)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        stride = self.conv.stride[0]
        h, w = ((n - 1) // stride + 1 for n in x.shape[-2:])
        offset, mask = (t.flatten(1)[:, : n * h * w].view(-1, n, h, w) for t, n in ((offset, 18), (mask, 9)))
        return self.norm(deform_conv2d(x, offset, self.conv.weight, self.conv.bias, stride, 1, mask=mask))


class PlainDyConv(nn.Module):
    """Facts 1.7."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.from_coarser, self.from_same, self.from_finer = (PlainConv(channels, s) for s in (1, 1, 2))
        self.offset = nn.Conv2d(channels, 27, 3, padding=1)
        self.scale_attention = nn.ModuleDict({"conv": nn.Conv2d(channels, 1, 1)})
        self.relu = nn.ModuleDict(
            {"fc": nn.Sequential(nn.Linear(channels, channels // 4), nn.ReLU(), nn.Linear(channels // 4, 4 * channels))}
        )

    def level(self, features: list[Tensor], i: int) -> Tensor:
        field = self.offset(features[i])
        offset, mask = field[:, :18].contiguous(), field[:, 18:].sigmoid()
        found = [self.from_same(features[i], offset, mask)]
        if i > 0:
            found.append(self.from_finer(features[i - 1], offset, mask))
        if i + 1 < len(features):
            y = self.from_coarser(features[i + 1], offset, mask)
            found.append(F.interpolate(y, size=features[i].shape[-2:], mode="bilinear", align_corners=True))
        weights = [F.relu6(F.relu(self.scale_attention["conv"](F.adaptive_avg_pool2d(x, 1))) + 3) / 6 for x in found]
        return (torch.stack(found) * torch.stack(weights)).mean(dim=0)

    def activate(self, y: Tensor) -> Tensor:
        z = F.relu6(self.relu["fc"](y.mean(dim=(2, 3))) + 3) / 6
        a1, b1, a2, b2 = z[:, :, None, None].chunk(4, dim=1)
        return torch.max(y * ((a1 - 0.5) * 2 + 1) + (b1 - 0.5), y * ((a2 - 0.5) * 2) + (b2 - 0.5))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [self.activate(y) for y in [self.level(features, i) for i in range(len(features))]]


class PlainBlock(nn.Module):
    """One step of the tower."""

    def __init__(self, channels: int = 256, lang_dim: int = 768) -> None:
        super().__init__()
        self.fusion = PlainFusion(channels, lang_dim)
        self.language = LanguageLayer(dim=lang_dim, num_heads=12, ffn_dim=3072, dropout=0.0)
        self.dynamic = PlainDyConv(channels)

    def forward(self, features: list[Tensor], words: Tensor, mask: Tensor, valid: None) -> tuple[list[Tensor], Tensor]:
        features, words = self.fusion(features, words, mask)
        return self.dynamic(features), self.language(words, mask)


class PlainGLIP(GLIPv2):
    """The detector around the tower; its text is padded and never kept."""

    def encode_captions(self, captions: Sequence[Caption]) -> tuple[LanguageFeatures, list[Tensor]]:
        tokens = self.text_encoder.tokenize([c.text for c in captions])
        maps = [token_map(o, c) for o, c in zip(tokens.offsets, captions, strict=True)]
        gap = TOKENS - tokens.input_ids.shape[1]
        ids, mask = F.pad(tokens.input_ids, (0, gap)), F.pad(tokens.attention_mask, (0, gap))
        return self.text_encoder(TokenBatch(ids, mask, tokens.offsets)), [F.pad(m, (0, gap)) for m in maps]


# ---- both sides -------------------------------------------------------------------------------------------------------


def settings(tiny: bool) -> DictConfig:
    """GLIP-T's config without what is random in training; `tiny` keeps its widths and has one layer of everything."""
    model = load_config("configs/glipv2/models/glip_tiny.py").model
    bert = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model.backbone.bottom_up.drop_path_rate = 0.0
    if tiny:
        model.backbone.bottom_up.update(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
        model.head.blocks = model.head.blocks[:1]
        bert |= {"num_hidden_layers": 1, "intermediate_size": 32}
    model.text_encoder.config = bert
    for block in model.head.blocks:
        block.fusion.attention.dropout = block.language.dropout = 0.0
    return model


def build(tiny: bool) -> GLIPv2:
    """Ours, with random weights whose logits spread as trained ones do: by 1 around a rate of 1 %."""
    torch.manual_seed(0)
    model = instantiate(settings(tiny)).eval()
    for name, parameter in model.head.named_parameters():
        if name.endswith("bias") and parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.02)  # a bias of zero would hide an error
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    outputs: list = []
    hook = model.head.register_forward_hook(lambda _, __, output: outputs.append(output))
    with torch.no_grad():
        model([{"image": image, "vocabulary": None, "caption": Caption("a cat", (((2, 5),),))}])
        spread = torch.cat([x.flatten() for x in outputs[0].alignment]).std()
        model.head.alignment.log_scale += spread.log()
    hook.remove()
    return model


def published(ours: GLIPv2, tiny: bool) -> PlainGLIP:
    """The published form with the very weights of `ours`."""
    config = settings(tiny)
    blocks, config.head.blocks = len(config.head.blocks), []
    config.backbone.bottom_up.fused = False
    config["_target_"] = f"{__name__}.{PlainGLIP.__name__}"
    model = instantiate(config).eval()
    model.head.blocks = nn.ModuleList(PlainBlock() for _ in range(blocks))
    model.load_state_dict(ours.state_dict(), assign=True)
    return model.eval()


class GroundingDino:
    """GroundingDINO-T of transformers with random weights, asked with a prompt of 25 tokens."""

    def __init__(self, tiny: bool) -> None:
        from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

        torch.manual_seed(0)
        config = GroundingDinoConfig()
        if tiny:
            config.encoder_layers, config.decoder_layers, config.num_queries = 1, 2, 20
            config.text_config.num_hidden_layers = 1
        self.model = GroundingDinoForObjectDetection(config).eval()
        self.ids = torch.cat([torch.tensor([101]), torch.arange(2000, 2023), torch.tensor([102])])[None]

    def __call__(self, image: Tensor) -> None:
        """Run on one picture (3, H, W)."""
        with torch.no_grad():
            self.model(pixel_values=(image[None].float() - 127) / 58, input_ids=self.ids)
