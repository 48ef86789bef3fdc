"""Thinking templates: token ids of answers with reasoning, written by hand for each family, and what the report says of them.

The templates are those that trl ships, and SmolLM3's, written after the public one (its system text is shortened).
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trl
from support.data_tokenizers import byte_level
from tokenizers.normalizers import Lowercase
from transformers import PreTrainedTokenizerFast

from orpo_cli.data.formats.preference import read
from orpo_cli.data.messages import read_messages
from orpo_cli.data.pair import RowRejected
from orpo_cli.data.pair_encoder import PairEncoder
from orpo_cli.data.prepare import PreparedData, prepare
from orpo_cli.data.report import NOTES
from orpo_cli.recipe.schema import DatasetSection

SMOLLM3 = (
    "{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}"
    "{%- set mode = '/think' if enable_thinking else '/no_think' -%}"
    "{%- if messages[0].role == 'system' -%}{%- set text = messages[0].content -%}"
    "{%- if '/no_think' in text -%}{%- set mode = '/no_think' -%}{%- elif '/think' in text -%}{%- set mode = '/think' -%}{%- endif -%}"
    "{%- set custom = text.replace('/no_think', '').replace('/think', '').rstrip() -%}{%- endif -%}"
    "{{- '<|im_start|>system\n## Metadata\n\nReasoning Mode: ' + mode + '\n\n## Custom Instructions\n\n' -}}"
    "{{- custom if custom else 'You are SmolLM.' -}}{{- '<|im_end|>\n' -}}"
    "{%- for message in messages -%}{%- set content = message.content if message.content is string else '' -%}"
    "{%- if message.role == 'user' -%}{{ '<|im_start|>user\n' + content + '<|im_end|>\n' }}"
    "{%- elif message.role == 'assistant' -%}{% generation %}{%- if mode == '/think' -%}"
    "{{ '<|im_start|>assistant\n' + content.lstrip('\n') + '<|im_end|>\n' }}{%- else -%}"
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n' + content.lstrip('\n') + '<|im_end|>\n' }}{%- endif -%}{% endgeneration %}"
    "{%- elif message.role == 'tool' -%}{{ '<|im_start|>user\n' + content + '<|im_end|>\n' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' if mode == '/think' else "
    "'<|im_start|>assistant\n<think>\n\n</think>\n' }}{%- endif -%}"
)
CHATML = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")
HARMONY = ("<|startoftext|>", "<|return|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>")
GLM = ("[gMASK]", "<|endoftext|>", "<sop>", "<|user|>", "<|assistant|>", "<think>", "</think>")
FAMILIES = {
    "qwen3": CHATML,
    "qwen3_5_think": CHATML,
    "qwen3_5_nothink": CHATML,
    "nemotron_3_nano": CHATML,
    "smollm3": CHATML,
    "deepseek_r1_distill": DEEPSEEK,
    "gptoss": HARMONY,
    "glm4moe": GLM,
}
QUESTION = {"role": "user", "content": "What is 1+0?"}
FIELD = {"role": "assistant", "reasoning_content": "one and none", "content": "It is 1."}
TEXT = {"role": "assistant", "content": "<think>\none and none\n</think>\n\nIt is 1."}
WITHOUT = {"role": "assistant", "content": "It is 1."}
HARMONY_ANSWER = "<|channel|>final<|message|>It is 1.<|return|>"
ANALYSIS = "<|channel|>analysis<|message|>one and none<|end|><|start|>assistant"
BLOCK = "<think>\none and none\n</think>\n\nIt is 1.<|im_end|>"
SHORTENED = "generation_prompt_shortened"

# template, answer → end of the prompt, the completion, and the notes
GOLDEN = [
    ("qwen3", FIELD, "<|im_start|>assistant\n", BLOCK, ["reasoning_trained"]),
    ("qwen3", TEXT, "<|im_start|>assistant\n", BLOCK, ["reasoning_trained"]),
    (
        "qwen3",
        WITHOUT,
        "<|im_start|>assistant\n",
        "<think>\n\n</think>\n\nIt is 1.<|im_end|>",
        ["empty_thinking_trained"],
    ),
    ("qwen3_5_think", FIELD, "<|im_start|>assistant\n<think>\n", BLOCK.removeprefix("<think>\n"), ["reasoning_trained"]),
    ("qwen3_5_think", WITHOUT, "assistant\n<think>\n", "\n</think>\n\nIt is 1.<|im_end|>", ["empty_thinking_trained"]),
    ("qwen3_5_nothink", WITHOUT, "<think>\n\n</think>\n\n", "It is 1.<|im_end|>", []),
    ("qwen3_5_nothink", FIELD, "assistant\n<think>\n", BLOCK.removeprefix("<think>\n"), [SHORTENED, "reasoning_trained"]),
    (
        "nemotron_3_nano",
        FIELD,
        "assistant\n<think>\n",
        "one and none\n</think>\nIt is 1.<|im_end|>",
        ["reasoning_trained"],
    ),
    ("nemotron_3_nano", WITHOUT, "assistant\n<think></think>", "It is 1.<|im_end|>", [SHORTENED]),
    ("smollm3", TEXT, "<|im_start|>assistant\n", BLOCK, ["reasoning_trained"]),
    ("smollm3", FIELD, "<|im_start|>assistant\n", "It is 1.<|im_end|>", ["reasoning_removed"]),
    ("smollm3", WITHOUT, "<|im_start|>assistant\n", "It is 1.<|im_end|>", []),
    ("deepseek_r1_distill", FIELD, "1+0?<｜Assistant｜>", "It is 1.<｜end▁of▁sentence｜>", [SHORTENED, "reasoning_removed"]),
    ("deepseek_r1_distill", TEXT, "1+0?<｜Assistant｜>", "\n\nIt is 1.<｜end▁of▁sentence｜>", [SHORTENED, "reasoning_removed"]),
    ("deepseek_r1_distill", WITHOUT, "1+0?<｜Assistant｜>", "It is 1.<｜end▁of▁sentence｜>", [SHORTENED]),
    ("gptoss", FIELD, "<|end|><|start|>assistant", ANALYSIS + HARMONY_ANSWER, ["reasoning_trained"]),
    ("gptoss", WITHOUT, "<|end|><|start|>assistant", HARMONY_ANSWER, []),
    ("glm4moe", FIELD, "<|assistant|>", "\n<think>one and none</think>\nIt is 1.<|endoftext|>", ["reasoning_trained"]),
    ("glm4moe", WITHOUT, "<|assistant|>", "\n<think></think>\nIt is 1.<|endoftext|>", ["empty_thinking_trained"]),
]  # fmt: skip


@cache
def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    """A tokenizer with the markers of the family, and its template."""
    path = Path(trl.__file__).parent / "chat_templates" / f"{family}.jinja"
    return byte_level([*FAMILIES[family]], SMOLLM3 if family == "smollm3" else path.read_text(encoding="utf-8"))


def wrong(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer with another number."""
    return {**answer, "content": answer["content"].replace("1.", "9.")}


