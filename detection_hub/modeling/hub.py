"""The hub: data sets by name, and what their names, vectors and box conventions change in a query detector."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from detection_hub.context import DatasetContext, read_flags
from openvocab.errors import ConfigError, DataError, VocabularyError, WeightsError, nearest
from openvocab.vocabulary import Vocabulary, merge

from .adapters import DatasetVectors, KernelAdapter, QueryAdapter, RegionWordAlignment, SemanticBias, Shade
from .decoder import KernelContext
from .embeddings import KEPT as KEPT_NAMES
from .embeddings import CategoryEmbeddings
from .labels import LabelSpace

logger = logging.getLogger(__name__)
METADATA = "metadata"
BLOCK = 2**20  # bytes; the entry fills whole blocks, since fvcore's checkpointer drops what differs in size from the model's own
KEPT = 8  # prepared contexts that evaluation keeps


@dataclass(frozen=True)
class Arm:
    """What of the hub is on: an arm of the ablation (ours).

    Attributes:
        names: queries and kernels see the data set's names.
        dataset: they see its vector and its convention flags; its names and scores have a bias of their own.
        union: one list of all data sets' names for all pictures, foreign names as negatives.
    """

    names: bool
    dataset: bool
    union: bool = False

    @property
    def adapts(self) -> bool:
        return self.names or self.dataset


ARMS = {
    "naive": Arm(names=False, dataset=False, union=True),
    "masked": Arm(names=False, dataset=False),
    "id": Arm(names=False, dataset=True),
    "lang": Arm(names=True, dataset=False),
    "full": Arm(names=True, dataset=True),
}


@dataclass
class HubContext:
    """What the hub says about B pictures. C: most names of a picture.

    Attributes:
        queries: (B, N, D).
        boxes: (B, N, 4) CXCYWH shares.
        kernels: one a stage, or None.
        text: (B, C, t) names, of length 1; anything where a picture has fewer.
        shade: what the pictures' data sets make of these, or None.
        columns: (B, C) bool, True on real names.
        bias: (B,) of scores.
    """

    queries: Tensor
    boxes: Tensor
    kernels: list[KernelContext] | None
    text: Tensor
    shade: Shade | None
    columns: Tensor
    bias: Tensor

    def of(self, places: Sequence[int]) -> HubContext:
        """Return the contexts at B' places; nothing is copied where there is only one, or each is wanted once, in order."""
        places = list(places)
        if places == list(range(len(self.text))):
            return self
        index = torch.tensor(places, device=self.text.device)

        def pick(x: Tensor) -> Tensor:
            return x.expand(len(places), *x.shape[1:]) if len(x) == 1 else x[index]

        kernels = None if self.kernels is None else [KernelContext(*map(pick, k)) for k in self.kernels]
        shade = self.shade
        if shade is not None:
            shade = shade._replace(weights=pick(shade.weights), length=pick(shade.length))
        queries, boxes, text, columns, bias = map(pick, (self.queries, self.boxes, self.text, self.columns, self.bias))
        return HubContext(queries, boxes, kernels, text, shade, columns, bias)


