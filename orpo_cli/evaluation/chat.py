"""A conversation with one or both models of a target, token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers import TextStreamer

from orpo_cli.data.pair import Message
from orpo_cli.errors import UsageError
from orpo_cli.evaluation.eval_target import EvalTarget, Variant
from orpo_cli.evaluation.generation import (
    Completion,
    SamplingParams,
    check_context_length,
    decode_completion,
    generate_token_ids,
    stop_token_ids,
)
from orpo_cli.evaluation.prompts import PromptBuilder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OnText = Callable[[str], None]


class Conversation:
    """What was said so far. Each variant remembers its own answers. Raises UsageError where there is no chat template."""

    def __init__(self, target: EvalTarget, sampling: SamplingParams, *, system: str | None) -> None:
        if target.tokenizer.chat_template is None:
            raise UsageError(
                f"{target.name} has no chat template: it continues text, and cannot take turns.",
                remedy="Use `orpo generate --prompt TEXT`, or give a template: --chat-template chatml.",
            )
        self.target = target
        self.sampling = sampling.with_seed()
        self.system = system
        self._prompt_builder = PromptBuilder(target.tokenizer, plain=False)
        self._histories: dict[Variant, list[Message]] = {}
        self.reset()
        if self.sampling.seed is not None:
            torch.manual_seed(self.sampling.seed)

    def reset(self) -> None:
        """Forget everything but the system message."""
        opening = [Message("system", self.system)] if self.system else []
        self._histories = {variant: list(opening) for variant in self.target.variants}

    def ask(self, variant: Variant, text: str, on_text: OnText) -> Completion:
        """``variant``'s answer to ``text``; ``say`` hears it as it is made.

        Interrupted (KeyboardInterrupt), it remembers what it has said so far. Raises UsageError where the conversation has
        become too long or the template cannot show it; then nothing is remembered.
        """
        turns = [*self._histories[variant], Message("user", text)]
        prompt = self._prompt_builder.from_messages(turns)
        with self.target.use_variant(variant) as model:
            check_context_length(model, len(prompt.input_ids), self.sampling, "the conversation")
            stops = stop_token_ids(model, self.target.tokenizer, self._prompt_builder.end_token_ids)
            stream = _CompletionStreamer(self.target.tokenizer, stops, on_text)
            try:
                tokens = generate_token_ids(
                    model, self.target.tokenizer, [prompt.input_ids], self.sampling, stops, stream
                )[0]
                answer = decode_completion(self.target.tokenizer, tokens, stops)
            except KeyboardInterrupt:
                stream.end()
                self._histories[variant] = [*turns, Message("assistant", stream.text)]
                raise
        self._histories[variant] = [*turns, Message("assistant", answer.text)]
        return answer


class _CompletionStreamer(TextStreamer):
    """Hands whole words to ``say`` as they come, without the end of turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: list[int], on_text: OnText) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.stops = stops
        self.on_text = on_text
        self.text = ""

    def put(self, value: Any) -> None:
        """Take a token, or first the prompt."""
        is_prompt = self.next_tokens_are_prompt
        if is_prompt or value.flatten()[0].item() not in self.stops:
            super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Pass on text that further tokens will not change."""
        if text:
            self.text += text
            self.on_text(text)