@pytest.mark.parametrize(("family", "answer", "end_of_prompt", "completion", "notes"), GOLDEN)
def test_tokens_of_an_answer(
    family: str, answer: dict[str, Any], end_of_prompt: str, completion: str, notes: list[str]
) -> None:
    encoder = PairEncoder(tokenizer_of(family))
    pair = read({"prompt": [QUESTION], "chosen": [answer], "rejected": [wrong(answer)]}, Counter())
    (texts,) = encoder.render([pair])
    assert not isinstance(texts, RowRejected)
    (ids,) = encoder.tokenize([texts])
    assert encoder.tokenizer.decode(ids.prompt).endswith(end_of_prompt)
    assert encoder.tokenizer.decode(ids.chosen) == completion
    assert encoder.tokenizer.decode(ids.rejected) == completion.replace("1.", "9.")
    assert list(texts.notes) == notes or sorted(texts.notes) == sorted(notes)
    assert {*texts.notes} <= {*NOTES}


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
@pytest.mark.parametrize("family", ["qwen3", "gptoss", "glm4moe"])
def test_each_name_of_the_reasoning_is_read(family: str, name: str) -> None:
    answer = {"role": "assistant", name: "one and none", "content": "It is 1."}
    (texts,) = PairEncoder(tokenizer_of(family)).render(
        [read({"prompt": [QUESTION], "chosen": [answer], "rejected": [wrong(WITHOUT)]}, Counter())]
    )
    assert not isinstance(texts, RowRejected)
    assert texts.chosen.count("one and none") == 1
    assert "one and none" not in texts.rejected


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "thinking", "thinking": "one"}, {"type": "text", "text": "1"}],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "one"}]}, {"type": "text", "text": "1"}],
        [{"type": "reasoning", "text": "one"}, {"type": "text", "text": "1"}],
    ],
)
def test_reasoning_in_content_parts(parts: list[dict[str, Any]]) -> None:
    (message,) = read_messages([{"role": "assistant", "content": parts}], "chosen", "assistant")
    assert (message.content, message.reasoning) == ("1", "one")


