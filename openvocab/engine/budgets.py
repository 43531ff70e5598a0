"""Token budgets of data count as the model's text encoder does."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig
from torch import nn

from openvocab.config import instantiate
from openvocab.config.targets import children, real_name
from openvocab.data import TokenBudget
from openvocab.errors import ConfigError
from openvocab.text.identity import encoder_of

TARGET = f".{TokenBudget.__name__}"


def check_budgets(dataloader: DictConfig, model: nn.Module) -> None:
    """Compare every `TokenBudget` that a config's data names with the model's text encoder.

    Args:
        dataloader: of a config, not built yet.
        model: with a `text_encoder`, or a `detector` that has one; any other is not looked at. Tokenizers are compared where the
            encoder has a fixed list of tokens.

    Raises:
        ConfigError: if a budget counts the tokens of another tokenizer, or allows more than the encoder reads: texts would pass
            the loader and stop the training at some later step.
    """
    encoder = encoder_of(model)
    if encoder is None:
        return
    for place, node in _budgets(dataloader, "dataloader"):
        budget = instantiate(node)
        if encoder.tokenizer_id and budget.tokenizer_id != encoder.tokenizer_id:
            raise ConfigError(
                f"{place} counts tokens of '{budget.tokenizer_id}', the model's text encoder has '{encoder.tokenizer_id}': "
                "give the budget the encoder's `source`, or its `vocab_file`"
            )
        if budget.max_tokens > encoder.max_tokens:
            raise ConfigError(f"{place}.max_tokens={budget.max_tokens}, but the text encoder reads {encoder.max_tokens} at most")


def _budgets(node: object, place: str) -> Iterator[tuple[str, object]]:
    found = dict(children(node))
    target = found.get("_target_", "")
    if (target if isinstance(target, str) else real_name(target)).endswith(TARGET):
        yield place, node
        return
    for key, value in found.items():
        yield from _budgets(value, f"{place}.{key}")
