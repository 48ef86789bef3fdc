"""Ollama Modelfile, with which Ollama imports a GGUF file: ``ollama create NAME -f Modelfile``.

Ollama renders prompts with Go templates. It recognizes a few Jinja templates and ignores all others, so this module
translates the Jinja template: it renders test conversations, takes the text before and after each message, and writes the
translation only if it renders other conversations identically. Templates that depend on more than roles are not translated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.exporting.export_record import Checklist
from orpo_cli.exporting.reference_logits import ReferenceLogits
from orpo_cli.model.chat_template_limits import limit_chat_templates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Conversation = list[dict[str, str]]

SYSTEM_MESSAGE, FIRST_QUESTION, FIRST_ANSWER, SECOND_QUESTION = (
    "Be of use.",
    "First question",
    "First answer",
    "Second question",
)


@dataclass(frozen=True)
class TemplateParts:
    """Fixed texts of a chat template. ``affixes``: the texts before and after a message, by role."""

    affixes: dict[str, tuple[str, str]]
    generation_prompt: str
    bos: str
    default_system: str | None

    def render(self, messages: Conversation) -> str:
        """The prompt as Ollama renders it, to compare it with the Jinja template."""
        if self.default_system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.default_system}, *messages]
        turns = [(self.affixes[message["role"]], message["content"]) for message in messages]
        return self.bos + "".join(before + text + after for (before, after), text in turns) + self.generation_prompt

    def fixed_texts(self) -> list[str]:
        """All fixed texts of the template."""
        affixes = [text for pair in self.affixes.values() for text in pair]
        return [self.bos, self.generation_prompt, self.default_system or "", *affixes]

    def to_go_template(self) -> str:
        """The Go template."""
        content = {role: f"{before}{{{{ .Content }}}}{after}" for role, (before, after) in self.affixes.items()}
        return (
            f'{self.bos}{{{{ range .Messages }}}}{{{{ if eq .Role "system" }}}}{content["system"]}'
            f'{{{{ else if eq .Role "user" }}}}{content["user"]}{{{{ else }}}}{content["assistant"]}{{{{ end }}}}{{{{ end }}}}'
            f"{self.generation_prompt}"
        )


def write_modelfile(folder: Path, file: str, reference: ReferenceLogits, checklist: Checklist) -> None:
    """Write ``Modelfile`` next to the GGUF ``file``."""
    tokenizer = reference.tokenizer
    lines = [f"FROM ./{file}"]
    parts = parse_chat_template(tokenizer) if tokenizer.chat_template else None
    if parts is not None:
        lines.append(f'TEMPLATE """{parts.to_go_template()}"""')
        if parts.default_system is not None:
            lines.append(f'SYSTEM """{parts.default_system}"""')
        found = "the chat template, translated; stop tokens"
    elif not tokenizer.chat_template:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
        found = "no chat template, as in the model; stop tokens"
    else:
        lines.append(
            "# The chat template cannot be written as an Ollama template: Ollama uses the template in the GGUF file if it "
            "recognizes it."
        )
        found = "stop tokens; the chat template cannot be translated, so Ollama uses that in the GGUF file if it recognizes it"
    lines += [
        f"PARAMETER stop {json.dumps(str(token), ensure_ascii=False)}"
        for token in tokenizer.convert_ids_to_tokens(reference.eos_token_ids)
    ]
    (folder / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
    checklist.remark("Modelfile", found)


def parse_chat_template(tokenizer: PreTrainedTokenizerBase) -> TemplateParts | None:
    """The fixed texts of the chat template; None if it cannot be expressed as texts around messages."""
    from jinja2 import TemplateError

    try:
        bos = _template_bos(tokenizer)
        if bool(bos) and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]:  # llama.cpp adds the BOS token, too
            return _parse_with_bos(tokenizer, bos, "")
        return _parse_with_bos(tokenizer, "", "") or (_parse_with_bos(tokenizer, bos, bos) if bos else None)
    except (TemplateError, TypeError, ValueError):  # for example, a template that refuses a system message
        return None


def _parse_with_bos(tokenizer: PreTrainedTokenizerBase, removed: str, bos: str) -> TemplateParts | None:
    """The fixed texts, with ``removed`` at the start of rendered prompts replaced by ``bos``."""

    def render(conversation: Conversation) -> str:
        return _render(tokenizer, conversation).removeprefix(removed)

    single, _, _, full = map(render, _conversations(FIRST_QUESTION, FIRST_ANSWER, SECOND_QUESTION))
    parts = _infer_parts(single, full, bos)
    if parts is None or any(delimiter in "".join(parts.fixed_texts()) for delimiter in ('"""', "{{", "}}")):
        return None
    others = _conversations("Why?", "Because.\nSo it is.", "And then?")
    return parts if all(parts.render(each) == bos + render(each) for each in others) else None


def _infer_parts(single: str, full: str, bos: str) -> TemplateParts | None:
    """The fixed texts from two rendered prompts: a single question, and a conversation with a system message."""
    texts = _split_around(full, SYSTEM_MESSAGE, FIRST_QUESTION, FIRST_ANSWER, SECOND_QUESTION)
    start = _split_around(single, FIRST_QUESTION)
    if texts is None or start is None:
        return None
    before_system, after_system, between, after_answer, end = texts
    before_user = _common_suffix(_common_suffix(after_system, after_answer), start[0])
    after = after_system.removesuffix(before_user)
    after_user = after if between.startswith(after) and end.startswith(after) else _common_prefix(between, end)
    default = start[0].removesuffix(before_user)
    if default and not (default.startswith(before_system) and default.endswith(after)):
        return None
    affixes = {
        "system": (before_system, after),
        "user": (before_user, after_user),
        "assistant": (between.removeprefix(after_user), after_answer.removesuffix(before_user)),
    }
    system = default.removeprefix(before_system).removesuffix(after) if default else None
    return TemplateParts(affixes, end.removeprefix(after_user), bos, system)


def _conversations(one: str, two: str, three: str) -> list[Conversation]:
    """A single question and a conversation of three messages, each without and with a system message."""
    texts = (("user", one), ("assistant", two), ("user", three))
    user, answer, more = ({"role": role, "content": text} for role, text in texts)
    system = {"role": "system", "content": SYSTEM_MESSAGE}
    return [[user], [system, user], [user, answer, more], [system, user, answer, more]]


def _split_around(text: str, *contents: str) -> list[str] | None:
    """The texts before, between and after ``contents``; None unless each occurs once, in this order."""
    parts = []
    for content in contents:
        if text.count(content) != 1:
            return None
        before, _, text = text.partition(content)
        parts.append(before)
    return [*parts, text]


def _common_prefix(one: str, other: str) -> str:
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:same]


def _common_suffix(one: str, other: str) -> str:
    return _common_prefix(one[::-1], other[::-1])[::-1]


def _render(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> str:
    limit_chat_templates()
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))


def _template_bos(tokenizer: PreTrainedTokenizerBase) -> str:
    """The BOS token if the template writes it, else an empty string."""
    bos = str(tokenizer.bos_token or "")
    return bos if bos and _render(tokenizer, [{"role": "user", "content": FIRST_QUESTION}]).startswith(bos) else ""
