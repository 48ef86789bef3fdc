"""Benchmark request: what to measure and how to ask, with the checks of the options of `orpo benchmark`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from orpo_cli.errors import UsageError

if TYPE_CHECKING:
    from orpo_cli.evaluation.generation import SamplingParams

Task = Literal["ifeval", "alpaca_eval", "mt_bench"]
HARNESS = "lm_eval:"  # prefix of a task of lm-evaluation-harness
# Of lm-evaluation-harness, of the longest configurations in AlpacaEval's leaderboard, and of FastChat.
MAX_NEW_TOKENS: dict[Task, int] = {"ifeval": 1280, "alpaca_eval": 2048, "mt_bench": 1024}
SEED = 0  # of sampled answers, as in FastChat


@dataclass(frozen=True, kw_only=True)
class BenchmarkRequest:
    """What to measure, and how to ask. None: the default of the task."""

    task: str
    data: Path | None = None  # file of questions; None: from the hub
    max_samples: int | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    system: str | None = None
    plain: bool = False
    chat_template: str | None = None
    include_path: Path | None = None  # folder with further tasks of the harness
    output: Path | None = None  # None: in the run

    @property
    def answered_task(self) -> Task | None:
        """The task, where its questions are answered here; None for a task of the harness."""
        return next((task for task in get_args(Task) if task == self.task), None)

    def sampling(self, task: Task) -> SamplingParams:
        """How to choose tokens; in MT-Bench the category of a question replaces the temperature."""
        from orpo_cli.evaluation.generation import SamplingParams

        return SamplingParams(
            max_new_tokens=self.max_new_tokens or MAX_NEW_TOKENS[task],
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=SEED if self.seed is None else self.seed,
        )

    def check(self) -> None:
        """Raise UsageError for an unknown task, and for options that do nothing or exclude each other."""
        if self.answered_task is None and not (self.task.startswith(HARNESS) and self.task != HARNESS):
            raise UsageError(
                f"--task {self.task}: no such task.",
                remedy=f"Choose {', '.join(get_args(Task))}, or {HARNESS}NAME for a task of lm-evaluation-harness.",
            )
        for option, reason in self._unused_options():
            raise UsageError(f"{option} does nothing with --task {self.task}: {reason}.", remedy=f"Leave {option} out.")
        if self.top_p == 0:
            raise UsageError("--top-p must be above 0.", remedy="Use --temperature 0 to take the most likely token.")
        if self.plain and (self.system is not None or self.chat_template is not None):
            raise UsageError(
                "--system and --chat-template need the chat template, which --plain switches off.",
                remedy="Leave one of them out.",
            )
        if self.plain and self.task == "mt_bench":
            raise UsageError(
                "the second turn of mt_bench needs a chat template, which --plain switches off.", remedy="Leave it out."
            )

    def _unused_options(self) -> Iterator[tuple[str, str]]:
        """Options that were given and do nothing, each with the reason."""
        reasons: dict[str, tuple[object, str]] = {}
        if self.answered_task is None:
            reasons["--data"] = self.data, "the task names its data"
            reasons["--max-new-tokens"] = self.max_new_tokens, "the task decides it"
        else:
            reasons["--include-path"] = self.include_path, f"it is for {HARNESS}NAME"
        if self.answered_task is None or self.task == "mt_bench":
            by = "the task" if self.answered_task is None else "the category of a question"
            reasons["--temperature"] = self.temperature, f"{by} decides it"
        if self.task != "mt_bench" and not self.temperature:
            sampled = (
                "the task decides it" if self.answered_task is None else "answers are greedy without --temperature"
            )
            reasons["--top-p"], reasons["--seed"] = (self.top_p, sampled), (self.seed, sampled)
        return ((option, reason) for option, (value, reason) in reasons.items() if value is not None)
