"""Token ids compared with those of TRL's preprocessing."""

from __future__ import annotations

from collections import Counter

import pytest
from support.data_tokenizers import encode, tokenizer_of
from support.tiny import pairs
from transformers import PreTrainedTokenizerFast
from trl.data_utils import apply_chat_template
from trl.experimental.orpo import ORPOTrainer

from orpo_cli.data.formats.detect import detect_format


def trl_ids(tokenizer: PreTrainedTokenizerFast, row: dict[str, str], max_length: int = 1024) -> dict[str, list[int]]:
    """Token ids from the preprocessing of trl."""
    trainer = object.__new__(ORPOTrainer)
    trainer.processing_class, trainer.is_encoder_decoder, trainer.max_length = tokenizer, False, max_length
    return trainer.tokenize_row(row)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "mistral"])
def test_ids_equal_those_of_trl_for_the_same_texts(name: str) -> None:
    tokenizer = tokenizer_of(name)
    tokenizer = tokenizer if name in ("chatml", "mistral") else with_eos(tokenizer)
    read = detect_format(pairs(6)).read
    for row in pairs(6):
        texts, tokens = encode(tokenizer, read(row, Counter()))
        trl = trl_ids(tokenizer, {"prompt": texts.prompt, "chosen": texts.chosen, "rejected": texts.rejected})
        assert trl["prompt_input_ids"] == tokens.prompt
        assert trl["chosen_input_ids"] == tokens.prompt + tokens.chosen
        assert trl["rejected_input_ids"] == tokens.prompt + tokens.rejected
        assert trl["chosen_labels"] == [-100] * len(tokens.prompt) + tokens.chosen


def with_eos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A copy whose EOS is its end of turn, as in instruct models; trl adds the EOS otherwise."""
    kinds = {"<|begin_of_text|>": "<|eot_id|>", "<bos>": "<end_of_turn>"}
    copied = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        bos_token=tokenizer.bos_token,
        eos_token=kinds[tokenizer.bos_token],
    )
    copied.chat_template = tokenizer.chat_template
    return copied


def test_trl_adds_a_second_end_token_to_chatml() -> None:
    tokenizer = tokenizer_of("chatml")
    row = pairs(1)[0]
    trl = trl_ids(tokenizer, apply_chat_template(row, tokenizer))
    encoded = encode(tokenizer, detect_format([row]).read(row, Counter()))[1]
    newline = tokenizer("\n")["input_ids"]
    assert trl["chosen_input_ids"] == encoded.prompt + encoded.chosen + newline + [tokenizer.eos_token_id]
