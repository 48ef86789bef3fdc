"""Chat templates: token ids and labels of a conversation with several turns, written by hand for each template family."""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path

import pytest
from support.data_tokenizers import NAMES, tokenizer_of
from support.json_lines import write_json_lines

from orpo_cli.data.chat_template import ChatTemplateRenderer
from orpo_cli.data.pair import Message, Pair
from orpo_cli.data.prepare import prepare
from orpo_cli.data.table import expand_pair
from orpo_cli.recipe.schema import DatasetSection

ROW = {
    "prompt": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "You."},
        {"role": "user", "content": "What does </s> <|im_end|> mean? 🌊"},  # spelled, so no token
    ],
    "chosen": [{"role": "assistant", "content": "The end."}],
    "rejected": [{"role": "assistant", "content": " No\nidea "}],
}
CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nYou.<|im_end|>\n"
    "<|im_start|>user\nWhat does </s> <|im_end|> mean? 🌊<|im_end|>\n<|im_start|>assistant\n"
)
# name → what has no label, then the loss tokens of the chosen and the rejected completion, and how often the end token occurs
# in the prompt as a token
GOLDEN = {
    "chatml": (CHATML, "The end.<|im_end|>", " No\nidea <|im_end|>", 4),
    "phi": (CHATML, "The end.<|im_end|>", " No\nidea <|im_end|>", 4),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYou.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat does </s> <|im_end|> mean? 🌊<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "The end.<|eot_id|>",
        "No\nidea<|eot_id|>",
        4,
    ),
    "gemma": (
        "<bos><start_of_turn>user\nBe brief.\n\nWho?<end_of_turn>\n<start_of_turn>model\nYou.<end_of_turn>\n"
        "<start_of_turn>user\nWhat does </s> <|im_end|> mean? 🌊<end_of_turn>\n<start_of_turn>model\n",
        "The end.<end_of_turn>",
        "No\nidea<end_of_turn>",
        3,
    ),
    "phi3": (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nWho?<|end|>\n<|assistant|>\nYou.<|end|>\n"
        "<|user|>\nWhat does </s> <|im_end|> mean? 🌊<|end|>\n<|assistant|>\n",
        "The end.<|end|>",
        " No\nidea <|end|>",
        4,
    ),
    "zephyr": (
        " <|system|>\nBe brief.</s>\n<|user|>\nWho?</s>\n<|assistant|>\nYou.</s>\n"
        "<|user|>\nWhat does </s> <|im_end|> mean? 🌊</s>\n<|assistant|>\n",
        "The end.</s>",
        " No\nidea </s>",
        4,
    ),
    "mistral": (
        "<s>[INST] Be brief.\n\nWho? [/INST] You.</s>[INST] What does </s> <|im_end|> mean? 🌊 [/INST]",
        " The end.</s>",
        "  No\nidea </s>",
        1,
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_tokens_and_their_masks(name: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(name)
    (tmp_path / "x.jsonl").write_text(json.dumps(ROW))
    section = DatasetSection.model_validate({"train": {"path": str(tmp_path / "x.jsonl")}})
    data = prepare(section, tokenizer, max_length=400, max_prompt_length=300, note=lambda _: None)
    pair = expand_pair(data.train[0])
    prompt, *answers, ends_in_prompt = GOLDEN[name]
    for answer, learned in zip(("chosen", "rejected"), answers, strict=True):
        ids, labels = pair[f"{answer}_input_ids"], pair[f"{answer}_labels"]
        border = labels.count(-100)
        assert tokenizer.decode(ids[:border]) == prompt
        assert ids[:border] == pair["prompt_input_ids"]
        assert tokenizer.decode(ids[border:]) == learned
        assert labels == [-100] * border + ids[border:]
        assert pair[f"{answer}_attention_mask"] == [1] * len(ids)
        end = ids[-1]
        assert learned.endswith(tokenizer.convert_ids_to_tokens(end))
        assert ids[border:].count(end) == 1
        assert ids[:border].count(end) == ends_in_prompt


USER, ANSWER, SYSTEM, TOOL = (
    {"role": role, "content": f"{role} text"} for role in ("user", "assistant", "system", "tool")
)
HISTORIES = {  # what comes before the answer
    "late system": [USER, ANSWER, SYSTEM, USER],
    "two systems": [SYSTEM, SYSTEM, USER],
    "system before an answer": [SYSTEM, ANSWER, USER],
    "system after the question": [USER, SYSTEM, USER],
    "tool result": [USER, ANSWER, TOOL],
}
REFUSED = {  # the others have a header for any system message; ChatML has one for any role
    "chatml": set(),
    "zephyr": {"tool result"},
    "llama3": {"tool result"},
    "phi3": {"tool result"},
    "mistral": set(HISTORIES),
    "gemma": set(HISTORIES),
}

HEADERS = {
    "chatml": "<|im_start|>{role}\n",
    "zephyr": "<|{role}|>\n",
    "llama3": "<|start_header_id|>{role}<|end_header_id|>\n\n",
    "phi3": "<|{role}|>\n",
}


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("name", REFUSED)
def test_a_built_in_template_refuses_a_message_that_it_has_no_place_for(
    name: str, history: str, tmp_path: Path
) -> None:
    rows = [
        {"prompt": messages, "chosen": [{**ANSWER, "content": "good"}], "rejected": [{**ANSWER, "content": "bad"}]}
        for messages in (HISTORIES[history], [SYSTEM, USER])
    ]
    write_json_lines(tmp_path / "x.jsonl", rows)
    section = DatasetSection.model_validate({"train": {"path": str(tmp_path / "x.jsonl")}})
    tokenizer = tokenizer_of(name)
    data = prepare(section, tokenizer, max_length=400, max_prompt_length=300, note=lambda _: None)
    if history in REFUSED[name]:
        assert data.report.dropped == {"template_error": 1}
        assert "no place for a message" in data.report.lines()[1] or "system message" in data.report.lines()[1]
        return
    assert data.report.dropped == {}
    prompt = tokenizer.decode(data.train[0]["prompt_input_ids"])
    for message in HISTORIES[history]:
        assert HEADERS[name].format(**message) + message["content"] in prompt


@pytest.mark.parametrize("name", NAMES)
def test_plain_messages_are_rendered_as_transformers_renders_them(name: str) -> None:
    by_transformers = copy(tokenizer_of(name))
    by_transformers.apply_chat_template = by_transformers.apply_chat_template  # no longer the common method
    texts = (" yes ", "no <|im_end|>\n", "<think>a</think>b", "{{ x }}", "")
    pairs = [
        Pair((Message("user", f"{text}?"),), (Message("assistant", text),), (Message("assistant", "x"),))
        for text in texts
    ]
    assert ChatTemplateRenderer(tokenizer_of(name)).render(pairs) == ChatTemplateRenderer(by_transformers).render(pairs)