class HubAdapter(nn.Module):
    """All that Detection Hub adds to a query detector: give it pictures' label spaces and learned queries, get a `HubContext`.

    Args:
        embeddings: names to vectors.
        dim: D.
        num_stages: of the decoder.
        num_heads: of the attention of queries over names.
        arm: "full", or an ablation of `ARMS`: "naive", "masked", "id", "lang".
        datasets: contexts, or their dicts.
        semantic_limit: how far a data set may move a name (of length 1).
        adapt_kernels, move_boxes: False leaves these adapters out.
        scale: of similarities, at the start.
        vector_dropout, flag_dropout: share of training pictures that do without their data set's vector, or its flags, so that
            names and flags alone work for a data set that was not trained on (ours).

    Raises:
        ConfigError: for an unknown arm, shares and limits out of range, or a name that two data sets have.
    """

    def __init__(
        self,
        *,
        embeddings: CategoryEmbeddings,
        dim: int = 256,
        num_stages: int = 6,
        num_heads: int = 8,
        arm: str = "full",
        datasets: Sequence[DatasetContext | dict] = (),
        semantic_limit: float = 0.3,
        adapt_kernels: bool = True,
        move_boxes: bool = True,
        scale: float = 20.0,
        vector_dropout: float = 0.1,
        flag_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if arm not in ARMS:
            raise ConfigError(f"arm='{arm}' is none of {', '.join(ARMS)}.{nearest(arm, ARMS)}")
        if not 0 <= semantic_limit < 1:
            raise ConfigError(f"semantic_limit={semantic_limit} must be in 0..1, below 1: names have length 1")
        for key, share in (("vector_dropout", vector_dropout), ("flag_dropout", flag_dropout)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{key}={share} is no share in 0..1")
        self.arm_name, self.arm, self.dim, self.num_stages = arm, ARMS[arm], dim, num_stages
        self.embeddings, self.vector_dropout, self.flag_dropout = embeddings, vector_dropout, flag_dropout
        sees, text_dim = self.arm, embeddings.dim
        self.vectors = DatasetVectors(dim=dim) if sees.dataset else None
        self.to_token = nn.Sequential(nn.Linear(text_dim, dim), nn.LayerNorm(dim)) if sees.adapts else None
        self.semantic = SemanticBias(dim=dim, text_dim=text_dim, limit=semantic_limit) if sees.dataset else None
        self.query_adapter = QueryAdapter(dim=dim, num_heads=num_heads, move_boxes=move_boxes) if sees.adapts else None
        kernels = num_stages if sees.adapts and adapt_kernels else 0
        self.kernels = nn.ModuleList(KernelAdapter(dim=dim) for _ in range(kernels))
        self.align = RegionWordAlignment(dim=dim, text_dim=text_dim, num_stages=num_stages, scale=scale)
        self.datasets: dict[str, DatasetContext] = {}
        self._warned: set[str] = set()
        self._kept: OrderedDict[tuple, HubContext] = OrderedDict()
        self.register_datasets(datasets)

    # ---- data sets ------------------------------------------------------------------------------------------------

    def register_datasets(self, datasets: Iterable[DatasetContext | dict], *, zero: bool = False) -> None:
        """Add data sets; one that is there already is replaced and keeps its vector. `zero`: see `DatasetVectors.add`.

        Raises:
            ConfigError: if two of them have one name or source.
        """
        new = [d if isinstance(d, DatasetContext) else DatasetContext.from_dict(d) for d in datasets]
        new.sort(key=lambda d: d.name)  # parameters, and an optimizer's averages of them, stand in this order
        after = {**self.datasets, **{d.name: d for d in new}}
        words = [word for d in new for word in {d.name, *d.sources}]
        words += [w for d in after.values() if d.name not in {n.name for n in new} for w in {d.name, *d.sources}]
        twice = sorted({w for w in words if words.count(w) > 1})
        if twice:
            raise ConfigError(f"two data sets of the hub are called '{twice[0]}'; names and sources must differ")
        self.datasets = after
        self.embeddings.kept = KEPT_NAMES + len(after)  # a training step looks names up, however many data sets there are
        for dataset in new:
            if self.vectors is not None:
                self.vectors.add(dataset.name, zero=zero)

    def find(self, name: str) -> DatasetContext | None:
        """Return the data set that `name`, or a source of that name, means; None, with one warning, for an unknown one."""
        if name in self.datasets:
            return self.datasets[name]
        found = next((d for d in self.datasets.values() if name in d.sources), None)
        if found is None and name not in self._warned:
            self._warned.add(name)
            hint = nearest(name, self.datasets)
            logger.warning("the hub does not know the data set '%s': its pictures are judged by their names alone.%s", name, hint)
        return found

    def space(self, x: dict, vocabulary: Vocabulary | None) -> LabelSpace:
        """Return what the labels of an input dict mean.

        Its "dataset" chooses the data set; its "vocabulary" goes before the data set's own names, and these before `vocabulary`;
        its "flags" go before the data set's. A hub of one data set takes that where nothing is said.

        Raises:
            VocabularyError: if there is nothing to look for.
        """
        name, own = x.get("dataset") or "", x.get("vocabulary")
        context = self.find(name) if name else None
        if not name and own is None and vocabulary is None and len(self.datasets) == 1:
            context = next(iter(self.datasets.values()))
        words = own if own is not None else context.vocabulary if context is not None else vocabulary
        if words is None:
            raise VocabularyError(
                "nothing to look for: give each input a known 'dataset' or a 'vocabulary', or call set_vocabulary(...)"
            )
        words = Vocabulary.coerce(words)
        flags = read_flags(x["flags"]) if x.get("flags") is not None else context.flags if context is not None else ()
        space = LabelSpace(
            name=context.name if context is not None else name, vocabulary=words, scored=words, context=context, flags=flags
        )
        if not self.arm.union or not self.datasets or any(n not in self.union() for n in words.names):
            return space
        return replace(space, scored=self.union(), columns=tuple(self.union().index(n) for n in words.names))

    def union(self) -> Vocabulary:
        """Return all data sets' names as one list."""
        key = tuple(d.vocabulary for d in self.datasets.values())
        if getattr(self, "_union", (None,))[0] != key:
            self._union = (key, merge(key)[0])
        return self._union[1]

    # ---- contexts -------------------------------------------------------------------------------------------------

    def forward(self, spaces: Sequence[LabelSpace], queries: Tensor, boxes: Tensor) -> HubContext:
        """Prepare B pictures.

        Args:
            spaces: one a picture; equal ones are computed once.
            queries: (N, D), learned.
            boxes: (N, 4) CXCYWH shares, learned.

        Returns:
            of B pictures; in evaluation kept for the next call with the same data sets.
        """
        self.embeddings.fit(d.vocabulary for d in self.datasets.values())
        keys = [self._key(space) for space in spaces]
        unique = list(dict.fromkeys(keys))
        places = [unique.index(k) for k in keys]
        if self.training or torch.is_grad_enabled():
            self._kept.clear()  # parameters are about to change
            return self._prepare(unique, queries, boxes).of(places)
        kind = queries.device.type
        state = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        state += tuple((p.data_ptr(), p._version) for p in (queries, boxes, *self.parameters(), self.embeddings.mu))
        if (tuple(unique), state) not in self._kept:
            self._kept[tuple(unique), state] = self._prepare(unique, queries, boxes)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[tuple(unique), state].of(places)

    def _key(self, space: LabelSpace) -> tuple:
        """(names, data set or None, flags): all that a context depends on."""
        if not self.arm.dataset:
            return space.scored, None, ()
        name, flags = None if space.context is None else space.context.name, space.flags
        if self.training:
            dropped = torch.rand(2).tolist()
            name = None if dropped[0] < self.vector_dropout else name
            flags = () if dropped[1] < self.flag_dropout else flags
        return space.scored, name, flags

    def _prepare(self, keys: Sequence[tuple], queries: Tensor, boxes: Tensor) -> HubContext:
        rows = [self.embeddings(vocabulary) for vocabulary, _, _ in keys]
        text = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(r) for r in rows], device=text.device)
        columns = torch.arange(text.shape[1], device=text.device) < lengths[:, None]
        u = len(keys)
        if not self.arm.adapts:
            bias = text.new_zeros(u)
            return HubContext(queries.expand(u, -1, -1), boxes.expand(u, -1, -1), None, text, None, columns, bias)
        names = self.to_token(text)
        tokens, mask, shade, bias = names, columns, None, text.new_zeros(u)
        if self.arm.dataset:
            vectors, bias = self.vectors([k[1] for k in keys], [k[2] for k in keys])
            tokens, mask = self._with_dataset(names, columns, vectors)
            shade = self.semantic(text, names, vectors)
        if len({len(r) for r in rows}) == 1:  # no padding
            queries, boxes = self.query_adapter(queries, boxes, tokens)
            summary = tokens.mean(1)
        else:
            queries, boxes = self.query_adapter(queries, boxes, tokens, mask)
            weight = mask[..., None].to(tokens.dtype)
            summary = (tokens * weight).sum(1) / weight.sum(1)
        kernels = [adapter(summary) for adapter in self.kernels] or None
        return HubContext(queries, boxes, kernels, text, shade, columns, bias)

    def _with_dataset(self, names: Tensor, columns: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [E + s; s], or [s] in the arm that sees no names; and their mask."""
        own = vectors[:, None]
        always = columns.new_ones(len(columns), 1)
        if not self.arm.names:
            return own, always
        return torch.cat([names + own, own], dim=1), torch.cat([columns, always], dim=1)

    # ---- what travels with the weights ----------------------------------------------------------------------------

    def metadata(self) -> dict:
        """Return, as plain values, what prediction needs besides weights: the data sets, and the text encoder's identity."""
        return {
            "version": 1,
            "arm": self.arm_name,
            "text_encoder": self.embeddings.text_encoder.identity,
            "datasets": [self.datasets[name].to_dict() for name in sorted(self.datasets)],
        }

    def _metadata_tensor(self) -> Tensor:
        text = json.dumps(self.metadata(), sort_keys=True).encode()
        return torch.frombuffer(bytearray(text.ljust(-(-len(text) // BLOCK) * BLOCK)), dtype=torch.uint8)

    def before_load(self, tensors: MutableMapping[str, Tensor], prefix: str = "") -> Callable[[], None] | None:
        """Take data sets that this hub does not know from a state dict's "metadata" (json as bytes), before it is loaded.

        The entry then is this hub's own. Data sets that both know stay as they are here.

        Returns:
            what takes the new data sets out again, should the load fail.

        Raises:
            WeightsError: if the entry cannot be read.
        """
        key = prefix + METADATA
        if key not in tensors:
            return None
        found = read_metadata(tensors[key])
        encoder = self.embeddings.text_encoder.identity
        if found.get("text_encoder") not in (None, encoder):
            logger.warning("the weights were trained with the text encoder '%s', this hub has '%s'", found["text_encoder"], encoder)
        before, new = self.datasets, [d for d in found.get("datasets", []) if d["name"] not in self.datasets]
        taken = {word: d.name for d in before.values() for word in (d.name, *d.sources)}
        for row in new:
            if row["name"] in taken:
                where = taken[row["name"]]
                raise WeightsError(f"the weights' data set '{row['name']}' is a source of '{where}' here; rename that source")
            for word in [s for s in row["sources"] if s in taken]:
                own = taken[word]
                logger.warning("'%s' means this model's data set '%s', no longer '%s' of the weights", word, own, row["name"])
                row["sources"].remove(word)
        without_vector = [d["name"] for d in new if self.vectors is not None and d["name"] not in self.vectors]
        self.register_datasets(new)
        tensors[key] = self._metadata_tensor()

        def undo() -> None:
            self.datasets = before
            for name in without_vector:
                self.vectors.remove(name)

        return undo

    def _save_to_state_dict(self, destination: MutableMapping, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + METADATA] = self._metadata_tensor()

    def _load_from_state_dict(self, state_dict: MutableMapping, prefix: str, *rest: object) -> None:
        self.before_load(state_dict, prefix)
        state_dict.pop(prefix + METADATA, None)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def read_metadata(value: Tensor) -> dict:
    """Return what `HubAdapter.metadata` gave, from the state dict's entry.

    Raises:
        WeightsError: if it is no json of the expected form.
    """
    try:
        found = json.loads(value.to("cpu", torch.uint8).numpy().tobytes().decode())
        datasets = [DatasetContext.from_dict(d) for d in found.get("datasets", [])]
    except (ValueError, TypeError, AttributeError, DataError) as error:
        raise WeightsError(f"the hub's metadata in these weights cannot be read: {error}") from error
    return {**found, "datasets": [d.to_dict() for d in datasets]}
