"""Generation workflow (`orpo generate`): prompts, model, answers of one model or of base and tuned model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import DataError, UsageError
from orpo_cli.redaction import redact
from orpo_cli.report.console import Console
from orpo_cli.report.progress import show_progress
from orpo_cli.run_records import write_record
from orpo_cli.rundir import near_run_remedy
from orpo_cli.workflows.open_backend import BackendName, open_with_backend, refuse_vllm_base
from orpo_cli.workflows.remote_code import warn_about_remote_code

if TYPE_CHECKING:
    from orpo_cli.evaluation.answer_backend import AnswerBackend
    from orpo_cli.evaluation.answers import AnswerOptions
    from orpo_cli.evaluation.eval_target import EvalTarget
    from orpo_cli.evaluation.generation import SamplingParams
    from orpo_cli.evaluation.prompt_file import PromptFileKind, PromptSource
    from orpo_cli.evaluation.prompts import Prompt
    from orpo_cli.rundir import RunDir

HELD_OUT_PROMPTS = 4  # how many are answered by default, without --output


@dataclass(frozen=True)
class GenerateRequest:
    """What to answer, and how. Without ``prompts`` and ``prompts_from``: prompts that the run held out of training."""

    prompts: list[str]
    prompts_from: str | None = None  # a prompt file, preference data or a recipe
    count: int | None = None  # how many prompts of the file or of the run
    system: str | None = None
    plain: bool = False  # continue the text, without the chat template
    compare: bool = False
    chat_template: str | None = None
    output: Path | None = None  # file for the answers
    batch_size: int | None = None
    backend: BackendName = "transformers"

    def check(self, kind: PromptFileKind | None) -> None:
        """Raise UsageError for options that do nothing. ``kind``: of the prompt file."""
        if self.count is not None and self.prompts and self.prompts_from is None:
            raise UsageError("-n does nothing with --prompt alone: every prompt is answered.", remedy="Leave -n out.")
        only_pairs = not self.prompts and (kind is None or kind.value in ("pairs", "recipe"))
        for option, is_given in (("--system", self.system is not None), ("--plain", self.plain)):
            if is_given and only_pairs:
                raise UsageError(
                    f"{option} does nothing here: prompts of preference data are used as they are.",
                    remedy="Use it with --prompt, or with a file of prompts in --prompts.",
                )
        if self.plain and self.system is not None:
            raise UsageError(
                "--system needs the chat template, which --plain switches off.", remedy="Leave one of them out."
            )

    def held_out_count(self) -> int | None:
        """How many prompts of the file or the run are answered; None: all."""
        default = HELD_OUT_PROMPTS if self.prompts_from is None and self.output is None else None
        return default if self.count is None else self.count


def generate_answers(
    model: str, request: GenerateRequest, sampling: SamplingParams, console: Console
) -> dict[str, Any]:
    """Answer the prompts of ``request`` with a run or a model, and return the document of `orpo generate --json`."""
    from orpo_cli.evaluation.answer_file import check_is_answer_file
    from orpo_cli.evaluation.answers import AnswerOptions
    from orpo_cli.evaluation.eval_target import find_run
    from orpo_cli.evaluation.prompt_file import collect_prompts
    from orpo_cli.evaluation.prompts import PromptBuilder, check_prompts_available

    run = find_run(model)
    refuse_compare_without_run(request.compare, model)
    has_held_out = run is not None and run.read_plan().dataset.eval is not None
    check_prompts_available(model, has_held_out, texts=request.prompts, file=request.prompts_from)
    source = _prompt_source(request, run, console)
    request.check(source.kind)
    if request.output is not None:
        check_is_answer_file(request.output)
    warn_about_remote_code(model, console)
    refuse_vllm_base(request.backend, request.compare, run)
    target, backend = open_with_backend(model, request.backend, request.chat_template, console)
    builder = PromptBuilder(target.tokenizer, plain=_is_plain(target, request, console))
    prompts = collect_prompts(target, builder, source, console.note)
    variants = target.variants if request.compare else target.variants[-1:]
    options = AnswerOptions(sampling, variants, builder.end_token_ids, request.batch_size)
    return {
        "status": "answered",
        "name": target.name,
        "models": variants,
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        **({"top_p": sampling.top_p, "seed": sampling.seed} if sampling.temperature > 0 else {}),
        **({} if request.output is None else {"output": str(request.output)}),
        "answers": _answer(target, backend, prompts, options, request.output, console),
    }


def _prompt_source(request: GenerateRequest, run: RunDir | None, console: Console) -> PromptSource:
    """Where the prompts come from; a file may have the columns of the run's recipe. Raises UsageError or DataError where the file is no prompt file."""
    from orpo_cli.data.formats.prompt_columns import columns_line
    from orpo_cli.evaluation.prompt_file import PromptFileKind, PromptSource, columns_of_run, prompt_file_kind
    from orpo_cli.workflows.plan import build_plan, load_recipe_reporting

    if "://" in (request.prompts_from or ""):
        raise DataError(
            f"--prompts {redact(str(request.prompts_from))}: an address, not a file.",
            remedy="Download the file, and give its path.",
        )
    file = None if request.prompts_from is None else Path(request.prompts_from).expanduser()
    columns = {} if file is None or run is None else columns_of_run(file, run.read_plan())
    kind = None if file is None else prompt_file_kind(file, columns=columns)
    if columns and kind is PromptFileKind.ROWS:
        console.note(f"{file}: {columns_line(columns)}, as in the recipe of the run")
    plan = None
    if kind is PromptFileKind.RECIPE:
        loaded = load_recipe_reporting(str(file), None, console, strict=False)
        plan = build_plan(loaded, console, to_train=False, strict=False).plan
    return PromptSource(request.prompts, file, kind, plan, request.held_out_count(), request.system, columns)


