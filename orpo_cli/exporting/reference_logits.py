"""Reference logits: prompts, and the model's logits on them before the export, which every export is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

from orpo_cli.data.pair_encoder import end_token_ids
from orpo_cli.exporting.export_source import ExportSource
from orpo_cli.merging.compare_models import STORAGE_TOLERANCE
from orpo_cli.verify.compare_logits import Tolerance, compute_logits
from orpo_cli.verify.prompts import BUILT_IN_PROMPTS, render_prompts

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

# Twenty with BUILT_IN_PROMPTS, which merges are compared on.
FURTHER_PROMPTS = (
    "Name three rivers in Europe.",
    "Is it safe to eat raw potatoes?",
    "Summarise in one sentence: The meeting was moved because the room was double-booked.",
    "Translate 'good morning' into French, Spanish and Italian.",
    "What should I pack for two days in the mountains in autumn?",
    "Write a haiku about rain.",
    "SELECT name, count(*) FROM orders",
    "The train leaves at 9:40 and takes 2 h 35 min. When does it arrive?",
    "Quelle est la capitale du Portugal ?",
    "Почему небо голубое?",
    "¿Cuántos días tiene un año bisiesto?",
    'Give me a JSON object with the keys "name" and "age".',
)
PROMPTS = (*BUILT_IN_PROMPTS, *FURTHER_PROMPTS)
MAX_PROMPT_TOKENS = 128

# Allowed difference of an export's logits, computed in float32, from the model's. Measured on SmolLM2-135M-Instruct trained
# by the quickstart: see docs/how-to/export.md. Quantized types fail only if they are unusable; their difference is shown.
EXPORT_TOLERANCE = {
    **STORAGE_TOLERANCE,
    "8 bits": Tolerance(relative=0.15, same_argmax=0.80),
    "fewer bits": Tolerance(relative=0.9, same_argmax=0.30),
}
# For logits that were computed in float16 or bfloat16, because float32 did not fit into memory.
TOLERANCE_16_BIT = Tolerance(relative=0.20, same_argmax=0.85)


@dataclass(frozen=True)
class ReferenceLogits:
    """Logits of the model before the export.

    ``prompt_texts``: prompts rendered in the chat template. ``prompt_ids``: their token ids (1, tokens). ``logits``: float32
    (tokens, vocab_size) of each prompt, computed in ``dtype``; empty if ``dtype`` is None.
    """

    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: list[int]
    prompt_texts: list[str]
    prompt_ids: list[Tensor]
    logits: list[Tensor]
    dtype: str | None


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of rendered texts. Special tokens are added only without a chat template, which writes them itself."""
    special = not tokenizer.chat_template
    return [tokenizer(text, add_special_tokens=special).input_ids[:MAX_PROMPT_TOKENS] for text in texts]


def compute_reference(source: ExportSource, dtype: str | None) -> ReferenceLogits:
    """Load the model in ``dtype`` on the CPU, compute its logits and free it."""
    import torch

    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.model.tokenizer import load_saved_tokenizer

    tokenizer = load_saved_tokenizer(source.folder, trust_remote_code=source.base.trust_remote_code)
    texts = render_prompts(tokenizer, PROMPTS)
    prompt_ids = [torch.tensor([ids]) for ids in token_ids(tokenizer, texts)]
    # end_token_ids reads only the generation config of a model
    configured = SimpleNamespace(generation_config=ModelSource(source.section()).generation_config())
    eos_token_ids = end_token_ids(configured, tokenizer)
    logits = compute_logits(source.load(dtype=dtype), prompt_ids) if dtype is not None else []
    return ReferenceLogits(tokenizer, eos_token_ids, texts, prompt_ids, logits, dtype)
