"""RegionCLIP's detector in the published order, as plainly as can be: what `benchmarks/regionclip.py` measures ours against.

Written from the formulas (arXiv 2112.09106, arXiv 2103.00020): every query of the attention pool, frozen
norms on their own, all regions at once. Children carry our names, so that both sides load one file of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, batched_nms
from detectron2.modeling import build_backbone, build_proposal_generator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
RPN_MEAN = (103.53, 116.28, 123.675)


@dataclass(frozen=True)
class Size:
    """Measures of a detector; those of RN50 by themselves.

    Attributes:
        blocks: of the tower's stages.
        width: channels after its stem.
        dim: D, of region vectors and names.
        rpn: channels of the proposal network's stem, of its first bottlenecks, of its first stage.
        names: K.
        proposals: most a picture.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    dim: int = 1024
    rpn: tuple[int, int, int] = (64, 64, 256)
    names: int = 65
    proposals: int = 1000


class Bottleneck(nn.Module):
    def __init__(self, before: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, inner, 1, bias=False), FrozenBatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False), FrozenBatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, 4 * inner, 1, bias=False), FrozenBatchNorm2d(4 * inner)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample = None
        if stride > 1 or before != 4 * inner:
            self.downsample = nn.Sequential(nn.Conv2d(before, 4 * inner, 1, bias=False), FrozenBatchNorm2d(4 * inner))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.pool(F.relu(self.bn2(self.conv2(y)), inplace=True))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(self.pool(x))
        return F.relu(y, inplace=True)


class AttentionPool(nn.Module):
    """All tokens ask; the mean's answer is read."""

    def __init__(self, channels: int, dim: int, side: int = 7) -> None:
        super().__init__()
        self.heads = max(channels // 64, 1)
        self.positional_embedding = nn.Parameter(torch.randn(side * side + 1, channels) / channels**0.5)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(channels, channels) for _ in range(3))
        self.c_proj = nn.Linear(channels, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positional_embedding
        q, k, v = (f(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        answer = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.c_proj(answer)[:, 0]


class Tower(nn.Module):
    """CLIP's ModifiedResNet."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width, before = size.width, size.width
        for i, (a, b) in enumerate(((3, width // 2), (width // 2, width // 2), (width // 2, width)), start=1):
            self.add_module(f"conv{i}", nn.Conv2d(a, b, 3, stride=2 if i == 1 else 1, padding=1, bias=False))
            self.add_module(f"bn{i}", FrozenBatchNorm2d(b))
        for i, count in enumerate(size.blocks):
            inner, stride = width * 2**i, 1 if i == 0 else 2
            blocks = [Bottleneck(before if j == 0 else 4 * inner, inner, stride if j == 0 else 1) for j in range(count)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            before = 4 * inner
        self.attnpool = AttentionPool(before, size.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map a picture (1, 3, H, W) to its res4 (1, C, H // 16, W // 16)."""
        for i in (1, 2, 3):
            x = F.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)), inplace=True)
        return self.layer3(self.layer2(self.layer1(F.avg_pool2d(x, 2))))


class BoxPredictor(nn.Module):
    """Cosine to the names at T = 0.01, a background of zero; box deltas that know no names."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.register_buffer("class_embeddings", torch.randn(size.names, size.dim))
        self.bbox_pred = nn.Linear(size.dim, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = F.normalize(x, dim=1) @ F.normalize(self.class_embeddings, dim=1).t() / 0.01
        return torch.cat([logits, logits.new_zeros(len(x), 1)], dim=1), self.bbox_pred(x)


def proposal_network(size: Size) -> nn.ModuleDict:
    """detectron2's R50-C4 and its RPN, with the defaults of its configs: the offline RPN of COCO."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = size.rpn
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = size.proposals
    backbone = build_backbone(cfg)
    return nn.ModuleDict({"backbone": backbone, "proposal_generator": build_proposal_generator(cfg, backbone.output_shape())})


class PlainRegionCLIP(nn.Module):
    """One picture in, everything that was computed on the way to its detections out."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.backbone, self.offline_rpn = Tower(size), proposal_network(size)
        self.roi_heads = nn.ModuleDict({"box_predictor": BoxPredictor(size)})
        self.pooler = ROIPooler(output_size=14, scales=(1 / 16,), sampling_ratio=0, pooler_type="ROIAlignV2")
        self.transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
        self.requires_grad_(False).eval()

    def propose(self, image: Tensor) -> Instances:
        """Boxes of an RGB picture (3, H, W), 0-255: `proposal_boxes` and `objectness_logits`."""
        batch = ImageList.from_tensors([image.flip(0) - image.new_tensor(RPN_MEAN).view(3, 1, 1)])
        return self.offline_rpn["proposal_generator"](batch, self.offline_rpn["backbone"](batch.tensor), None)[0][0]

    def maps(self, image: Tensor) -> Tensor:
        """res4 of an RGB picture (3, H, W), 0-255."""
        mean, std = (image.new_tensor(x).view(3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
        return self.backbone(((image / 255 - mean) / std)[None])

    def vectors(self, maps: Tensor, boxes: Boxes) -> Tensor:
        """Region vectors (N, D)."""
        return self.backbone.attnpool(self.backbone.layer4(self.pooler([maps], [boxes])))

    @torch.no_grad()
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Detect; `logits` (N, K + 1) and `boxes` (N, 4) are of the N proposals, `found_*` of the 100 best detections."""
        proposals, maps = self.propose(image), self.maps(image)
        vectors = self.vectors(maps, proposals.proposal_boxes)
        logits, deltas = self.roi_heads["box_predictor"](vectors)
        boxes = self.transform.apply_deltas(deltas, proposals.proposal_boxes.tensor)
        found = detections(boxes, logits.softmax(dim=1)[:, :-1], image.shape[-2:])
        return {
            "proposals": proposals.proposal_boxes.tensor,
            "objectness": proposals.objectness_logits,
            "features": vectors,
            "logits": logits,
            "boxes": boxes,
            **found,
        }


