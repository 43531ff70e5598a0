"""Region features of pictures, without a detection head: what microsoft/RegionCLIP's extraction tool gives.

The model is built from the measures of its own weights, so that RN50 and RN50x4, C4 and FPN proposals need no config.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import ImageList
from torch import Tensor, nn

from openvocab.errors import DataError, VocabularyError, WeightsError
from openvocab.io import load_into
from openvocab.media import ImageLike, to_rgb
from openvocab.modeling.similarity import SimilarityClassifier
from regionclip.convert import ClipResNet
from regionclip.convert.keys import last_index
from regionclip.modeling import ModifiedResNet, OfflineProposals, RegionFeatures, RegionPostProcessor, build_offline_rpn

CLIP_MEAN, CLIP_STD = (122.7709, 116.7460, 104.0937), (68.5005, 66.6322, 70.3232)
SIZE = (800, 1333)
STRIDE, TEMPERATURE = 16, 0.01
_RPN = "offline_rpn.backbone."
_CONVERT = "turn official files into ours with tools/convert_weights.py first"


def region_backbone(tensors: Mapping[str, Tensor]) -> tuple[ModifiedResNet, RegionFeatures]:
    """Build and load the image tower of "backbone.*", and the region features that borrow its last stage.

    Raises:
        WeightsError: if there is none, or it is not whole.
    """
    if not any(k.startswith("backbone.attnpool.") for k in tensors):
        raise WeightsError(f"the weights have no image tower ('backbone.attnpool.*'): {_CONVERT}")
    found = ClipResNet.read(tensors, "backbone.")
    backbone = ModifiedResNet(blocks=found.blocks, width=found.width, embed_dim=found.embed_dim, side=found.side)
    own = {k: v for k, v in tensors.items() if k.startswith("backbone.")}
    load_into(backbone, own, prefix="backbone.", strict=True)
    pooler = ROIPooler(2 * found.side, scales=(1 / STRIDE,), sampling_ratio=0, pooler_type="ROIAlignV2")
    return backbone, RegionFeatures(pooler=pooler).borrow(backbone)


def proposals_for(tensors: Mapping[str, Tensor], *, nms_thresh: float = 0.9, top: int = 1000) -> OfflineProposals:
    """Build and load the proposal network of "offline_rpn.*": C4, FPN, or FPN with norms (LSJ).

    Raises:
        WeightsError: if there is none, or it is not whole.
    """
    own = {k: v for k, v in tensors.items() if k.startswith("offline_rpn.")}
    if not own:
        raise WeightsError(f"the weights have no proposal network ('offline_rpn.*'): {_CONVERT} (--from regionclip-rpn)")
    pyramid = f"{_RPN}fpn_output2.weight" in own
    kind = "c4" if not pyramid else "fpn_lsj" if f"{_RPN}fpn_output2.norm.weight" in own else "fpn"
    resnet = f"{_RPN}bottom_up." if pyramid else _RPN
    try:
        sizes = {
            "stem_channels": own[f"{resnet}stem.conv1.weight"].shape[0],
            "width_per_group": own[f"{resnet}res2.0.conv1.weight"].shape[0],
            "res2_channels": own[f"{resnet}res2.0.conv3.weight"].shape[0],
            **({"fpn_channels": own[f"{_RPN}fpn_output2.weight"].shape[0]} if pyramid else {}),
        }
    except KeyError as error:
        raise WeightsError(f"the proposal network is not whole: {error} is missing, which gives its size") from error
    depth = 101 if last_index(own, f"{resnet}res4.") > 6 else 50
    rpn = build_offline_rpn(kind=kind, nms_thresh=nms_thresh, post_nms_topk=top, depth=depth, **sizes)
    load_into(rpn, own, prefix="offline_rpn.", strict=True)
    return rpn


class RegionExtractor(nn.Module):
    """A picture to features of its regions, and with text embeddings to named ones.

    N: regions, D: feature width, K: names.

    Args:
        backbone: pictures (B, 3, H, W) to maps.
        region_features: maps and boxes to (N, D).
        proposals: pictures to boxes; None where boxes are always given.
        embeddings: (K, D); None leaves regions unnamed.
        size: (short side, most of the long side) that pictures are resized to.
        score_threshold, nms_thresh, top: of named regions; 0.02, 0.5 and 300 in the LVIS zero-shot setting.
        fuse: multiply with the RPN: sqrt(probability x objectness logit), as released (regions with a negative logit drop out).

    Raises:
        VocabularyError: if the embeddings have another width than the features.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        region_features: RegionFeatures,
        proposals: OfflineProposals | None = None,
        embeddings: Tensor | None = None,
        size: tuple[int, int] = SIZE,
        score_threshold: float = 0.02,
        nms_thresh: float = 0.5,
        top: int = 300,
        fuse: bool = True,
    ) -> None:
        super().__init__()
        self.backbone, self.region_features, self.proposals = backbone, region_features, proposals
        self.resize = T.ResizeShortestEdge(*size)
        fusion = "sqrt_logit" if fuse else "none"
        limits = {"score_threshold": score_threshold, "nms_threshold": nms_thresh, "max_detections": top}
        self.postprocessor = RegionPostProcessor(score_fusion=fusion, **limits)
        width = region_features.out_channels
        if embeddings is not None and embeddings.shape[-1] != width:
            raise VocabularyError(
                f"the text embeddings are {embeddings.shape[-1]} wide and region features {width}: take those of the text encoder "
                "that belongs to this image tower"
            )
        classifier = SimilarityClassifier(in_features=width, embeddings=embeddings, temperature=TEMPERATURE)
        self.classifier = None if embeddings is None else classifier
        self.register_buffer("pixel_mean", torch.tensor(CLIP_MEAN).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(CLIP_STD).view(-1, 1, 1), persistent=False)
        self.eval()

    @torch.no_grad()
    def forward(self, image: ImageLike, boxes: Sequence | np.ndarray | Tensor | None = None) -> dict[str, Tensor]:
        """Encode one picture.

        Args:
            image: a path, a PIL picture, or (H, W, 3) uint8 RGB.
            boxes: (N, 4) XYXY pixels of the picture; None takes proposals.

        Returns:
            on the CPU: "boxes" (N, 4) XYXY pixels of the picture and "feats" (N, D), not normalised, all proposals with the best
            first (or the given boxes in their order); with embeddings also "classes" (N,) int64 and "probs" (N, K + 1),
            background last, after NMS and with the best first (given boxes: their best name, none left out).

        Raises:
            InputError: for a picture that cannot be read.
            DataError: for boxes that are none, or that would be needed.
        """
        pixels = to_rgb(image)
        small = self.resize.get_transform(pixels).apply_image(pixels)
        tensor = torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1))).to(self.pixel_mean.device).float()
        scale = torch.tensor([pixels.shape[i] / small.shape[i] for i in (1, 0, 1, 0)], device=tensor.device)
        regions, objectness = self._regions(tensor, boxes, pixels.shape[:2], scale)
        found = {"boxes": regions * scale, "feats": self.encode([tensor], [regions])}
        if self.classifier is not None:
            found = self.named(found, objectness)
        return {k: v.cpu() for k, v in found.items()}

    @torch.no_grad()
    def encode(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Encode boxes [(N_i, 4)] of pictures [(3, H, W)], RGB 0-255, padded to one size: (N, D)."""
        batch = ImageList.from_tensors([(x.float() - self.pixel_mean) / self.pixel_std for x in images])
        return self.region_features(self.backbone(batch.tensor), list(boxes))

    def _regions(self, image: Tensor, boxes: object, size: tuple[int, int], scale: Tensor) -> tuple[Tensor, Tensor | None]:
        """Boxes in pixels of the resized picture; with the RPN's logits if they come from there."""
        if boxes is None:
            if self.proposals is None:
                raise DataError("there are no boxes: give them, or weights of a proposal network (offline_rpn.*)")
            found = self.proposals([image])[0]
            return found.proposal_boxes.tensor, found.objectness_logits
        given = torch.as_tensor(np.asarray(boxes), dtype=torch.float32).to(image.device)
        given = given.reshape(0, 4) if given.numel() == 0 else given
        if given.ndim != 2 or given.shape[1] != 4 or not torch.isfinite(given).all():
            raise DataError(f"boxes are (N, 4) finite XYXY pixels, not of shape {tuple(given.shape)}")
        bad = torch.nonzero((given[:, 2:] <= given[:, :2]).any(dim=1)).flatten().tolist()
        outside = given[:, :2] >= torch.tensor([size[1], size[0]], device=given.device)
        bad += torch.nonzero(outside.any(dim=1) | (given[:, 2:] <= 0).any(dim=1)).flatten().tolist()
        if bad:
            raise DataError(f"box {bad[0]}, {given[bad[0]].tolist()}, has no area inside the picture of {size[1]} x {size[0]} px")
        limit = torch.tensor([size[1], size[0]], device=given.device).repeat(2)
        return given.clamp(min=0).minimum(limit) / scale, None

    def named(self, found: dict[str, Tensor], objectness: Tensor | None) -> dict[str, Tensor]:
        """Name the regions of one picture: "boxes" (N, 4) and "feats" (N, D) to what `forward` returns.

        `objectness` (N,): the RPN's logits; None keeps every region, under its best name.
        """
        probs = self.classifier(found["feats"]).softmax(dim=-1)
        if objectness is None:
            rows, classes = torch.arange(len(probs), device=probs.device), probs[:, :-1].argmax(dim=1)
        else:
            inside = (math.inf, math.inf)  # boxes end with their picture already
            chosen, rows = self.postprocessor(found["boxes"], probs, objectness, inside)
            classes = chosen.pred_classes
        return {"boxes": found["boxes"][rows], "classes": classes, "probs": probs[rows], "feats": found["feats"][rows]}
