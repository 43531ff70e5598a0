"""Detection Hub (arXiv 2206.03484) as a detectron2 meta-architecture: one query detector for many data sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from detection_hub.context import DatasetContext, Flags
from openvocab.errors import ConfigError, DataError, PromptError, VocabularyError, nearest
from openvocab.vocabulary import Vocabulary

from .boxes import initial_boxes as starting_boxes
from .boxes import to_pixels
from .decoder import StageOutput
from .hub import HubAdapter, HubContext
from .labels import LabelSpace
from .ledger import LossLedger
from .losses import SetCriterion
from .targets import read_target


@META_ARCH_REGISTRY.register()
class DetectionHub(nn.Module):
    """Learned queries, adapted to the data set of each picture, and a decoder that turns them into boxes with names.

    Without a hub it is Sparse R-CNN (arXiv 2011.12450) with the names and keys of its released checkpoints. A batch may mix data
    sets: each picture is compared with its own names, in its own data set's context. Labels and predictions count the picture's
    own names; nothing global exists.

    Args:
        backbone: a detectron2 backbone.
        decoder: called as `decoder(features, boxes, queries, context)`, with `dim` and `num_stages`; such as `DynamicHead`.
        hub: a `HubAdapter`; None: the decoder must have a classifier of its own.
        criterion: training losses, a `SetCriterion`.
        in_features: the backbone's maps that the decoder takes, finest first.
        num_queries: N. A picture should have fewer boxes; what is beyond is not taught.
        initial_boxes: where queries start, "image" or "grid" (see `boxes.initial_boxes`).
        max_detections: most detections a picture; None: N, as the released code.
        pixel_mean: per channel, in 0-255.
        pixel_std: per channel.
        input_format: channel order the network expects, "RGB" or "BGR"; `image` in the inputs has it.
        vocabulary: names for pictures that bring neither names nor a known data set.

    Raises:
        ConfigError: for an unknown `input_format`, a decoder that cannot name boxes, or one of other sizes than the hub's.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        decoder: nn.Module,
        hub: HubAdapter | None,
        criterion: SetCriterion,
        in_features: Sequence[str] = ("p2", "p3", "p4", "p5"),
        num_queries: int = 300,
        initial_boxes: str = "image",
        max_detections: int | None = None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        vocabulary: Vocabulary | Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if input_format not in ("RGB", "BGR"):
            raise ConfigError(f"input_format='{input_format}' is neither RGB nor BGR")
        if hub is None and not getattr(decoder, "num_classes", None):
            raise ConfigError("without a hub the decoder needs a classifier of its own: build it with num_classes=...")
        if hub is not None and (hub.dim, hub.num_stages) != (decoder.dim, decoder.num_stages):
            ours, theirs = f"dim={hub.dim}, num_stages={hub.num_stages}", f"dim={decoder.dim}, num_stages={decoder.num_stages}"
            raise ConfigError(f"the hub is built for a decoder of {ours}, and this one has {theirs}; give both the same")
        self.backbone, self.head, self.hub, self.criterion = backbone, decoder, hub, criterion
        self.in_features, self.input_format, self.max_detections = tuple(in_features), input_format, max_detections
        self.init_proposal_features = nn.Embedding(num_queries, decoder.dim)
        self.init_proposal_boxes = nn.Embedding(num_queries, 4, _weight=starting_boxes(num_queries, initial_boxes))
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.ledger, self.tuned = LossLedger(), False
        self.vocabulary: Vocabulary | None = None
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read a yaml config that `add_detection_hub_config` has prepared."""
        from detection_hub.config import detection_hub_from_config

        return detection_hub_from_config(cfg)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    # ---- names and data sets --------------------------------------------------------------------------------------

    def set_vocabulary(self, vocabulary: Vocabulary | Sequence[str] | str) -> None:
        """Look for these names in pictures that bring neither names nor a known data set; in no data set's context.

        Raises:
            VocabularyError: for another number of names than a decoder with a classifier of its own has.
        """
        vocabulary = Vocabulary.coerce(vocabulary)
        if self.hub is None and len(vocabulary) != self.head.num_classes:
            raise VocabularyError(f"{len(vocabulary)} names for a classifier of {self.head.num_classes}; only a hub changes names")
        self.vocabulary = vocabulary

    def register_dataset(
        self, name: str, names_or_vocabulary: Vocabulary | Sequence[str], flags: Flags = None, **more: object
    ) -> DatasetContext:
        """Add a data set to a trained hub: names and flags alone give predictions, since its vector starts at zero.

        Args:
            name: what input dicts say under "dataset".
            names_or_vocabulary: its names.
            flags: its box conventions.
            more: other fields of `DatasetContext.create`.

        Raises:
            ConfigError, DataError, VocabularyError: as `DatasetContext.create`; or if there is no hub, or the name is taken.
        """
        context = DatasetContext.create(name, names_or_vocabulary, flags=flags, **more)
        if name in self._hub().datasets:
            raise ConfigError(f"the hub has a data set '{name}' already; choose another name, or use set_datasets")
        self._hub().register_datasets([context], zero=True)
        return context

    def add_dataset(self, context: DatasetContext) -> None:
        """Add a data set to a trained hub, its vector at zero; or replace one, which keeps its vector.

        Raises:
            ConfigError: if a name or source of it is another data set's, or there is no hub.
        """
        self._hub().register_datasets([context], zero=True)

    def set_datasets(self, datasets: Iterable[DatasetContext | dict]) -> None:
        """Register data sets to be trained on; before the optimizer is built, since each has a vector and a bias of its own.

        Those that are there already are replaced and keep their vectors.

        Raises:
            ConfigError: for two of one name, or without a hub.
        """
        self._hub().register_datasets(datasets)

    def vocabulary_of(self, name: str) -> Vocabulary:
        """Return the names of a data set that the hub knows, by its name or that of one of its splits.

        Raises:
            DataError: for another one.
            ConfigError: without a hub.
        """
        known = self._hub().datasets
        found = next((d for d in known.values() if name == d.name or name in d.sources), None)
        if found is None:
            raise DataError(f"the hub knows no data set '{name}'.{nearest(name, known)} Known: {', '.join(known) or 'none'}")
        return found.vocabulary

    def _hub(self) -> HubAdapter:
        if self.hub is None:
            raise ConfigError("this model was built without a hub (hub=None), so it knows no data sets")
        return self.hub

    def tune_only(self, name: str) -> list[nn.Parameter]:
        """Freeze everything but a data set's own vector and bias; return these two.

        All parts then stay as they are in prediction, in training too: no dropout, and no batch norm that counts on.

        Raises:
            DataError: for a data set that the hub does not know.
            ConfigError: for an arm without data set vectors.
        """
        vectors = self._hub().vectors
        if vectors is None:
            raise ConfigError(f"the arm '{self.hub.arm_name}' has no data set vectors to tune")
        if name not in vectors:
            raise DataError(f"the hub has no data set '{name}' to tune; register_dataset comes first")
        self.requires_grad_(False)
        self.tuned = True
        self.train(self.training)
        own = [vectors.vectors[vectors.key(name)], vectors.biases[vectors.key(name)]]
        return [parameter.requires_grad_() for parameter in own]

    def train(self, mode: bool = True) -> DetectionHub:
        """Set the mode; while one data set is tuned only this module itself takes it, to return losses."""
        super().train(mode)
        if self.tuned:
            for part in self.children():
                part.eval()
        return self

    def dataset_losses(self) -> dict[str, dict[str, float]]:
        """Return each data set's training losses since the last call; a collective call (see `LossLedger.collect`)."""
        return self.ledger.collect()

    # ---- running --------------------------------------------------------------------------------------------------

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Detect, or in training return the losses.

        Args:
            batched_inputs: a dict a picture: `image` (3, H, W) in `input_format`, 0-255; optional `height`, `width` of the
                original; `dataset`, the name of a registered data set (an unknown one is judged by its names alone, with one
                warning); `vocabulary` and `flags` in place of that data set's; in training `instances` with `gt_boxes` and
                `gt_classes` (index into the names), and what `targets.read_target` reads besides.

        Returns:
            in training `loss_ce`, `loss_giou`, `loss_bbox` of the last stage and `..._0`, `..._1` of those before; else
            `[{"instances": Instances}]` in the size (height, width), best first, with `pred_boxes`, `scores` (0..1) and
            `pred_classes`.

        Raises:
            VocabularyError: if there is nothing to look for.
            DataError: for labels or boxes that cannot be used.
        """
        spaces = [self._space(x) for x in batched_inputs]
        images = self.preprocess([x["image"] for x in batched_inputs])
        features = self.backbone(images.tensor)
        stages, context = self.run_decoder([features[f] for f in self.in_features], images.image_sizes, spaces)
        if self.training:
            return self._losses(batched_inputs, spaces, stages, context)
        logits, boxes = stages[-1]
        return [
            {"instances": self._detect(x, space, *row)}
            for x, space, *row in zip(batched_inputs, spaces, logits, boxes, strict=True)
        ]

    def preprocess(self, images: Sequence[Tensor]) -> ImageList:
        """Normalise pictures (3, H, W) and pad them to one size."""
        images = [(x.to(self.device).float() - self.pixel_mean) / self.pixel_std for x in images]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def run_decoder(
        self, features: Sequence[Tensor], sizes: Sequence[tuple[int, int]], spaces: Sequence[LabelSpace]
    ) -> tuple[list[tuple[Tensor, Tensor]], HubContext | None]:
        """Adapt the queries, run the decoder and score its features.

        Args:
            features: maps (B, D, H, W), finest first.
            sizes: B times (H, W) of the pictures in the padded batch.
            spaces: what each picture's labels mean.

        Returns:
            (logits (B, N, C), boxes (B, N, 4) XYXY pixels) of each stage, and the hub's context.
        """
        queries, boxes = self.init_proposal_features.weight, self.init_proposal_boxes.weight
        if self.hub is None:
            start = to_pixels(boxes.expand(len(sizes), -1, -1), sizes)
            outputs = self._read(self.head(features, start, queries.expand(len(sizes), -1, -1), None))
            return [(o.logits, o.boxes) for o in outputs], None
        context = self.hub(spaces, queries, boxes)
        outputs = self._read(self.head(features, to_pixels(context.boxes, sizes), context.queries, context.kernels))
        first = self.head.num_stages - len(outputs)
        features = [o.features for o in outputs]
        logits = self.hub.align(features, context.text, context.bias, shade=context.shade, first=first)
        return [(scores, o.boxes) for scores, o in zip(logits, outputs, strict=True)], context

    def _read(self, outputs: list[StageOutput]) -> list[StageOutput]:
        """The stages that are read: all in training, the last in prediction."""
        return outputs if self.training else outputs[-1:]

    def _space(self, x: dict) -> LabelSpace:
        if x.get("caption") is not None and x.get("vocabulary") is None:
            raise PromptError("this model looks for names, not for the phrases of a caption: give a 'vocabulary'")
        if self.hub is not None:
            return self.hub.space(x, self.vocabulary)
        words = x.get("vocabulary") or self.vocabulary or Vocabulary.from_names(map(str, range(self.head.num_classes)))
        words = Vocabulary.coerce(words)
        if len(words) != self.head.num_classes:
            raise VocabularyError(f"{len(words)} names for a classifier of {self.head.num_classes}; only a hub changes names")
        return LabelSpace(name=x.get("dataset") or "", vocabulary=words, scored=words)

    def _losses(
        self, inputs: list[dict], spaces: Sequence[LabelSpace], stages: Sequence[tuple], context: HubContext | None
    ) -> dict[str, Tensor]:
        targets = [read_target(x, space, self.device) for x, space in zip(inputs, spaces, strict=True)]
        columns = None if context is None or bool(context.columns.all()) else context.columns
        judged = self.criterion(stages, targets, columns)
        self.ledger.add([space.name for space in spaces], judged.by_picture, judged.boxes)
        return judged.losses

    def _detect(self, x: dict, space: LabelSpace, logits: Tensor, boxes: Tensor) -> Instances:
        """The best (query, name) pairs of one picture: no suppression, a box may come with several names."""
        if space.columns is not None:
            logits = logits[:, list(space.columns)]
        usable = torch.isfinite(boxes).all(dim=1)  # a diverged model finds nothing, instead of ending in an assertion
        scores = logits[usable, : len(space.vocabulary)].sigmoid()
        boxes = boxes[usable]
        most = min(self.max_detections or len(logits), scores.numel())
        best, places = scores.flatten().topk(most)
        height, width = x["image"].shape[-2:]
        found = Instances((height, width))
        found.pred_boxes = Boxes(boxes[places // scores.shape[1]])
        found.scores, found.pred_classes = best, places % scores.shape[1]
        return detector_postprocess(found, x.get("height", height), x.get("width", width))
