"""Generation workflow (`orpo generate`): prompts, model, answers of one model or of base and tuned model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import UsageError
from orpo_cli.report.console import Console
from orpo_cli.report.progress import show_progress, show_status
from orpo_cli.run_records import write_record
from orpo_cli.workflows.remote_code import warn_about_remote_code

if TYPE_CHECKING:
    from orpo_cli.evaluation.eval_target import EvalTarget, Variant
    from orpo_cli.evaluation.generation import SamplingParams
    from orpo_cli.evaluation.prompts import Prompt

HELD_OUT_PROMPTS = 4  # how many are answered by default


@dataclass(frozen=True)
class GenerateRequest:
    """What to answer, and how. Without ``prompts`` and ``prompts_from``: prompts that the run held out of training."""

    prompts: list[str]
    prompts_from: str | None = None  # a .txt with one prompt per line, or preference data
    count: int | None = None  # how many prompts of the file or of the run
    system: str | None = None
    plain: bool = False  # continue the text, without the chat template
    compare: bool = False
    chat_template: str | None = None

    def check(self) -> None:
        """Raise UsageError for options that do nothing."""
        if self.count is not None and self.prompts and self.prompts_from is None:
            raise UsageError("-n does nothing with --prompt alone: every prompt is answered.", remedy="Leave -n out.")
        only_rows = not self.prompts and not (self.prompts_from or "").endswith(".txt")
        for option, is_given in (("--system", self.system is not None), ("--plain", self.plain)):
            if is_given and only_rows:
                raise UsageError(
                    f"{option} does nothing here: prompts of preference data are used as they are.",
                    remedy="Use it with --prompt, or with a .txt file in --prompts-from.",
                )
        if self.plain and self.system is not None:
            raise UsageError(
                "--system needs the chat template, which --plain switches off.", remedy="Leave one of them out."
            )


def generate_answers(
    model: str, request: GenerateRequest, sampling: SamplingParams, console: Console
) -> dict[str, Any]:
    """Answer the prompts of ``request`` with a run or a model, and return the document of `orpo generate --json`."""
    from orpo_cli.evaluation.eval_target import find_run, open_eval_target
    from orpo_cli.evaluation.prompts import PromptBuilder, check_prompts_available, collect_prompts

    run = find_run(model)
    refuse_compare_without_run(request.compare, model)
    has_held_out = run is not None and run.read_plan().dataset.eval is not None
    check_prompts_available(model, has_held_out, texts=request.prompts, file=request.prompts_from)
    request.check()
    warn_about_remote_code(model, console)
    with show_status(console) as status:
        status("loading the model")
        target = open_eval_target(model, chat_template=request.chat_template, note=console.note)
    plain = request.plain
    if not plain and target.tokenizer.chat_template is None:
        plain = True
        console.note(f"{target.name} has no chat template: the model continues the text of each prompt")
    elif not plain and target.trained_as_text:
        plain = True
        console.note(
            f"{target.name} was trained on plain text: the model continues the text of each prompt, as in training"
        )
    builder = PromptBuilder(target.tokenizer, plain=plain)
    prompts = collect_prompts(
        target,
        builder,
        texts=request.prompts,
        file=request.prompts_from,
        count=HELD_OUT_PROMPTS if request.count is None and request.prompts_from is None else request.count,
        system=request.system,
        note=console.note,
    )
    variants = target.variants if request.compare else target.variants[-1:]
    return {
        "status": "answered",
        "name": target.name,
        "models": variants,
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        **({"top_p": sampling.top_p, "seed": sampling.seed} if sampling.temperature > 0 else {}),
        "answers": _answer(target, prompts, builder.end_token_ids, variants, sampling, console),
    }


def record_samples(model: str, request: GenerateRequest, document: dict[str, Any], console: Console) -> None:
    """Write samples.json, which the model card shows, if this compares a run on held-out prompts. Raises MachineError."""
    from orpo_cli.evaluation.eval_target import find_run

    run = find_run(model)
    if run is not None and request.compare and not request.prompts and request.prompts_from is None:
        write_record(run.samples, document)
        console.note(f"wrote {run.samples}, which the model card shows")


def _answer(
    target: EvalTarget,
    prompts: list[Prompt],
    end_token_ids: frozenset[int],
    variants: tuple[Variant, ...],
    sampling: SamplingParams,
    console: Console,
) -> list[dict[str, Any]]:
    """One row per prompt, with the answer of each variant under its name."""
    from orpo_cli.evaluation.generation import generate_completions

    rows: list[dict[str, Any]] = [{"prompt": prompt.text, "messages": prompt.messages} for prompt in prompts]
    with show_progress(console) as begin_count:
        for variant in variants:
            progress = begin_count(f"answering, {variant}")
            with target.use_variant(variant) as model:
                answers = generate_completions(
                    model, target.tokenizer, prompts, sampling, end_token_ids=end_token_ids, progress=progress
                )
            for row, answer in zip(rows, answers, strict=True):
                row[variant] = asdict(answer)
    return rows


def make_sampling(
    max_new_tokens: int, temperature: float, top_p: float | None, seed: int | None, console: Console
) -> SamplingParams:
    """How to choose tokens. Raises UsageError for an option that does nothing."""
    from orpo_cli.evaluation.generation import SamplingParams

    for name, value in (("--top-p", top_p), ("--seed", seed)):
        if value is not None and temperature == 0:
            raise UsageError(
                f"{name} does nothing at temperature 0: the most likely token is taken.",
                remedy="Add --temperature 0.7.",
            )
    if top_p == 0:
        raise UsageError("--top-p must be above 0.", remedy="Use --temperature 0 to take the most likely token.")
    sampling = SamplingParams(max_new_tokens, temperature, 1.0 if top_p is None else top_p, seed).with_seed()
    if sampling.seed is not None and seed is None:
        console.note(f"sampling with --seed {sampling.seed}")
    return sampling


def refuse_compare_without_run(compare: bool, model: str) -> None:
    """Raise UsageError where --compare has no base model to compare with."""
    from orpo_cli.evaluation.eval_target import find_run

    if compare and find_run(model) is None:
        raise UsageError(
            f"--compare: {model} is not a run, so there is no base model to compare with.",
            remedy="Give a run directory.",
        )
