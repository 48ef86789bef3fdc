"""Tiny model for `orpo train --smoke`: the architecture and tokenizer of a base model, with few random weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import HubError, HubRefused, MachineError
from orpo_cli.model.builtin_chat_templates import BUILTIN_CHAT_TEMPLATES
from orpo_cli.model.known_configs import guess_model_type, known_config
from orpo_cli.model.model_source import ModelSource
from orpo_cli.model.rope_scaling import apply_rope_scaling
from orpo_cli.model.shrink_config import shrink_config
from orpo_cli.model.tokenizer import load_tokenizer, resolve_chat_template
from orpo_cli.recipe.schema import ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Tokens of the built-in templates that mark turns. `<s>`, `</s>` and `<pad>` are added apart.
TURN_MARKERS = sorted(
    {marker for template in BUILTIN_CHAT_TEMPLATES.values() for marker in re.findall(r"<\|?\w+\|?>", template)}
)


@dataclass(frozen=True)
class TinyBase:
    """What was written. ``replaced``: a sentence for each replaced part. ``modules``: the names of its modules.

    ``is_guess``: the architecture is the one that the name of the model suggests. ``hub_message``: why the hub did not give the
    configuration, at the end of a sentence in ``replaced``; else empty.
    """

    config: PreTrainedConfig
    replaced: list[str]
    modules: tuple[str, ...]
    is_guess: bool
    hub_message: str


def save_tiny_base(source: ModelSource[ModelSection], folder: Path) -> TinyBase:
    """Write a tiny random model of the architecture of ``source`` to ``folder``, with its tokenizer.

    Without the hub, a configuration of this package or one by the name of the model replaces that of the model. Raises HubRefused if
    the hub refuses it and this package does not know it, MachineError if the model cannot be made small, and the errors of ``source``.
    """
    section, replaced = source.section, []
    try:
        tokenizer = load_tokenizer(source)
    except HubError as error:
        tokenizer = byte_tokenizer(section)
        replaced.append(f"tokenizer: one token a byte. {error.message}")
    config, change, hub_message, is_guess = _config_or_replacement(source)
    if hub_message:
        replaced = [each.removesuffix(f" {hub_message}") for each in replaced] + [f"{change} {hub_message}"]
    small, model = _tiny_model(config, tokenizer, section)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    width, layers = (
        f"{getattr(small.get_text_config(), name)} instead of {getattr(config.get_text_config(), name)}"
        for name in ("hidden_size", "num_hidden_layers")
    )
    replaced.insert(0, f"weights: random, of a {type(model).__name__} with width {width} and layers {layers}")
    return TinyBase(small, replaced, tuple(name for name, _ in model.named_modules()), is_guess, hub_message)


def _config_or_replacement(source: ModelSource[ModelSection]) -> tuple[PreTrainedConfig, str, str, bool]:
    """(configuration, what it is if it is not that of the model, message of the hub, whether its architecture is a guess)."""
    from transformers import AutoConfig

    section = source.section
    name = section.model_name_or_path
    try:
        return source.config(), "", "", False
    except HubError as error:
        known = known_config(name)
        if known is not None:
            replaced = f"configuration: the one that orpo-cli knows {name} has."
            return apply_rope_scaling(known, section), replaced, error.message, False
        if isinstance(error, HubRefused):
            raise
        guess = guess_model_type(name)
        replaced = f"architecture: {guess}, by the name of the model; the real one may differ."
        return apply_rope_scaling(AutoConfig.for_model(guess), section), replaced, error.message, True


def _tiny_model(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, section: ModelSection
) -> tuple[PreTrainedConfig, PreTrainedModel]:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        small = shrink_config(config, tokenizer)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(small, trust_remote_code=section.trust_remote_code)
        _fill_padding_row(model)
        return small, model
    except (AttributeError, ValueError, RuntimeError) as error:  # an unusual configuration lacks expected attributes
        raise MachineError(
            f"a small {config.model_type} model cannot be made: {error}",
            remedy="Try the recipe on the real model instead: --set training.max_steps=2",
        ) from error


def _fill_padding_row(model: PreTrainedModel) -> None:
    """Give the padding token random values, as every other token has: the pad token of many chat models also ends a turn.

    torch sets its row to 0, which would look like a token that was never trained.
    """
    import torch

    embeddings = model.get_input_embeddings()
    padding = getattr(embeddings, "padding_idx", None)
    if padding is not None:
        with torch.no_grad():
            embeddings.weight[padding].normal_(std=float(embeddings.weight.std()))


def byte_tokenizer(section: ModelSection) -> PreTrainedTokenizerBase:
    """A tokenizer with a token for each byte and for each marker of the built-in chat templates.

    It has the recipe's chat template, or ChatML where that is the template of the real tokenizer, which is not known.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    backend.add_special_tokens([*special, *TURN_MARKERS])
    template = section.chat_template
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=resolve_chat_template("chatml" if template == "tokenizer" else template),
    )
