"""CLIP's text tower through open_clip."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from openvocab.errors import TextEncoderError, WeightsError, missing

from .base import TEXT_ENCODER_REGISTRY, LanguageFeatures, Pieces, TextEncoder, TokenBatch
from .clip_spans import char_spans
from .identity import file_digest, words_digest

logger = logging.getLogger(__name__)
# OpenAI trained with QuickGELU; open_clip's plain names build GELU and only warn
OPENAI_MODELS = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336")
_SUFFIX = "-quickgelu"
# the image tower is dropped, so the smallest is built where no weights are loaded into it
_NO_IMAGES = {"layers": 1, "width": 32, "head_width": 32, "patch_size": 32, "image_size": 32}
_PREFIXES = ("", "lang_encoder.", "text.", "module.", "module.text.", "model.", "clip.")


def uses_quick_gelu(model: str, pretrained: str | None) -> bool:
    """Say whether weights were trained with QuickGELU.

    A tag's answer is in open_clip's table. A file does not say: it counts as OpenAI's own if the model's name is one of
    theirs. Without weights the name decides.
    """
    if model.endswith(_SUFFIX) or pretrained is None:
        return model.endswith(_SUFFIX)
    if Path(pretrained).expanduser().is_file():
        return model in OPENAI_MODELS
    from open_clip.pretrained import get_pretrained_cfg

    return bool(get_pretrained_cfg(model, pretrained).get("quick_gelu", pretrained == "openai"))


@TEXT_ENCODER_REGISTRY.register()
class CLIPTextEncoder(TextEncoder):
    """The text side of a CLIP model; a token's feature is its state after the final norm, in the common space.

    Args:
        model: an open_clip model name.
        pretrained: a local weight file, a tag of open_clip (which downloads it), or None for random weights.
        quick_gelu: the activation: True for OpenAI's weights. By default it is found out, see `uses_quick_gelu`.
        frozen: keep the weights, and stay in evaluation mode.
        allow_pickle: read a file that may run code while it loads, such as OpenAI's own TorchScript archives.

    Raises:
        TextEncoderError: for an unknown model or tag, or a text tower that is not CLIP's (SigLIP, CoCa, hub models).
        WeightsError: for a file that lacks a part of the text tower.
        MissingDependencyError: without open_clip.
    """

    def __init__(
        self,
        *,
        model: str = "RN50",
        pretrained: str | None = None,
        quick_gelu: bool | None = None,
        frozen: bool = True,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__()
        try:
            import open_clip
        except ImportError as error:
            raise missing("open_clip_torch", "clip") from error
        quick = uses_quick_gelu(model, pretrained) if quick_gelu is None else quick_gelu
        plain = model.removesuffix(_SUFFIX)
        name = plain + _SUFFIX if quick and plain + _SUFFIX in open_clip.list_models() else plain
        path = Path(pretrained).expanduser() if pretrained is not None else None
        local = path is not None and path.is_file()
        self._take_tower(_build(name, None if local else pretrained, quick))
        self._tokenizer = _clip_tokenizer(name)
        self.tokenizer_id = f"clip:{words_digest(words)}" if (words := getattr(self._tokenizer, "encoder", None)) else ""
        self.frozen = frozen
        if local:
            self._load(path, allow_pickle)
        weights = file_digest(path) if local else pretrained or "random:{}"
        self.sign(f"clip:{plain}{_SUFFIX if quick else ''}:{weights}")

    def _take_tower(self, clip: nn.Module) -> None:
        text = getattr(clip, "text", clip)
        pooling = getattr(clip, "text_pool_type", getattr(text, "pool_type", None))
        mask = getattr(text, "attn_mask", None)
        if pooling not in ("argmax", "eos") or mask is None or getattr(text, "cls_emb", None) is not None:
            raise TextEncoderError(f"{type(clip).__name__} has a text tower that is not CLIP's (pooling '{pooling}')")
        self.transformer, self.token_embedding, self.ln_final = text.transformer, text.token_embedding, text.ln_final
        self.positional_embedding, self.text_projection = text.positional_embedding, text.text_projection
        if not isinstance(self.text_projection, nn.Parameter):
            raise TextEncoderError(f"{type(clip).__name__} has no matrix 'text_projection', as CLIP has")
        self.register_buffer("attn_mask", mask, persistent=False)
        self.max_tokens, self.dim = int(text.context_length), int(self.text_projection.shape[1])

    def _load(self, path: Path, allow_pickle: bool) -> None:
        from openvocab.io import load_into, load_weights

        tensors, own = load_weights(path, allow_pickle=allow_pickle).tensors, self.state_dict()
        prefix = max(_PREFIXES, key=lambda p: sum(p + k in tensors for k in own))
        report = load_into(self, tensors, prefix=prefix, min_matched=0)
        absent = sorted({*report.missing, *report.mismatched})
        if absent:
            raise WeightsError(
                f"{path} does not fit CLIP's text tower: {len(absent)} of {len(own)} tensors, such as {absent[0]}"
            )
        logger.info("%s: %d tensors of the text tower", path, len(report.matched))

    def split(self, texts: list[str]) -> list[Pieces]:
        start, end = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id
        rows = []
        for text in texts:
            ids = self._tokenizer.encode(text)
            spans = char_spans(self._tokenizer, text, ids)
            rows.append(Pieces([start, *ids, end], [(0, 0), *spans, (0, 0)]))
        return rows

    def forward(self, tokens: TokenBatch) -> LanguageFeatures:
        """Hidden states after the final norm, projected to D (a sentence's embedding is that of its end token)."""
        length = tokens.input_ids.shape[1]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            x = self.token_embedding(tokens.input_ids) + self.positional_embedding[:length]
            x = self.transformer(x, attn_mask=self.attn_mask[:length, :length])
            hidden = self.ln_final(x) @ self.text_projection
        return LanguageFeatures(hidden=hidden, mask=tokens.attention_mask)

    def forward_causal(self, tokens: TokenBatch) -> LanguageFeatures:
        """CLIP reads from left to right anyway."""
        return self(tokens)

    def join(self, ids: Sequence[int]) -> str:
        special = (self._tokenizer.sot_token_id, self._tokenizer.eot_token_id)
        return self._tokenizer.decode([i for i in ids if i not in special]).strip()

    def pool(self, features: LanguageFeatures) -> Tensor:
        """The end token's vector, (B, D)."""
        last = features.mask.sum(1) - 1
        return features.hidden[torch.arange(len(last), device=last.device), last]


def require_quick_gelu(tower: nn.Module) -> None:
    """Refuse a text tower with plain GELU for weights that were trained with QuickGELU, as all of OpenAI's and RegionCLIP's.

    A state dict does not say its activation, and open_clip's plain names ("RN50") build GELU: the vectors are then silently
    wrong.

    Args:
        tower: `CLIPTextEncoder`, or an open_clip model.

    Raises:
        TextEncoderError: if a block of its text transformer has plain GELU.
    """
    text = getattr(tower, "text", tower)
    blocks = getattr(text, "transformer", text)
    if any(isinstance(m, nn.GELU) for m in blocks.modules()):
        name = getattr(tower, "identity", type(tower).__name__)
        raise TextEncoderError(
            f"the text tower '{name}' has plain GELU, but OpenAI's and RegionCLIP's weights were trained with QuickGELU: build "
            "open_clip's 'RN50-quickgelu' (or force_quick_gelu=True), or CLIPTextEncoder(quick_gelu=True)"
        )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep open_clip from warning about random weights, which were asked for."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _build(name: str, tag: str | None, quick: bool) -> nn.Module:
    """Build an open_clip model; with a tag, open_clip fetches and loads its weights.

    Raises:
        TextEncoderError: if it cannot, or its text blocks have another activation than asked for.
    """
    import open_clip
    from open_clip.transformer import QuickGELU

    options = {} if tag is not None else {"vision_cfg": dict(_NO_IMAGES)}
    try:
        with _silent() if tag is None else contextlib.nullcontext():
            clip = open_clip.create_model(name, pretrained=tag, force_quick_gelu=quick, **options)
    except Exception as error:  # of many kinds
        raise TextEncoderError(f"open_clip cannot build '{name}' with weights '{tag}': {error}") from error
    text = getattr(clip, "text", clip)
    found = any(isinstance(m, QuickGELU) for m in getattr(text, "transformer", text).modules())
    if found != quick:
        raise TextEncoderError(f"'{name}' was built {'with' if found else 'without'} QuickGELU, not as asked")
    return clip


def _clip_tokenizer(name: str) -> object:
    import open_clip
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = open_clip.get_tokenizer(name)
    if not isinstance(tokenizer, SimpleTokenizer):
        raise TextEncoderError(f"'{name}' has a {type(tokenizer).__name__}, not CLIP's byte-pair tokenizer")
    return tokenizer
