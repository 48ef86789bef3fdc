"""Chat: a conversation with one or both variants of a model, streamed token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers import TextStreamer

from orpo_cli.data.pair import Message
from orpo_cli.errors import UsageError
from orpo_cli.evaluation.eval_target import EvalTarget, Variant
from orpo_cli.evaluation.generation import (
    INCOMPLETE_CHARACTER,
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
    """Conversation with a separate history per variant. Raises UsageError where the tokenizer has no chat template."""

    def __init__(self, target: EvalTarget, sampling: SamplingParams, *, system: str | None) -> None:
        if target.tokenizer.chat_template is None:
            raise UsageError(
                f"{target.name} has no chat template: it can only continue a text.",
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
        """Remove all messages except the system message."""
        opening = [Message("system", self.system)] if self.system else []
        self._histories = {variant: list(opening) for variant in self.target.variants}

    def ask(self, variant: Variant, text: str, on_text: OnText) -> Completion:
        """Generate the completion of ``variant`` for ``text``; ``on_text`` receives its text while it is generated.

        After a KeyboardInterrupt the history keeps the text so far. Raises UsageError, and leaves the history unchanged, where
        the conversation is too long or the template cannot render it.
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
                completion = decode_completion(self.target.tokenizer, tokens, stops)
            except KeyboardInterrupt:
                stream.end()
                self._histories[variant] = [*turns, Message("assistant", stream.text)]
                raise
        self._histories[variant] = [*turns, Message("assistant", completion.text)]
        return completion


class _CompletionStreamer(TextStreamer):
    """Streamer that passes finished text to ``on_text``, without end tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: list[int], on_text: OnText) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.stops = stops
        self.on_text = on_text
        self.finished = False
        self.text = ""

    def put(self, value: Any) -> None:
        """Take the prompt, then one token per call."""
        is_prompt = self.next_tokens_are_prompt
        self.finished = not is_prompt and value.flatten()[0].item() in self.stops
        if not self.finished:
            super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Pass on text that no further token changes."""
        if stream_end and not self.finished:
            text = text.rstrip(INCOMPLETE_CHARACTER)
        if text:
            self.text += text
            self.on_text(text)
