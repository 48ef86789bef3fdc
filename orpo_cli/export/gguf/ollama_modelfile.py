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
from orpo_cli.export.reference_logits import Reference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Conversation = list[dict[str, str]]

SYSTEM, ONE, TWO, THREE = "Be of use.", "First question", "First answer", "Second question"


@dataclass(frozen=True)
class Turns:
    """What stands around a message by its role (before, after), in front of an answer, and by default as system message."""

    around: dict[str, tuple[str, str]]
    answer: str
    begin: str  # of the text
    system: str | None

    def render(self, messages: Conversation) -> str:
        """What Ollama puts together, for the comparison with the Jinja template."""
        if self.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        pieces = [(self.around[message["role"]], message["content"]) for message in messages]
        return self.begin + "".join(before + text + after for (before, after), text in pieces) + self.answer

    def pieces(self) -> list[str]:
        """Every text of the template's own."""
        return [self.begin, self.answer, self.system or "", *(piece for pair in self.around.values() for piece in pair)]

    def go(self) -> str:
        """The Go template."""
        content = {role: f"{before}{{{{ .Content }}}}{after}" for role, (before, after) in self.around.items()}
        return (
            f'{self.begin}{{{{ range .Messages }}}}{{{{ if eq .Role "system" }}}}{content["system"]}'
            f'{{{{ else if eq .Role "user" }}}}{content["user"]}{{{{ else }}}}{content["assistant"]}{{{{ end }}}}{{{{ end }}}}'
            f"{self.answer}"
        )


def write_modelfile(folder: Path, file: str, known: Reference, checklist: Checklist) -> None:
    """Write ``Modelfile`` beside the GGUF ``file``."""
    tokenizer = known.tokenizer
    lines = [f"FROM ./{file}"]
    turns = read_turns(tokenizer) if tokenizer.chat_template else None
    if turns is not None:
        lines.append(f'TEMPLATE """{turns.go()}"""')
        if turns.system is not None:
            lines.append(f'SYSTEM """{turns.system}"""')
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
        for token in tokenizer.convert_ids_to_tokens(known.ends)
    ]
    (folder / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
    checklist.remark("Modelfile", found)


def read_turns(tokenizer: PreTrainedTokenizerBase) -> Turns | None:
    """The chat template as text around messages; None where it is more than that."""
    from jinja2 import TemplateError

    try:
        bos = _begin(tokenizer)
        adds_it = bool(bos) and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
        if adds_it:  # llama.cpp puts it in front as well, so the translation must not
            return _read(tokenizer, bos, "")
        return _read(tokenizer, "", "") or (_read(tokenizer, bos, bos) if bos else None)
    except (TemplateError, TypeError, ValueError):  # of a template that refuses a system message, for one
        return None


def _read(tokenizer: PreTrainedTokenizerBase, cut: str, begin: str) -> Turns | None:
    """The turns where ``cut`` is taken off the front of what the template renders, and ``begin`` written there."""

    def rendered(conversation: Conversation) -> str:
        return _rendered(tokenizer, conversation).removeprefix(cut)

    alone, _, _, whole = map(rendered, _conversations(ONE, TWO, THREE))
    turns = _split(alone, whole, begin)
    if turns is None or any(mark in "".join(turns.pieces()) for mark in ('"""', "{{", "}}")):
        return None
    others = _conversations("Why?", "Because.\nSo it is.", "And then?")
    return turns if all(turns.render(each) == begin + rendered(each) for each in others) else None


def _split(alone: str, whole: str, begin: str) -> Turns | None:
    """The texts around messages, from one question rendered alone and from a whole conversation."""
    parts, start = _cut(whole, SYSTEM, ONE, TWO, THREE), _cut(alone, ONE)
    if parts is None or start is None:
        return None
    before_system, after_system, between, after_answer, end = parts
    before_user = _common_end(_common_end(after_system, after_answer), start[0])
    after = after_system.removesuffix(before_user)
    after_user = after if between.startswith(after) and end.startswith(after) else _common_start(between, end)
    default = start[0].removesuffix(before_user)
    if default and not (default.startswith(before_system) and default.endswith(after)):
        return None
    around = {
        "system": (before_system, after),
        "user": (before_user, after_user),
        "assistant": (between.removeprefix(after_user), after_answer.removesuffix(before_user)),
    }
    system = default.removeprefix(before_system).removesuffix(after) if default else None
    return Turns(around, end.removeprefix(after_user), begin, system)


def _conversations(one: str, two: str, three: str) -> list[Conversation]:
    """A question alone and in a conversation, each without a system message and with one."""
    texts = (("user", one), ("assistant", two), ("user", three))
    user, answer, more = ({"role": role, "content": text} for role, text in texts)
    system = {"role": "system", "content": SYSTEM}
    return [[user], [system, user], [user, answer, more], [system, user, answer, more]]


def _cut(text: str, *contents: str) -> list[str] | None:
    """What stands before, between and after ``contents``, each of which is there once; else None."""
    parts = []
    for content in contents:
        if text.count(content) != 1:
            return None
        before, _, text = text.partition(content)
        parts.append(before)
    return [*parts, text]


def _common_start(one: str, other: str) -> str:
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:same]


def _common_end(one: str, other: str) -> str:
    return _common_start(one[::-1], other[::-1])[::-1]


def _rendered(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> str:
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))


def _begin(tokenizer: PreTrainedTokenizerBase) -> str:
    """The beginning of text where the template writes it."""
    bos = str(tokenizer.bos_token or "")
    return bos if bos and _rendered(tokenizer, [{"role": "user", "content": ONE}]).startswith(bos) else ""
