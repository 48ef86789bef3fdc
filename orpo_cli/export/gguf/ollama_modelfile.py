"""A Modelfile, with which Ollama imports a GGUF file: ``ollama create NAME -f Modelfile``.

Ollama writes prompts with templates of its own kind (Go's) and knows a few Jinja templates by heart; of the others it takes no
notice. So the Jinja template is translated: what it puts around each message is read off conversations that it renders, and the
translation is written only where it puts the same text together. A template that looks at more than roles is left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.export.export_record import Checklist
from orpo_cli.export.reference_logits import ReferenceLogits

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
    """What stands around a message by its role (before, after), in front of an answer, and by default as system message."""

    affixes: dict[str, tuple[str, str]]
    generation_prompt: str
    bos: str  # of the text
    default_system: str | None

    def render(self, messages: Conversation) -> str:
        """What Ollama puts together, for the comparison with the Jinja template."""
        if self.default_system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.default_system}, *messages]
        pieces = [(self.affixes[message["role"]], message["content"]) for message in messages]
        return self.bos + "".join(before + text + after for (before, after), text in pieces) + self.generation_prompt

    def fixed_texts(self) -> list[str]:
        """Every text of the template's own."""
        return [
            self.bos,
            self.generation_prompt,
            self.default_system or "",
            *(piece for pair in self.affixes.values() for piece in pair),
        ]

    def to_go_template(self) -> str:
        """The Go template."""
        content = {role: f"{before}{{{{ .Content }}}}{after}" for role, (before, after) in self.affixes.items()}
        return (
            f'{self.bos}{{{{ range .Messages }}}}{{{{ if eq .Role "system" }}}}{content["system"]}'
            f'{{{{ else if eq .Role "user" }}}}{content["user"]}{{{{ else }}}}{content["assistant"]}{{{{ end }}}}{{{{ end }}}}'
            f"{self.generation_prompt}"
        )


def write_modelfile(folder: Path, file: str, known: ReferenceLogits, checklist: Checklist) -> None:
    """Write ``Modelfile`` beside the GGUF ``file``."""
    tokenizer = known.tokenizer
    lines = [f"FROM ./{file}"]
    turns = parse_chat_template(tokenizer) if tokenizer.chat_template else None
    if turns is not None:
        lines.append(f'TEMPLATE """{turns.to_go_template()}"""')
        if turns.default_system is not None:
            lines.append(f'SYSTEM """{turns.default_system}"""')
        found = "the chat template, translated; stop tokens"
    elif not tokenizer.chat_template:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
        found = "no chat template, as in the model; stop tokens"
    else:
        lines.append(
            "# The chat template does more than Ollama's can say: Ollama takes what it makes of the one in the GGUF file."
        )
        found = "stop tokens; the chat template cannot be translated, Ollama takes what it makes of the GGUF file's"
    lines += [
        f"PARAMETER stop {json.dumps(str(token), ensure_ascii=False)}"
        for token in tokenizer.convert_ids_to_tokens(known.eos_token_ids)
    ]
    (folder / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
    checklist.remark("Modelfile", found)


def parse_chat_template(tokenizer: PreTrainedTokenizerBase) -> TemplateParts | None:
    """The chat template as text around messages; None where it is more than that."""
    from jinja2 import TemplateError

    try:
        bos = _template_bos(tokenizer)
        adds_it = bool(bos) and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
        if adds_it:  # llama.cpp puts it in front as well, so the translation must not
            return _parse_with_bos(tokenizer, bos, "")
        return _parse_with_bos(tokenizer, "", "") or (_parse_with_bos(tokenizer, bos, bos) if bos else None)
    except (TemplateError, TypeError, ValueError):  # of a template that refuses a system message, for one
        return None


def _parse_with_bos(tokenizer: PreTrainedTokenizerBase, cut: str, begin: str) -> TemplateParts | None:
    """The turns where ``cut`` is taken off the front of what the template renders, and ``begin`` written there."""

    def rendered(conversation: Conversation) -> str:
        return _render(tokenizer, conversation).removeprefix(cut)

    alone, _, _, whole = map(rendered, _conversations(FIRST_QUESTION, FIRST_ANSWER, SECOND_QUESTION))
    turns = _infer_parts(alone, whole, begin)
    if turns is None or any(mark in "".join(turns.fixed_texts()) for mark in ('"""', "{{", "}}")):
        return None
    others = _conversations("Why?", "Because.\nSo it is.", "And then?")
    return turns if all(turns.render(each) == begin + rendered(each) for each in others) else None


def _infer_parts(alone: str, whole: str, begin: str) -> TemplateParts | None:
    """The texts around messages, from one question rendered alone and from a whole conversation."""
    parts, start = (
        _split_around(whole, SYSTEM_MESSAGE, FIRST_QUESTION, FIRST_ANSWER, SECOND_QUESTION),
        _split_around(alone, FIRST_QUESTION),
    )
    if parts is None or start is None:
        return None
    before_system, after_system, between, after_answer, end = parts
    before_user = _common_suffix(_common_suffix(after_system, after_answer), start[0])
    after = after_system.removesuffix(before_user)
    after_user = after if between.startswith(after) and end.startswith(after) else _common_prefix(between, end)
    default = start[0].removesuffix(before_user)
    if default and not (default.startswith(before_system) and default.endswith(after)):
        return None
    around = {
        "system": (before_system, after),
        "user": (before_user, after_user),
        "assistant": (between.removeprefix(after_user), after_answer.removesuffix(before_user)),
    }
    system = default.removeprefix(before_system).removesuffix(after) if default else None
    return TemplateParts(around, end.removeprefix(after_user), begin, system)


def _conversations(one: str, two: str, three: str) -> list[Conversation]:
    """A question alone and in a conversation, each without a system message and with one."""
    texts = (("user", one), ("assistant", two), ("user", three))
    user, answer, more = ({"role": role, "content": text} for role, text in texts)
    system = {"role": "system", "content": SYSTEM_MESSAGE}
    return [[user], [system, user], [user, answer, more], [system, user, answer, more]]


def _split_around(text: str, *contents: str) -> list[str] | None:
    """What stands before, between and after ``contents``, each of which is there once; else None."""
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
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))


def _template_bos(tokenizer: PreTrainedTokenizerBase) -> str:
    """The beginning of text where the template writes it."""
    bos = str(tokenizer.bos_token or "")
    return bos if bos and _render(tokenizer, [{"role": "user", "content": FIRST_QUESTION}]).startswith(bos) else ""
