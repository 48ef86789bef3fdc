"""Prompts to compare models on: eight built-in texts, and prompts of the run's dataset if its files are available."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.data.formats.detect import detect_format, rename_columns
from orpo_cli.data.pair import Pair, RowRejected
from orpo_cli.data.pair_encoder import PairEncoder
from orpo_cli.data.sources.sample import sample_rows
from orpo_cli.data.sources.source import open_source
from orpo_cli.data.turns import read_pairs
from orpo_cli.errors import OrpoError
from orpo_cli.model.chat_template_errors import explain_template_errors
from orpo_cli.planning.plan import Plan
from orpo_cli.recipe.schema import DatasetSection, Source

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

# Varied text: prose, a question, code, numbers, other scripts.
BUILT_IN_PROMPTS = (
    "How long should I boil an egg if I like the yolk soft?",
    "Explain to a ten-year-old why the sky is blue.",
    "Write a polite email that moves Thursday's meeting to Friday morning.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "The capital of Australia is Canberra, and the capital of Canada is",
    "What is 17 times 23? Show the steps.",
    "Ich hätte gern zwei Brötchen und einen Kaffee, bitte.",
    "東京は日本の首都です。人口は約",
)
RUN_PROMPT_COUNT = 4
MAX_PROMPT_TOKENS = 512  # only the last tokens of a longer prompt are used


def built_in_prompts(tokenizer: PreTrainedTokenizerBase) -> list[Tensor]:
    """Token ids (1, tokens) of each BUILT_IN_PROMPTS, rendered as a user message if the tokenizer has a chat template."""
    special = not tokenizer.chat_template  # a chat template writes the special tokens
    texts = render_prompts(tokenizer, BUILT_IN_PROMPTS)
    ids = [
        tokenizer(text, add_special_tokens=special, return_tensors="pt").input_ids[:, -MAX_PROMPT_TOKENS:]
        for text in texts
    ]
    return [each for each in ids if each.numel()]


def render_prompts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[str]:
    """``texts``, each rendered as a user message if the tokenizer has a chat template."""
    if not tokenizer.chat_template:
        return list(texts)
    conversations = [[{"role": "user", "content": text}] for text in texts]
    with explain_template_errors(tokenizer):
        rendered = tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=True)
    return [str(text) for text in rendered]


def run_prompts(plan: Plan, tokenizer: PreTrainedTokenizerBase) -> list[Tensor]:
    """Token ids (1, tokens) of the first held-out (else training) prompts from a local file; empty without such a file."""
    sources = [*(plan.dataset.eval if isinstance(plan.dataset.eval, list) else []), *plan.dataset.train]
    source = next((each for each in sources if Path(each.path).expanduser().exists()), None)
    if source is None:
        return []
    try:
        return _read_prompts(source, plan.dataset, tokenizer)
    except OrpoError:  # the data has changed or was removed: the built-in prompts are enough
        return []


def _read_prompts(source: Source, dataset: DatasetSection, tokenizer: PreTrainedTokenizerBase) -> list[Tensor]:
    import torch

    with open_source(source, source.path, lambda text: None) as found:
        rows = [
            rename_columns(row.value, source.columns)
            for row in islice(sample_rows(found, source, dataset.shuffle_seed).rows, 4 * RUN_PROMPT_COUNT)
        ]
    format_ = detect_format(rows, source.format, source.path, labels=source.labels, columns=source.columns)
    pairs = []
    for row in rows:
        with suppress(RowRejected):
            found_pairs = read_pairs(row, format_, dataset, Counter()) if isinstance(row, dict) else []
            pairs += [pair for pair in found_pairs if isinstance(pair, Pair)]
    encoder = PairEncoder(tokenizer)
    texts = [each for each in encoder.render(pairs) if not isinstance(each, RowRejected)]
    encoded = encoder.tokenize(texts[:RUN_PROMPT_COUNT])
    return [torch.tensor([tokens.prompt[-MAX_PROMPT_TOKENS:]]) for tokens in encoded if tokens.prompt]
