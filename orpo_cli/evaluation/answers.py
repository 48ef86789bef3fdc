"""Answers at scale: completions of any number of prompts by one or both variants of a model, continued after an interruption.

The batches are planned before the first is generated, and depend on the prompts and the settings only. What an interrupted
process has answered is kept per batch, and the rest is generated in the same batches: the result is the same, bit for bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import xxhash

from orpo_cli import __version__, interruption
from orpo_cli.errors import Interrupted
from orpo_cli.evaluation.answer_backend import AnswerBackend, TransformersBackend
from orpo_cli.evaluation.answer_file import AnswerFile, BatchAnswers
from orpo_cli.evaluation.eval_target import EvalTarget, Variant
from orpo_cli.evaluation.generation import Completion, SamplingParams
from orpo_cli.evaluation.prompts import Prompt


class Progress(Protocol):
    """Progress of a long operation: how much of it is done, and a detail to show."""

    def __call__(self, done: int, total: int, detail: str = "") -> None:
        """Show it."""


BeginCount = Callable[[str], Progress]


@dataclass(frozen=True)
class AnswerOptions:
    """How to answer. ``end_token_ids``: those that end a completion in training, as ``PromptBuilder`` gives them."""

    sampling: SamplingParams
    variants: tuple[Variant, ...]
    end_token_ids: frozenset[int]
    batch_size: int | None = None  # prompts; None: as many as fit
    replace_other_weights: bool = False  # start again where the file has answers of other weights


def answer_prompts(
    target: EvalTarget,
    prompts: Sequence[Prompt],
    options: AnswerOptions,
    *,
    output: Path | None = None,
    backend: AnswerBackend | None = None,
    note: Callable[[str], None] = lambda text: None,
    begin_count: BeginCount | None = None,
) -> dict[Variant, list[Completion]]:
    """Answer ``prompts`` with each variant, in the order of the prompts.

    With ``output`` the answers are written there (JSON Lines, a row per prompt), with their settings beside them. Answers that
    the file has already are not generated again. Raises UsageError where it was begun with other settings or a prompt is too
    long, MachineError where the memory or the disk is too small, Interrupted (the answers so far are kept) after a signal.
    ``backend``: None for transformers. Another one needs no model in ``target``.
    """
    backend = backend or TransformersBackend(target, options.end_token_ids, options.variants)
    generation = _Generation(target, prompts, options, backend, note, begin_count)
    if output is None:
        return generation.run(None)
    file = AnswerFile(output, generation.settings())
    with file.locked():
        if options.replace_other_weights and (folder := file.set_aside_other_weights(generation.about())):
            note(
                f"{output} has answers of other weights, such as those before further training, or of another environment beside "
                f"them: they are moved to {folder}, and the prompts are answered again"
            )
        return generation.run(file)


@dataclass
class _Generation:
    """One generation: its plan, and the answers so far."""

    target: EvalTarget
    prompts: Sequence[Prompt]
    options: AnswerOptions
    backend: AnswerBackend
    note: Callable[[str], None]
    begin_count: BeginCount | None
    answers: dict[Variant, dict[int, Completion]] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.batches = self.backend.plan_batches(self.prompts, self.options.sampling, self.options.batch_size)
        self.answers = {variant: {} for variant in self.options.variants}

    def settings(self) -> dict[str, Any]:
        """What decides the answers, JSON-ready. A continued generation must have the same."""
        sampling, prompts = self.options.sampling, self.prompts
        decoding: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
        if sampling.temperature > 0:
            decoding |= {"top_p": sampling.top_p, "seed": sampling.seed}
        uses_template = any(prompt.messages is not None for prompt in prompts)
        return {
            "variants": self.options.variants,
            **self.backend.settings(),
            "decoding": decoding,
            "prompts": {
                "count": len(prompts),
                "digest": _digest([[prompt.id, prompt.input_ids] for prompt in prompts]),
            },
            "chat_template": _digest(self.target.tokenizer.chat_template) if uses_template else None,
            "batches": {"count": len(self.batches), "digest": _digest(self.batches)},
        }

    def about(self) -> dict[str, Any]:
        """What else the settings file says: the model, the environment, and the weights whose answers are compared with these."""
        environment = {"orpo_cli": __version__, **self.backend.environment()}
        compared = self.backend.compared_weights()
        return {
            "model": self.target.name,
            "environment": environment,
            **({} if compared is None else {"compared_weights": compared}),
        }

    def run(self, file: AnswerFile | None) -> dict[Variant, list[Completion]]:
        if file is not None:
            if self._take_complete(file):
                self.note(f"{file.path} is complete, with the same settings: nothing is generated again")
                return self._in_order()
            about = self.about()
            self._take_partial(file)
            file.write_settings(**about)
        try:
            for variant in self.options.variants:
                self._answer(variant, file)
        except KeyboardInterrupt:
            if file is None:
                raise
            raise Interrupted(
                f"{interruption.interrupted()}: {self._count():,} of {self._total():,} answers are in {file.partial}.",
                remedy="Repeat the same command to continue.",
            ) from None
        if file is not None:
            file.write_settings(**about, result=self._summary())
            file.write_complete(self._rows())
            self.note(f"wrote {file.path}: {self._describe()}")
        return self._in_order()

    def _answer(self, variant: Variant, file: AnswerFile | None) -> None:
        answered = self.answers[variant]
        if len(answered) == len(self.prompts):
            return
        progress = self.begin_count(f"answering, {variant}") if self.begin_count is not None else None
        begun, tokens = time.monotonic(), 0
        with self.backend.completing(variant, self.prompts, self.options.sampling) as complete:
            for number, batch in enumerate(self.batches):
                if batch[0] in answered:
                    continue
                started = time.monotonic()
                completions = complete(batch)
                seconds = time.monotonic() - started
                if file is not None:
                    file.append(
                        BatchAnswers(variant, number, [asdict(each) for each in completions], round(seconds, 3))
                    )
                answered |= zip(batch, completions, strict=True)
                self.seconds += seconds
                tokens += sum(each.tokens for each in completions)
                if progress is not None:
                    progress(len(answered), len(self.prompts), f"{tokens / (time.monotonic() - begun):,.0f} tokens/s")

    def _take_complete(self, file: AnswerFile) -> bool:
        rows = file.complete_rows(len(self.prompts)) if file.check_settings() else None
        if rows is None:
            return False
        for variant in self.options.variants:
            try:
                self.answers[variant] = {index: Completion(**row[variant]) for index, row in enumerate(rows)}
            except (KeyError, TypeError) as error:
                raise file.changed_error(f"has no answers of {variant} as they were written") from error
        return True

    def _take_partial(self, file: AnswerFile) -> None:
        for record in file.read_partial():
            completions = [Completion(**answer) for answer in record.answers]
            self.answers[record.variant] |= zip(self.batches[record.batch], completions, strict=True)  # type: ignore[index]
            self.seconds += record.seconds
        if self._count():
            self.note(f"continuing {file.partial}: {self._count():,} of {self._total():,} answers are there")

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {**prompt.record(), **{variant: asdict(self.answers[variant][index]) for variant in self.options.variants}}
            for index, prompt in enumerate(self.prompts)
        ]

    def _in_order(self) -> dict[Variant, list[Completion]]:
        return {
            variant: [found[index] for index in range(len(self.prompts))] for variant, found in self.answers.items()
        }

    def _count(self) -> int:
        return sum(map(len, self.answers.values()))

    def _total(self) -> int:
        return len(self.prompts) * len(self.options.variants)

    def _tokens(self) -> int:
        return sum(each.tokens for found in self.answers.values() for each in found.values())

    def _summary(self) -> dict[str, Any]:
        return {
            "answers": self._total(),
            "tokens": self._tokens(),
            "seconds": round(self.seconds, 1),
            "tokens_per_second": round(self._tokens() / self.seconds, 1) if self.seconds else None,
            "cut_at_max_new_tokens": {
                variant: sum(not each.finished for each in found.values()) for variant, found in self.answers.items()
            },
        }

    def _describe(self) -> str:
        speed = f", {self._tokens() / self.seconds:,.0f} tokens/s" if self.seconds else ""
        return f"{self._total():,} answers, {self._tokens():,} tokens{speed}"


def _digest(value: Any) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(value).encode())
