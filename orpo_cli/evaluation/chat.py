"""A conversation with one or both models of a subject, token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers import TextStreamer

from orpo_cli.data.pair import Message
from orpo_cli.errors import UsageError
from orpo_cli.evaluation.eval_target import EvalTarget, Variant
from orpo_cli.evaluation.generation import Answer, Sampling, generate, read_answer, refuse_beyond_context, stop_ids
from orpo_cli.evaluation.prompts import PromptMaker

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Say = Callable[[str], None]


class Conversation:
    """What was said so far. Each voice remembers its own answers. Raises UsageError where there is no chat template."""

    def __init__(self, subject: EvalTarget, sampling: Sampling, *, system: str | None) -> None:
        if subject.tokenizer.chat_template is None:
            raise UsageError(
                f"{subject.name} has no chat template: it continues text, and cannot take turns.",
                remedy="Use `orpo generate --prompt TEXT`, or give a template: --chat-template chatml.",
            )
        self.subject = subject
        self.sampling = sampling.with_seed()
        self.system = system
        self._maker = PromptMaker(subject.tokenizer, plain=False)
        self._turns: dict[Variant, list[Message]] = {}
        self.reset()
        if self.sampling.seed is not None:
            torch.manual_seed(self.sampling.seed)

    def reset(self) -> None:
        """Forget everything but the system message."""
        opening = [Message("system", self.system)] if self.system else []
        self._turns = {voice: list(opening) for voice in self.subject.voices}

    def ask(self, voice: Variant, text: str, say: Say) -> Answer:
        """``voice``'s answer to ``text``; ``say`` hears it as it is made.

        Interrupted (KeyboardInterrupt), it remembers what it has said so far. Raises UsageError where the conversation has
        become too long or the template cannot show it; then nothing is remembered.
        """
        turns = [*self._turns[voice], Message("user", text)]
        prompt = self._maker.conversation(turns)
        with self.subject.use_variant(voice) as model:
            refuse_beyond_context(model, len(prompt.input_ids), self.sampling, "the conversation")
            stops = stop_ids(model, self.subject.tokenizer, self._maker.end_ids)
            stream = _Stream(self.subject.tokenizer, stops, say)
            try:
                tokens = generate(model, self.subject.tokenizer, [prompt.input_ids], self.sampling, stops, stream)[0]
                answer = read_answer(self.subject.tokenizer, tokens, stops)
            except KeyboardInterrupt:
                stream.end()
                self._turns[voice] = [*turns, Message("assistant", stream.said)]
                raise
        self._turns[voice] = [*turns, Message("assistant", answer.text)]
        return answer


class _Stream(TextStreamer):
    """Hands whole words to ``say`` as they come, without the end of turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: list[int], say: Say) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.stops = stops
        self.say = say
        self.said = ""

    def put(self, value: Any) -> None:
        """Take a token, or first the prompt."""
        is_prompt = self.next_tokens_are_prompt
        if is_prompt or value.flatten()[0].item() not in self.stops:
            super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Pass on text that further tokens will not change."""
        if text:
            self.said += text
            self.say(text)
