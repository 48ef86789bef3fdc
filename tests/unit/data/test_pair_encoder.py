"""Plain texts, and tokenizers and templates that cannot encode a pair."""

from __future__ import annotations

import pytest
from support.data_tokenizers import byte_level, encode, sentencepiece_like

from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.data.pair_encoder import PairEncoder
from orpo_cli.errors import UsageError
from orpo_cli.model.builtin_chat_templates import BUILTIN_CHAT_TEMPLATES
from orpo_cli.model.chat_template_errors import ChatTemplateError


def test_plain_texts_get_one_bos_and_one_eos() -> None:
    for tokenizer in (byte_level(["<s>", "</s>"], None), sentencepiece_like(BUILTIN_CHAT_TEMPLATES["zephyr"])):
        _, tokens = encode(tokenizer, Pair("The sky is", " blue.", " not blue.</s> \n"))
        assert tokens.prompt == tokenizer("The sky is")["input_ids"]
        assert tokenizer.decode(tokens.chosen) == " blue.</s>"
        assert tokenizer.decode(tokens.rejected) == " not blue.</s>"
        _, spelled = encode(tokenizer, Pair("<s>The sky is", " blue.", " red."))
        assert spelled.prompt.count(tokenizer.bos_token_id) == 1


def test_plain_texts_need_no_template_but_conversations_do() -> None:
    tokenizer = byte_level(["<s>", "</s>"], None)
    assert encode(tokenizer, Pair("a b", " c", " d"))[0].chosen == " c"
    with pytest.raises(UsageError, match="has no chat template") as caught:
        PairEncoder(tokenizer).encode(
            Pair((Message("user", "hi"),), (Message("assistant", "a"),), (Message("assistant", "b"),))
        )
    assert caught.value.exit_code == 2
    assert "chatml" in str(caught.value.remedy)


def test_a_broken_template_is_a_data_error() -> None:
    tokenizer = byte_level(["<s>", "</s>"], "{{ raise_exception('never') }}")
    with pytest.raises(ChatTemplateError, match="line 1: never"):
        PairEncoder(tokenizer).encode(
            Pair((Message("user", "hi"),), (Message("assistant", "a"),), (Message("assistant", "b"),))
        )


def test_a_tokenizer_without_an_end_token_is_rejected() -> None:
    tokenizer = byte_level(["<s>", "</s>"], None)
    tokenizer.eos_token = None
    with pytest.raises(UsageError, match="no EOS"):
        PairEncoder(tokenizer)


def test_a_template_error_rejects_the_row() -> None:
    strict = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + BUILTIN_CHAT_TEMPLATES["chatml"]
    )
    tokenizer = byte_level(["<s>", "</s>", "<|im_end|>"], strict)
    answers = ((Message("assistant", "a"),), (Message("assistant", "b"),))
    with pytest.raises(RowRejected, match="no system role") as caught:
        PairEncoder(tokenizer).encode(Pair((Message("system", "x"), Message("user", "hi")), *answers))
    assert caught.value.reason == "template_error"


def test_a_template_that_changes_the_prompt_rejects_the_row() -> None:
    template = "{{ messages | length }}" + BUILTIN_CHAT_TEMPLATES["chatml"] + "{{ messages[-1]['content'] | length }}"
    template = "{{ messages[-1]['content'] | length }}" + template
    pair = Pair((Message("user", "hi"),), (Message("assistant", "a"),), (Message("assistant", "bb"),))
    with pytest.raises(RowRejected) as caught:
        PairEncoder(byte_level(["<s>", "</s>"], template)).encode(pair)
    assert caught.value.reason == "template_mismatch"
