"""CLIP's text tower through open_clip."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from openvocab.errors import TextEncoderError, missing

from .base import TEXT_ENCODER_REGISTRY, LanguageFeatures, TextEncoder, TokenBatch, check_texts, too_long

logger = logging.getLogger(__name__)
# OpenAI's weights were trained with QuickGELU; open_clip's plain names build GELU and only warn
_QUICK = {"RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"}


def quickgelu_name(name: str) -> str:
    """Return the name under which open_clip builds a model as OpenAI trained it: "RN50" -> "RN50-quickgelu"."""
    return f"{name}-quickgelu" if name in _QUICK else name


@TEXT_ENCODER_REGISTRY.register()
class CLIPTextEncoder(TextEncoder):
    """The text side of a CLIP model.

    Args:
        model: an open_clip model name.
        pretrained: a local weight file, a tag of open_clip (downloads it; "openai" switches QuickGELU on), or None for random
            weights.
        frozen: keep the weights.

    Raises:
        TextEncoderError: for an unknown model or weights that do not load.
        MissingDependencyError: without open_clip.
    """

    def __init__(self, *, model: str = "RN50", pretrained: str | None = None, frozen: bool = True) -> None:
        super().__init__()
        try:
            import open_clip
        except ImportError as error:
            raise missing("open_clip_torch", "clip") from error
        local = pretrained is not None and Path(pretrained).expanduser().is_file()
        if pretrained == "openai" or local:
            model = quickgelu_name(model)
        try:
            clip = open_clip.create_model(model, pretrained=None if local else pretrained)
        except Exception as error:
            raise TextEncoderError(f"open_clip cannot build '{model}' with weights '{pretrained}': {error}") from error
        if local:
            self._load(clip, Path(pretrained).expanduser())
        text = getattr(clip, "text", clip)
        self.transformer, self.token_embedding, self.ln_final = text.transformer, text.token_embedding, text.ln_final
        self.positional_embedding, self.text_projection = text.positional_embedding, text.text_projection
        self.register_buffer("attn_mask", text.attn_mask, persistent=False)
        self.max_tokens = int(text.context_length)
        self.dim = int(self.text_projection.shape[1])
        self._tokenizer = open_clip.get_tokenizer(model)
        self.identity = f"clip:{model}:{pretrained}"
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False)
            self.eval()

    @staticmethod
    def _load(clip: torch.nn.Module, path: Path) -> None:
        from openvocab.io import load_into, load_weights

        report = load_into(clip, load_weights(path).tensors, min_matched=len(list(clip.parameters())) // 3)
        logger.info("%s: %s", path, report)

    def train(self, mode: bool = True) -> CLIPTextEncoder:
        """Set the mode; a frozen encoder stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def tokenize(self, texts: Sequence[str]) -> TokenBatch:
        rows = []
        for text in check_texts(texts):
            ids = [self._tokenizer.sot_token_id, *self._tokenizer.encode(text), self._tokenizer.eot_token_id]
            if len(ids) > self.max_tokens:
                raise too_long(text, len(ids), self.max_tokens)
            rows.append((ids, self._offsets(text, ids[1:-1])))
        width = max(len(ids) for ids, _ in rows)
        return TokenBatch(
            input_ids=torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows]),
            attention_mask=torch.tensor([[True] * len(ids) + [False] * (width - len(ids)) for ids, _ in rows]),
            offsets=torch.tensor([o + [[0, 0]] * (width - len(o)) for _, o in rows]),
        )

    def _offsets(self, text: str, ids: list[int]) -> list[list[int]]:
        """Find each piece in the lower-cased text, from left to right; a piece that is not there gets an empty span."""
        low, place, spans = text.lower(), 0, [[0, 0]]
        for i in ids:
            piece = self._tokenizer.decode([i]).strip()
            found = low.find(piece, place) if piece else -1
            if found < 0:
                spans.append([0, 0])
                continue
            spans.append([found, found + len(piece)])
            place = found + len(piece)
        return [*spans, [0, 0]]

    def forward(self, tokens: TokenBatch) -> LanguageFeatures:
        """Hidden states after the final norm, projected to D (a sentence's embedding is that of its end token)."""
        length = tokens.input_ids.shape[1]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            x = self.token_embedding(tokens.input_ids) + self.positional_embedding[:length]
            x = self.transformer(x, attn_mask=self.attn_mask[:length, :length])
            hidden = self.ln_final(x) @ self.text_projection
        return LanguageFeatures(hidden=hidden, mask=tokens.attention_mask)

    def pool(self, features: LanguageFeatures) -> Tensor:
        """The end token's vector, (B, D)."""
        last = features.mask.sum(1) - 1
        return features.hidden[torch.arange(len(last), device=last.device), last]