def detections(boxes: Tensor, scores: Tensor, size: Sequence[int], *, threshold: float = 0.001) -> dict[str, Tensor]:
    """The 100 best of boxes (N, 4) with scores (N, K), after NMS by class at 0.5."""
    clipped = Boxes(boxes.clone())
    clipped.clip(tuple(size))
    rows, classes = torch.nonzero(scores > threshold, as_tuple=True)
    candidates, scores = clipped.tensor[rows], scores[rows, classes]
    keep = batched_nms(candidates, scores, classes, 0.5)[:100]
    return {"found_boxes": candidates[keep], "found_scores": scores[keep], "found_classes": classes[keep]}


# ---- random weights that behave like trained ones ---------------------------------------------------------------------


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """A picture of coloured blobs of several sizes, (3, height, width) in 0-255."""
    generator, found = torch.Generator().manual_seed(seed), torch.zeros(1, 3, height, width)
    for cells in (4, 12, 36):
        noise = torch.rand(1, 3, cells, cells * 2, generator=generator)
        found += F.interpolate(noise, (height, width), mode="bilinear")
    return ((found[0] - found.min()) / (found.max() - found.min()) * 255).round()


@torch.no_grad()
def calibrate(model: PlainRegionCLIP, image: Tensor, seed: int = 0) -> None:
    """Give a new model random weights under which nothing explodes, saturates or ties.

    Each frozen norm takes the statistics of what reaches it on `image`, and a random scale and shift. Objectness, deltas and logits
    are brought to spreads as trained models have them; half of what region vectors have in common is taken off, and names lie in
    the directions in which they differ.
    """
    torch.manual_seed(seed)
    hooks: dict[nn.Module, RemovableHandle] = {}

    def settle(norm: FrozenBatchNorm2d, inputs: tuple[Tensor]) -> None:
        hooks.pop(norm).remove()  # the first time only
        var, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var.clamp(min=1e-4))
        norm.weight.uniform_(0.4, 1.0)
        norm.bias.uniform_(-0.2, 0.2)

    hooks.update({m: m.register_forward_pre_hook(settle) for m in model.modules() if isinstance(m, FrozenBatchNorm2d)})
    pool, predictor = model.backbone.attnpool, model.roi_heads["box_predictor"]
    for linear in pool.children():
        nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
    model.propose(image)
    _spread_proposals(model, image)
    boxes, count = model.propose(image).proposal_boxes, max(predictor.bbox_pred.in_features // 8, 8)
    vectors = model.vectors(model.maps(image), boxes[:: -(-len(boxes) // count)])
    common = 0.5 * vectors.mean(dim=0)
    pool.c_proj.bias.sub_(common)
    _spread_names(predictor, vectors - common)


def _spread_proposals(model: PlainRegionCLIP, image: Tensor) -> None:
    """Objectness of spread 2 and deltas of spread 0.2, of mean 0 for each anchor."""
    head, seen = model.offline_rpn["proposal_generator"].rpn_head, {}
    layers = {head.objectness_logits: 2.0, head.anchor_deltas: 0.2}
    hooks = [layer.register_forward_hook(lambda m, _, out: seen.__setitem__(m, out)) for layer in layers]
    model.propose(image)
    for hook in hooks:
        hook.remove()
    for layer, spread in layers.items():
        std, mean = torch.std_mean(seen[layer], dim=(0, 2, 3))
        factor = spread / std.clamp(min=1e-6)
        layer.weight.mul_(factor.view(-1, 1, 1, 1))
        layer.bias.copy_((layer.bias - mean) * factor)


def _spread_names(predictor: BoxPredictor, vectors: Tensor) -> None:
    """Logits of spread 3 and box deltas of spread 1 over these regions (N, D)."""
    apart = vectors - vectors.mean(dim=0)
    names = predictor.class_embeddings
    near = F.normalize(torch.randn(len(names), len(apart)) @ apart, dim=1)
    basis = torch.linalg.qr(vectors.t())[0]
    names.copy_(F.normalize(names - names @ basis @ basis.t(), dim=1))
    spread = (F.normalize(vectors, dim=1) @ near.t() / 0.01).std(dim=1).mean()
    share = (3 / spread).clamp(max=1)
    names.copy_(share * near + (1 - share**2).sqrt() * names)
    std, mean = torch.std_mean(predictor.bbox_pred(vectors), dim=0)
    predictor.bbox_pred.weight.div_(std.clamp(min=1e-6).view(-1, 1))
    predictor.bbox_pred.bias.copy_((predictor.bbox_pred.bias - mean) / std.clamp(min=1e-6))
