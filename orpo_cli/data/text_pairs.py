"""Text pairs: for a chat model three texts become messages, so that training has the tokens of a later question and answer.

A pair stays text where the model has no chat template, where ``format: text`` says so, where its texts have the marks of the
template already, and where it has no prompt of its own: a turn cannot end in the middle of a text. Each case is counted in the
notes of the data report.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from orpo_cli.data.formats.format import Format
from orpo_cli.data.formats.preference import TEXT
from orpo_cli.data.pair import Message, Pair, RowRejected, text_with_system
from orpo_cli.errors import DataError
from orpo_cli.model.chat_template_errors import PROBE, explain_template_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AS_MESSAGES = "text_as_messages"  # note of a row that became messages
AS_TEXT = ("text_without_template", "text_by_format", "text_rendered", "text_without_prompt")  # notes of the others


def trained_as_text(report: Mapping[str, Any]) -> bool:
    """Whether data_report.json says that all train pairs were texts without the marks of a chat template."""
    notes = [source.get("notes", {}) for source in report.get("sources", ()) if source.get("part") == "train"]
    with_marks = (AS_MESSAGES, "text_rendered", "text_and_messages")
    return bool(notes) and all(
        any(found.get(name) for name in AS_TEXT) and not any(found.get(name) for name in with_marks) for found in notes
    )


class TextPairs:
    """Conversion of the text pairs of one source. ``end_tokens`` are those that end a completion."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_tokens: Sequence[str], format_: Format) -> None:
        self.tokenizer = tokenizer
        self.end_tokens = tuple(end_tokens)
        self.keeps_text = format_.name == TEXT.name

    def convert(self, pair: Pair, notes: Counter[str]) -> Pair:
        """A pair of texts as messages, or as a text with its system text in front; a conversation is unchanged.

        Raises RowRejected where a text continues after an end token.
        """
        if not isinstance(pair.prompt, str):
            notes["text_and_messages"] += 1
            return pair
        kept_as = self._kept_as_text(pair)
        notes[kept_as or AS_MESSAGES] += 1
        if kept_as is None:
            return self._as_messages(pair, notes)
        if kept_as == "text_rendered" and pair.prompt_is_implicit:
            pair = self._split_at_answer(pair)
        affected = {"system_before_prompt": pair.system.strip(), "tools_not_rendered": pair.tools}
        notes.update(name for name, value in affected.items() if value)
        return replace(pair, prompt=text_with_system(pair.prompt_text, pair.system), system="", tools=None)

    def check_mixed(self, notes: Counter[str]) -> None:
        """Remove the note of rows that have messages, unless others are text. Called after the last row."""
        if not any(notes[name] for name in (AS_MESSAGES, *AS_TEXT)):
            del notes["text_and_messages"]

    def _kept_as_text(self, pair: Pair) -> str | None:
        """Note that says why the pair stays text; None where it becomes messages."""
        if self.keeps_text:
            return "text_by_format"
        if self.tokenizer.chat_template is None:
            return "text_without_template"
        if self._is_rendered(pair):
            return "text_rendered"
        return "text_without_prompt" if pair.prompt_is_implicit else None

    def _is_rendered(self, pair: Pair) -> bool:
        """Whether the texts have what the template writes between a question and an answer, or the prompt starts as a turn."""
        texts = [f"{pair.prompt}{completion}" for completion in (pair.chosen, pair.rejected)]
        if any(all(mark in text for text in texts) for mark in self._marks):
            return True
        found = [match.start() for match in self._special_tokens.finditer(pair.prompt_text.lstrip())]
        return len(found) > 1 and found[0] == 0

    def _split_at_answer(self, pair: Pair) -> Pair:
        """A rendered pair whose prompt is the common start of its texts: the prompt ends where the template starts the answer."""
        prompt = pair.prompt_text
        ends = [at + len(between) for between in self._between if (at := prompt.rfind(between)) >= 0]
        if not ends:
            return pair
        common = prompt[max(ends) :]
        chosen, rejected = f"{common}{pair.chosen_text}", f"{common}{pair.rejected_text}"
        return replace(pair, prompt=prompt[: max(ends)], chosen=chosen, rejected=rejected)

    def _as_messages(self, pair: Pair, notes: Counter[str]) -> Pair:
        """The pair as a conversation. The template writes the beginning and the end of a text, so those in the data are removed."""
        prompt, bos = pair.prompt_text, self.tokenizer.bos_token
        if bos and not any(bos in mark for mark in self._marks):
            prompt = prompt.removeprefix(str(bos))
        history = (Message("system", pair.system),) if pair.system.strip() else ()
        texts = [self._without_end(text) for text in (pair.chosen_text, pair.rejected_text)]
        is_separator = notes["prompt_stored_twice"] > 0  # the prompt was before it in the data, too
        if not is_separator and texts != [_without_space(text) for text in texts]:
            notes["answer_space_removed"] += 1
        chosen, rejected = ((Message("assistant", _without_space(text)),) for text in texts)
        return replace(pair, prompt=(*history, Message("user", prompt)), chosen=chosen, rejected=rejected, system="")

    def _without_end(self, text: str) -> str:
        """A completion without the end token after it."""
        stripped = text.rstrip()
        text = next((stripped.removesuffix(end) for end in self.end_tokens if stripped.endswith(end)), text)
        if any(end in text for end in self.end_tokens):
            raise RowRejected("goes_on_after_end")
        return text

    @cached_property
    def _marks(self) -> tuple[str, ...]:
        """Each text of ``_between`` as it occurs in texts whose white space differs."""
        return tuple(mark for between in self._between if (mark := between.rstrip().lstrip(" ")))

    @cached_property
    def _between(self) -> tuple[str, ...]:
        """What the template writes between a question and an answer, at generation and in a finished conversation."""
        question, answer = {"role": "user", "content": f"{PROBE}?"}, {"role": "assistant", "content": PROBE}
        try:
            with explain_template_errors(self.tokenizer):
                asked, unasked, answered = (
                    str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation))
                    for messages, generation in (([question], True), ([question], False), ([question, answer], False))
                )
        except DataError:  # the renderer raises it with the remedy
            return ()
        between = answered.rpartition(PROBE)[0].rpartition(question["content"])[2]
        at_generation = () if asked == unasked else (asked.rpartition(question["content"])[2],)
        return (between, *at_generation)

    @cached_property
    def _special_tokens(self) -> re.Pattern[str]:
        added = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        names = sorted({*filter(str.strip, (*added, *self.tokenizer.all_special_tokens))}, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or "(?!)")


def _without_space(text: str) -> str:
    """A completion without the one space that separates it from a prompt of text."""
    return text[1:] if text[:1] == " " and text[1:2].strip() else text