@pytest.mark.parametrize(("value", "expected"), [(["one", "two"], "one\n\ntwo"), ({"effort": "low"}, "")])
def test_reasoning_that_is_a_list_or_a_setting(value: Any, expected: str) -> None:
    item = {"role": "assistant", "content": "1", "reasoning": value}
    (message,) = read_messages([item], "chosen", "assistant")
    assert (message.reasoning or "") == expected


def test_all_thinking_parts_of_an_answer_are_kept() -> None:
    parts = [
        {"type": "thinking", "thinking": "one"},
        {"type": "thinking", "thinking": "two"},
        {"type": "text", "text": "1"},
    ]
    (message,) = read_messages([{"role": "assistant", "content": parts}], "chosen", "assistant")
    assert (message.content, message.reasoning) == ("1", "one\n\ntwo")


def test_reasoning_of_one_answer_only() -> None:
    """The generation prompt opens a block that the template closes at once where an answer has no reasoning."""
    pair = read({"prompt": [QUESTION], "chosen": [FIELD], "rejected": [wrong(WITHOUT)]}, Counter())
    (texts,) = PairEncoder(tokenizer_of("nemotron_3_nano")).render([pair])
    assert not isinstance(texts, RowRejected)
    assert texts.prompt.endswith("assistant\n<think>")
    assert texts.chosen == "\none and none\n</think>\nIt is 1.<|im_end|>"
    assert texts.rejected == "</think>It is 9.<|im_end|>"


def prepared(
    folder: Path, tokenizer: PreTrainedTokenizerFast, *rows: tuple[dict[str, Any], dict[str, Any]], **section: Any
) -> PreparedData:
    """The pairs of chosen and rejected answers, after a pair that any template can render."""
    answers = [(WITHOUT, {"role": "assistant", "content": "A river."}), *rows]
    lines = [
        json.dumps({"prompt": [QUESTION], "chosen": [chosen], "rejected": [rejected]}) for chosen, rejected in answers
    ]
    (folder / "x.jsonl").write_text("\n".join(lines))
    dataset = DatasetSection.model_validate({"train": {"path": str(folder / "x.jsonl")}, **section})
    return prepare(dataset, tokenizer, max_length=400, max_prompt_length=300, note=lambda _: None)


@pytest.mark.parametrize("answer", [FIELD, TEXT])
def test_answers_that_differ_only_in_removed_reasoning(answer: dict[str, Any], tmp_path: Path) -> None:
    rejected = json.loads(json.dumps(answer).replace("none", "two"))
    report = prepared(tmp_path, tokenizer_of("deepseek_r1_distill"), (answer, rejected)).report
    assert report.dropped == {"identical_when_rendered": 1}
    assert "x.jsonl:2 (the chat template writes both in the same way)" in "\n".join(report.lines())
    assert prepared(tmp_path, tokenizer_of("qwen3"), (answer, rejected)).report.kept == 2
    rules = {"rules": {"identical": False}}
    assert prepared(tmp_path, tokenizer_of("deepseek_r1_distill"), (answer, rejected), **rules).report.kept == 2


