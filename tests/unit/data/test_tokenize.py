"""Token ids of random conversations, for tokenizers of several families."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.data_tokenizers import NAMES, encode, tokenizer_of

from orpo_cli.data.pair import Message, Pair
from orpo_cli.data.prepare import prepare
from orpo_cli.data.table import expand_pair
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