def _is_plain(target: EvalTarget, request: GenerateRequest, console: Console) -> bool:
    """Whether the model continues texts, without a chat template."""
    if request.plain:
        return True
    if target.tokenizer.chat_template is None:
        console.note(f"{target.name} has no chat template: the model continues the text of each prompt")
    elif target.trained_as_text:
        console.note(
            f"{target.name} was trained on plain text: the model continues the text of each prompt, as in training"
        )
    else:
        return False
    return True


def record_samples(model: str, request: GenerateRequest, document: dict[str, Any], console: Console) -> None:
    """Write samples.json, which the report and the pushed model card show, if this compares a run on held-out prompts. Raises MachineError."""
    from orpo_cli.evaluation.eval_target import find_run

    run = find_run(model)
    asked = request.prompts or request.prompts_from is not None
    if run is not None and request.compare and not asked and request.output is None:
        write_record(run.samples, document)
        console.note(f"wrote {run.samples}, which `orpo report` and the model card of `orpo push-to-hub` show")


def _answer(
    target: EvalTarget,
    backend: AnswerBackend | None,
    prompts: list[Prompt],
    options: AnswerOptions,
    output: Path | None,
    console: Console,
) -> list[dict[str, Any]]:
    """One row per prompt, with the answer of each variant under its name."""
    from orpo_cli.evaluation.answers import answer_prompts

    limit = options.sampling.max_new_tokens
    many = "" if len(prompts) == 1 else "s"
    console.note(
        f"answering {len(prompts):,} prompt{many}, at most {limit:,} tokens each: {', '.join(options.variants)}"
    )
    with show_progress(console) as begin_count:
        answers = answer_prompts(
            target, prompts, options, output=output, backend=backend, note=console.note, begin_count=begin_count
        )
    return [
        {**prompt.record(), **{variant: asdict(found[index]) for variant, found in answers.items()}}
        for index, prompt in enumerate(prompts)
    ]


def make_sampling(
    max_new_tokens: int,
    temperature: float,
    top_p: float | None,
    seed: int | None,
    console: Console,
    output: Path | None = None,
) -> SamplingParams:
    """How to choose tokens. A generation that continues ``output`` keeps its seed. Raises UsageError for an option that does nothing."""
    from orpo_cli.evaluation.answer_file import recorded_settings
    from orpo_cli.evaluation.generation import SamplingParams

    for name, value in (("--top-p", top_p), ("--seed", seed)):
        if value is not None and temperature == 0:
            raise UsageError(
                f"{name} does nothing at temperature 0: the most likely token is taken.",
                remedy="Add --temperature 0.7.",
            )
    if top_p == 0:
        raise UsageError("--top-p must be above 0.", remedy="Use --temperature 0 to take the most likely token.")
    drawn = seed is None and temperature > 0
    if drawn and output is not None:
        seed = recorded_settings(output).get("decoding", {}).get("seed")
    sampling = SamplingParams(max_new_tokens, temperature, 1.0 if top_p is None else top_p, seed).with_seed()
    if drawn:
        console.note(f"sampling with --seed {sampling.seed}")
    return sampling


def refuse_compare_without_run(compare: bool, model: str) -> None:
    """Raise UsageError where --compare has no base model to compare with."""
    from orpo_cli.evaluation.eval_target import find_run

    if compare and find_run(model) is None:
        raise UsageError(
            f"--compare: {model} is not a run, so there is no base model to compare with.",
            remedy=near_run_remedy(model, "Give a run directory."),
        )