def test_answers_that_the_tokenizer_encodes_alike(tmp_path: Path) -> None:
    tokenizer = byte_level(["<s>", "</s>", *CHATML], tokenizer_of("qwen3").chat_template)
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    report = prepared(tmp_path, tokenizer, (WITHOUT, {**WITHOUT, "content": "IT IS 1."})).report
    assert report.dropped == {"identical_when_rendered": 1}
    assert "the tokenizer encodes both in the same way" in "\n".join(report.lines())


def test_reasoning_that_is_not_trained_is_a_warning(tmp_path: Path) -> None:
    report = prepared(tmp_path, tokenizer_of("deepseek_r1_distill"), (FIELD, wrong(FIELD))).report
    assert report.sources[0].notes["reasoning_removed"] == 1
    assert f"  warning: 1 rows {NOTES['reasoning_removed']}" in report.lines()


def test_text_of_an_answer_that_the_template_removes(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.split('P.S.')[0] + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    answer = {"role": "assistant", "content": "It is 1. P.S. Really."}
    report = prepared(tmp_path, byte_level(["<s>", "</s>", *CHATML], template), (answer, wrong(answer))).report
    assert report.sources[0].notes == {"answer_text_removed": 1}


IGNORES = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}"
INSTRUCTION = "{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else ' ' + m.content + '</s>' }}{% endfor %}"


@pytest.mark.parametrize(("template", "notes"), [(IGNORES, {"generation_prompt_ignored": 1}), (INSTRUCTION, {})])
def test_template_that_ignores_the_generation_prompt(template: str, notes: dict[str, int], tmp_path: Path) -> None:
    """The start of the assistant's turn is trained, since the model has to write it. Mistral's template has none."""
    data = prepared(tmp_path, byte_level(["<s>", "</s>", *CHATML], template))
    assert data.report.sources[0].notes == notes
    if notes:
        assert any(line.startswith("  warning: 1 rows train the start of") for line in data.report.lines())


def test_reasoning_of_earlier_turns_and_lost_messages(tmp_path: Path) -> None:
    template = tokenizer_of("qwen3").chat_template.replace('(message.role == "system" and not loop.first)', "false")
    late_system = {"role": "system", "content": "Be terse."}
    row = {"prompt": [QUESTION, FIELD, late_system, QUESTION], "chosen": [WITHOUT], "rejected": [wrong(WITHOUT)]}
    (texts,) = PairEncoder(byte_level([*CHATML], template)).render([read(row, Counter())])
    assert not isinstance(texts, RowRejected)
    assert {*texts.notes} == {"earlier_reasoning_removed", "message_not_rendered", "empty_thinking_trained"}


def test_switch_in_the_system_text_is_no_lost_message() -> None:
    system = {"role": "system", "content": "Be terse. /no_think"}
    row = {"prompt": [system, QUESTION], "chosen": [WITHOUT], "rejected": [wrong(WITHOUT)]}
    (texts,) = PairEncoder(tokenizer_of("smollm3")).render([read(row, Counter())])
    assert not isinstance(texts, RowRejected)
    assert texts.prompt.endswith("assistant\n<think>\n\n</think>\n")
    assert (texts.chosen, texts.notes) == ("It is 1.<|im_end|>", ())


CALL = {
    "role": "assistant",
    "content": "",
    "thinking": "use add",
    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
}


@pytest.mark.parametrize(
    ("family", "call", "ends"),
    [
        (
            "gptoss",
            "<|channel|>analysis<|message|>use add<|end|><|start|>assistant to=functions.add<|channel|>commentary json<|message|>"
            '{"a": 1}<|call|>',
            ("<|return|>", "<|call|>"),
        ),
        (
            "qwen3",
            '<think>\nuse add\n</think>\n\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>',
            ("<|im_end|>",),
        ),
    ],
)
def test_answer_that_calls_a_tool(family: str, call: str, ends: tuple[str, ...]) -> None:
    """A tool call ends with the token that ends it, which may be another one than that of an answer."""
    encoder = PairEncoder(tokenizer_of(family))
    pair = read({"prompt": [QUESTION], "chosen": [CALL], "rejected": [WITHOUT]}, Counter())
    assert encoder.tokenizer.decode(encoder.encode(pair).chosen) == call
    assert {*encoder.end_tokens} == {*ends}
