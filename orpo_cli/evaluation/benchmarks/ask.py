"""Benchmark answers: what each variant of a model answers to the questions, turn by turn, kept in files that a repetition resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from orpo_cli.data.pair import Message
from orpo_cli.evaluation.answers import AnswerOptions, BeginCount, answer_prompts
from orpo_cli.evaluation.benchmarks.judge_files import mt_bench_temperature
from orpo_cli.evaluation.benchmarks.questions import Question, Task
from orpo_cli.evaluation.eval_target import EvalTarget, Variant
from orpo_cli.evaluation.generation import Completion, SamplingParams
from orpo_cli.evaluation.prompts import Prompt, PromptBuilder

Answers = list[list[Completion]]  # of each question, those of its turns


@dataclass
class PromptStatistics:
    """Numbers that describe the prompts of a benchmark for its result file."""

    bos_token_id: int | None
    leading_bos: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)  # the token ids of the first prompt

    def add(self, prompts: Sequence[Prompt]) -> None:
        """Count the tokens and the BOS tokens at the start of each prompt."""
        for prompt in prompts:
            ids = prompt.input_ids
            others = (index for index, token in enumerate(ids) if token != self.bos_token_id)
            self.leading_bos.append(next(others, len(ids)))
            self.tokens.append(len(ids))
            self.first = self.first or ids

    def as_record(self) -> dict[str, Any]:
        """For the result file."""
        bos = {"min": min(self.leading_bos), "max": max(self.leading_bos)}
        return {"leading_bos_tokens": bos, "tokens_mean": fmean(self.tokens), "tokens_max": max(self.tokens)}


@dataclass(frozen=True)
class AskRequest:
    """How to ask the questions of a benchmark. ``sampling``: of MT-Bench without its temperatures."""

    task: Task
    questions: list[Question]
    sampling: SamplingParams
    system: str | None
    plain: bool  # continue the text, without the chat template; not with several turns
    folder: Path  # of the answers


def answer_questions(
    target: EvalTarget,
    variant: Variant,
    request: AskRequest,
    statistics: PromptStatistics,
    *,
    begin_count: BeginCount,
    note: Callable[[str], None] = lambda text: None,
) -> Answers:
    """The answers of one variant: a question with several turns is asked with its own answers to the turns before.

    Raises UsageError where a conversation does not fit into the context, or a file of answers has other settings.
    """
    builder = PromptBuilder(target.tokenizer, plain=request.plain)
    answers: Answers = [[] for _ in request.questions]
    for turn, sampling, indices in _batches(request):
        prompts = [_prompt(builder, request, request.questions[index], answers[index]) for index in indices]
        statistics.add(prompts)
        name = f"{variant}-turn-{turn + 1}-temperature-{sampling.temperature:g}"
        options = AnswerOptions(sampling, (variant,), builder.end_token_ids, replace_other_weights=True)
        output = request.folder / f"{name}.jsonl"
        found = answer_prompts(target, prompts, options, output=output, note=note, begin_count=begin_count)
        completions = found[variant]
        for index, completion in zip(indices, completions, strict=True):
            answers[index].append(completion)
    return answers


def sampling_of(request: AskRequest, question: Question) -> SamplingParams:
    """The sampling of a question: in MT-Bench its category decides the temperature."""
    if request.task != "mt_bench":
        return request.sampling
    return replace(request.sampling, temperature=mt_bench_temperature(question))


def _batches(request: AskRequest) -> Iterator[tuple[int, SamplingParams, list[int]]]:
    """Turn, sampling and the indices of the questions that are asked together; an earlier turn comes first."""
    for turn in range(max(len(question.turns) for question in request.questions)):
        groups: dict[SamplingParams, list[int]] = {}
        for index, question in enumerate(request.questions):
            if turn < len(question.turns):
                groups.setdefault(sampling_of(request, question), []).append(index)
        for sampling, indices in groups.items():
            yield turn, sampling, indices


def _prompt(builder: PromptBuilder, request: AskRequest, question: Question, earlier: Sequence[Completion]) -> Prompt:
    """The prompt of the next turn, after the answers to the ``earlier`` ones."""
    if not earlier:
        return builder.from_text(question.turns[0], request.system)
    messages = [Message("system", request.system)] if request.system else []
    for text, answer in zip(question.turns, earlier, strict=False):
        messages += [Message("user", text), Message("assistant", answer.text.strip())]  # stripped, as in FastChat
    return builder.from_messages([*messages, Message("user", question.turns[len(earlier)])])


def answer_record(answers: Answers) -> dict[str, Any]:
    """Number and lengths of answers for the result file. ``truncated``: those that reached the maximum of tokens."""
    completions = [completion for turns in answers for completion in turns]
    return {
        "answers": len(completions),
        "truncated": sum(not completion.finished for completion in completions),
        "tokens_mean": fmean(completion.tokens for completion in completions),
        "characters_mean": fmean(len(completion.text) for completion in completions),
    }
