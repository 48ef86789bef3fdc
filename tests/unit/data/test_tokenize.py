"""Tokenization and truncation, for random conversations and tokenizers of several families."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.data_tokenizers import NAMES, byte_level, sentencepiece_like, tokenizer_of
from support.tiny import pairs
from transformers import PreTrainedTokenizerFast
from trl.data_utils import apply_chat_template
from trl.experimental.orpo import ORPOTrainer

from orpo_cli.data.chat_template import PairTexts
from orpo_cli.data.formats.detect import detect_format
from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.data.pair_encoder import PairEncoder
from orpo_cli.data.prepare import prepare
from orpo_cli.data.table import expand_pair
from orpo_cli.data.tokenize import PairTokens, truncate
from orpo_cli.errors import UsageError
from orpo_cli.model.builtin_chat_templates import BUILTIN_CHAT_TEMPLATES
from orpo_cli.model.chat_template_errors import ChatTemplateError
from orpo_cli.recipe.schema import DatasetSection

any_text = st.text(min_size=1, max_size=40).filter(lambda text: text.strip())
simple = st.sampled_from(
    ["The sky is blue.", " leading", "trailing \n", "\n\nlines\n", "emoji 🌊é", "Ünïcode 中文", "a", "  x"]
)


@st.composite
def conversations(draw: st.DrawFn) -> Pair:
    empty = st.sampled_from(["", " ", "\n"])  # a turn before the last, which no rule looks at
    turns = draw(st.lists(st.one_of(simple, any_text, empty), max_size=4).filter(lambda found: len(found) % 2 == 0))
    turns.append(draw(st.one_of(simple, any_text)))
    history = [Message(("user", "assistant")[index % 2], text) for index, text in enumerate(turns)]
    if draw(st.booleans()):
        history.insert(0, Message("system", draw(simple)))
    chosen, rejected = draw(st.lists(st.one_of(simple, any_text), min_size=2, max_size=2))
    return Pair(tuple(history), (Message("assistant", chosen),), (Message("assistant", rejected),))


ENCODERS: dict[PreTrainedTokenizerFast, PairEncoder] = {}


def encode(tokenizer: PreTrainedTokenizerFast, pair: Pair) -> tuple[PairTexts, PairTokens]:
    if tokenizer not in ENCODERS:
        ENCODERS[tokenizer] = PairEncoder(tokenizer)
    encoder = ENCODERS[tokenizer]
    (texts,) = encoder.render([pair])
    assert not isinstance(texts, RowRejected)
    return texts, encoder.tokenize([texts])[0]


def as_messages(messages: object) -> list[dict[str, str]]:
    return [message._asdict() for message in messages]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50, deadline=None)
@given(pair=conversations())
def test_prompt_ids_equal_inference_and_no_token_spans_the_boundary(name: str, pair: Pair) -> None:
    tokenizer = tokenizer_of(name)
    texts, tokens = encode(tokenizer, pair)
    assume(not texts.placeholders)  # special tokens in the text of a pair stay text, other than in apply_chat_template
    inference = tokenizer.apply_chat_template(as_messages(pair.prompt), add_generation_prompt=True)["input_ids"]
    if name == "opened_thought":  # its generation prompt is not part of a finished conversation
        assert "generation_prompt_shortened" in texts.notes
        assert tokens.prompt == inference[: len(tokens.prompt)]
    else:
        assert "generation_prompt_shortened" not in texts.notes
        assert tokens.prompt == inference
    for answer, ids in ((pair.chosen, tokens.chosen), (pair.rejected, tokens.rejected)):
        full = tokenizer.apply_chat_template(as_messages((*pair.prompt, *answer)), tokenize=False)
        seen = tokenizer.decode(tokens.prompt + ids)
        if name in ("zephyr", "mistral"):
            seen = seen.removeprefix(" ")  # which these tokenizers put before any text
        added = tokenizer.decode(ids[-1:]) if name in ("plain", "unmarked_chatml") else ""
        assert full.startswith(seen.removesuffix(added))
        assert seen.startswith(texts.prompt)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50, deadline=None)
@given(pair=conversations())
def test_each_completion_has_one_end_token_and_the_prompt_at_most_one_bos(name: str, pair: Pair) -> None:
    tokenizer = tokenizer_of(name)
    _, tokens = encode(tokenizer, pair)
    ends = {
        "llama3": {"<|eot_id|>"}, "phi3": {"<|end|>"}, "gemma": {"<end_of_turn>"}, "zephyr": {"</s>"}, "mistral": {"</s>"},
        "unmarked_chatml": {"</s>"},
    }.get(name, {"<|im_end|>"})  # fmt: skip
    end_ids = {tokenizer.convert_tokens_to_ids(end) for end in ends} | {tokenizer.eos_token_id}
    for ids in (tokens.chosen, tokens.rejected):
        assert tokenizer.convert_ids_to_tokens(ids[-1]) in ends
        assert sum(token in end_ids for token in ids) == 1
        assert len(ids) > 1
    if name in ("llama3", "gemma", "mistral"):
        assert tokens.prompt.count(tokenizer.bos_token_id) == 1
        assert tokens.prompt[0] == tokenizer.bos_token_id
    if name in ("zephyr", "unmarked_chatml"):  # the template writes none, so inference has none
        assert tokenizer.bos_token_id not in tokens.prompt


SPELLED = ["<|im_end|>", "<|im_start|>user", "</s>", "<s>", "<|eot_id|>", "<bos>", "<end_of_turn>", "<|begin_of_text|>"]
mixed = st.lists(st.one_of(simple, st.sampled_from(SPELLED)), min_size=1, max_size=6).map("".join)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50, deadline=None)
@given(
    turns=st.lists(mixed, min_size=1, max_size=3).filter(lambda turns: len(turns) % 2),
    answers=st.lists(mixed, min_size=2, max_size=2),
)
def test_special_token_text_in_a_message_is_encoded_as_text(name: str, turns: list[str], answers: list[str]) -> None:
    tokenizer = tokenizer_of(name)

    def pair(change: Callable[[str], str]) -> Pair:
        history = tuple(Message(("user", "assistant")[index % 2], change(text)) for index, text in enumerate(turns))
        chosen, rejected = ((Message("assistant", change(text)),) for text in answers)
        return Pair(history, chosen, rejected)

    _, tokens = encode(tokenizer, pair(str))
    _, harmless = encode(tokenizer, pair(lambda text: re.sub("|".join(map(re.escape, SPELLED)), "x", text)))
    special = {
        *tokenizer.all_special_ids,
        *(index for index, each in tokenizer.added_tokens_decoder.items() if each.special),
    }
    for ids, same in zip(tokens, harmless, strict=True):
        assert [token for token in ids if token in special] == [token for token in same if token in special]
    for answer, ids in zip(answers, (tokens.chosen, tokens.rejected), strict=True):
        assert answer.strip() in tokenizer.decode(ids)
    for turn in turns:
        assert turn.strip() in tokenizer.decode(tokens.prompt)


@pytest.mark.parametrize("name", ["zephyr", "mistral"])
def test_no_space_is_added_before_the_completion(name: str) -> None:
    tokenizer = tokenizer_of(name)
    pair = Pair(
        (Message("user", "What colour is the sky?"),),
        (Message("assistant", "It is blue."),),
        (Message("assistant", "No"),),
    )
    texts, tokens = encode(tokenizer, pair)
    full = tokenizer(texts.prompt + texts.chosen, add_special_tokens=False)["input_ids"]
    assert tokens.prompt + tokens.chosen == full


def test_a_template_without_end_token_gets_the_eos_instead_of_its_suffix() -> None:
    tokenizer = tokenizer_of("plain")
    pair = Pair((Message("user", "Who?"),), (Message("assistant", "You"),), (Message("assistant", "Nobody\n"),))
    _, tokens = encode(tokenizer, pair)
    assert tokenizer.decode(tokens.prompt + tokens.chosen) == "Question: Who?\nAnswer: You<|im_end|>"
    assert tokenizer.decode(tokens.rejected) == "Nobody\n<|im_end|>"


def test_golden_texts_of_each_template() -> None:
    pair = Pair(
        (Message("system", "Be brief."), Message("user", "Who?")),
        (Message("assistant", "You"),),
        (Message("assistant", "I"),),
    )
    seen = {}
    for name in NAMES:
        _, tokens = encode(tokenizer_of(name), pair)
        seen[name] = (tokenizer_of(name).decode(tokens.prompt).lstrip(), tokenizer_of(name).decode(tokens.chosen))
    chatml = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert seen == {
        "chatml": (chatml, "You<|im_end|>"),
        "phi": (chatml, "You<|im_end|>"),
        "thinking": (chatml, "<think>\n\n</think>\n\nYou<|im_end|>"),
        "opened_thought": ("<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nWho?<|im_end|><|im_start|>assistant\n",
                           "You<|im_end|>"),
        "plain": ("Question: Be brief.\nQuestion: Who?\nAnswer: ", "You<|im_end|>"),
        "llama3": ("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
                   "<|end_header_id|>\n\nWho?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "You<|eot_id|>"),
        "gemma": ("<bos><start_of_turn>user\nBe brief.\n\nWho?<end_of_turn>\n<start_of_turn>model\n", "You<end_of_turn>"),
        "phi3": ("<|system|>\nBe brief.<|end|>\n<|user|>\nWho?<|end|>\n<|assistant|>\n", "You<|end|>"),
        "zephyr": ("<|system|>\nBe brief.</s>\n<|user|>\nWho?</s>\n<|assistant|>\n", "You</s>"),
        "mistral": ("<s>[INST] Be brief.\n\nWho? [/INST]", " You</s>"),
        "unmarked_chatml": (chatml, "You</s>"),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "phi3", "zephyr", "mistral"])
def test_labels_cover_only_the_completion_and_its_end_token(name: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(name)
    row = {"prompt": [{"role": "user", "content": "Who?"}], "chosen": [{"role": "assistant", "content": "You"}],
           "rejected": [{"role": "assistant", "content": "I"}]}  # fmt: skip
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    section = DatasetSection.model_validate({"train": {"path": str(tmp_path / "x.jsonl")}})
    pair = expand_pair(prepare(section, tokenizer, max_length=200, max_prompt_length=100, note=print).train[0])
    end = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "phi3": "<|end|>"}.get(
        name, "</s>"
    )
    for answer, text in (("chosen", "You"), ("rejected", "I")):
        ids, labels = pair[f"{answer}_input_ids"], pair[f"{answer}_labels"]
        learned = [token for token, label in zip(ids, labels, strict=True) if label != -100]
        assert tokenizer.decode(learned).strip() == text + end
        assert tokenizer.convert_ids_to_tokens(learned[-1]) == end
        assert labels == [-100] * len(pair["prompt_input_ids"]) + learned
        assert pair[f"{answer}_attention_mask"] == [1] * len(ids)


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


FIT = {"max_length": 7, "max_prompt_length": 4, "truncation_mode": "keep_end", "bos_id": None}


def test_truncation_modes_of_a_long_prompt() -> None:
    tokens = PairTokens([1, 5, 6, 7, 8, 9], [20, 2], [21, 22, 2])
    assert truncate(tokens, **FIT).prompt == [6, 7, 8, 9]  # type: ignore[arg-type]
    assert truncate(tokens, **{**FIT, "bos_id": 1}).prompt == [1, 7, 8, 9]  # type: ignore[arg-type]
    assert truncate(tokens, **{**FIT, "truncation_mode": "keep_start"}).prompt == [1, 5, 6, 7]  # type: ignore[arg-type]
    assert truncate(tokens, **FIT).prompt_truncated  # type: ignore[arg-type]
    with pytest.raises(RowRejected) as caught:
        truncate(tokens, **{**FIT, "truncation_mode": "drop"})  # type: ignore[arg-type]
    assert caught.value.reason == "prompt_too_long"


@pytest.mark.parametrize("mode", ["keep_end", "keep_start", "drop"])
def test_a_pair_that_fits_is_not_truncated(mode: str) -> None:
    tokens = PairTokens([1, 5, 6, 7, 8, 9], [20, 2], [21, 22, 2])
    truncated = truncate(tokens, **{**FIT, "max_length": 9, "truncation_mode": mode})  # type: ignore[arg-type]
    assert truncated[:3] == tokens
    assert not truncated.prompt_truncated


def test_a_bos_of_every_turn_is_not_kept_by_truncation() -> None:
    tokens = PairTokens([1, 5, 6, 1, 7, 8], [20, 2], [21, 2])
    assert truncate(tokens, **{**FIT, "bos_id": 1}).prompt == [6, 1, 7, 8]  # type: ignore[arg-type]


@given(
    prompt=st.lists(st.integers(3, 50), min_size=1, max_size=30),
    answers=st.lists(st.lists(st.integers(3, 50), max_size=30), min_size=2, max_size=2),
    max_length=st.integers(1, 40),
    max_prompt_length=st.integers(1, 40),
    mode=st.sampled_from(["keep_end", "keep_start", "drop"]),
)
def test_no_sequence_exceeds_max_length_and_no_completion_is_empty(
    prompt: list[int], answers: list[list[int]], max_length: int, max_prompt_length: int, mode: str
) -> None:
    tokens = PairTokens(prompt, [*answers[0], 2], [*answers[1], 2])
    limits: dict[str, Any] = {"max_length": max_length, "max_prompt_length": max_prompt_length, "truncation_mode": mode}
    too_long = len(prompt) + max(len(tokens.chosen), len(tokens.rejected)) > max_length
    cuts_prompt = too_long and len(prompt) > max_prompt_length
    completion_space = max(0, max_length - (max_prompt_length if cuts_prompt else len(prompt)))
    expected_reason = (
        "prompt_too_long" if mode == "drop" and cuts_prompt else "identical_when_cut" if completion_space else "no_room"
    )
    if (
        expected_reason != "identical_when_cut"
        or tokens.chosen[:completion_space] == tokens.rejected[:completion_space]
    ):
        with pytest.raises(RowRejected) as caught:
            truncate(tokens, **limits, bos_id=3)
        assert caught.value.reason == expected_reason
        return
    truncated = truncate(tokens, **limits, bos_id=3)
    assert len(truncated.prompt) == (max_prompt_length if cuts_prompt else len(prompt))
    for answer, full in ((truncated.chosen, tokens.chosen), (truncated.rejected, tokens.rejected)):
        assert len(answer) >= 1
        assert len(truncated.prompt) + len(answer) <= max_length
        assert answer == full[: len(answer)]
    cut = sum(answer[-1] != 2 for answer in (truncated.chosen, truncated.rejected))
    assert truncated.completions_truncated == cut
    assert truncated.prompt_truncated == cuts_prompt
    assert too_long or truncated[:3] == tokens
    assert truncated.chosen != truncated.rejected
