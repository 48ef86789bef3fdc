"""Benchmark workflow (`orpo benchmark`): questions, answers of each variant, figures or answer files, and the result file."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.atomic import NO_SPACE_REMEDY, atomic_write_text
from orpo_cli.errors import UsageError
from orpo_cli.json_files import read_json_object_or_empty
from orpo_cli.os_errors import explain_write_errors
from orpo_cli.report.console import Console
from orpo_cli.report.progress import show_progress, show_status
from orpo_cli.run_attempts import now
from orpo_cli.run_records import write_record
from orpo_cli.rundir import BENCHMARK_RESULT, near_run_remedy
from orpo_cli.workflows.benchmark_record import decoding_record, model_record, prompts_record, versions_record
from orpo_cli.workflows.benchmark_request import HARNESS, BenchmarkRequest
from orpo_cli.workflows.remote_code import warn_about_remote_code

if TYPE_CHECKING:
    from orpo_cli.evaluation.benchmarks.ask import Answers, AskRequest
    from orpo_cli.evaluation.benchmarks.questions import QuestionSet
    from orpo_cli.evaluation.eval_target import EvalTarget, Variant


def run_benchmark(model: str, request: BenchmarkRequest, console: Console) -> dict[str, Any]:
    """Measure a run (base and tuned) or a model, write the result file, and return its content.

    A repetition of an interrupted benchmark continues with the questions that have no answer yet.
    """
    from orpo_cli.evaluation.eval_target import open_eval_target

    request.check()
    folder = result_folder(model, request)
    if request.output is not None:
        _check_folder(folder, model)
    started = time.monotonic()
    questions = _load_questions(request, console)
    warn_about_remote_code(model, console)
    with show_status(console) as status:
        status("loading the model")
        target = open_eval_target(model, chat_template=request.chat_template, note=console.note)
    plain = _is_plain(target, request, console)
    with explain_write_errors(folder, NO_SPACE_REMEDY):  # before a measurement of hours
        folder.mkdir(parents=True, exist_ok=True)
    if questions is None:
        measured = _measure_harness_task(target, request, plain, console)
    else:
        measured = _measure_answers(target, request, questions, plain, folder, console)
    document = {
        "status": "measured",
        "task": request.task,
        "name": target.name,
        "date": now(),
        **measured,
        "model": model_record(target),
        "seconds": round(time.monotonic() - started, 1),
    }
    result = folder / BENCHMARK_RESULT
    write_record(result, document)
    console.note(f"wrote {result}")
    return document


def result_folder(model: str, request: BenchmarkRequest) -> Path:
    """The folder for the results of a task: in the run, or in --output."""
    from orpo_cli.evaluation.eval_target import find_run

    run = find_run(model)
    if request.output is None and run is None:
        raise UsageError(
            f"{model} is not a run, so the results have no folder.",
            remedy=near_run_remedy(model, "Name one for them: --output DIR."),
        )
    parent = (request.output or (run.benchmarks if run is not None else Path())).expanduser()
    if parent.exists() and not parent.is_dir():
        raise UsageError(f"{parent} is a file, not a folder for the results.", remedy="Name a folder: --output DIR.")
    return parent / re.sub(r"[^\w.-]", "-", request.task)


def _check_folder(folder: Path, model: str) -> None:
    """Raise UsageError where the folder has the result of another model."""
    before = read_json_object_or_empty(folder / BENCHMARK_RESULT).get("name", model)
    if before != model and Path(before).expanduser().resolve() != Path(model).expanduser().resolve():
        raise UsageError(
            f"{folder} has the result of {before}.", remedy=f"Name another folder (--output DIR), or remove {folder}."
        )


def _load_questions(request: BenchmarkRequest, console: Console) -> QuestionSet | None:
    """The questions, after a check that they can be scored; None for a task of the harness."""
    from orpo_cli.evaluation.benchmarks.harness import check_harness
    from orpo_cli.evaluation.benchmarks.ifeval import check_scorer
    from orpo_cli.evaluation.benchmarks.questions import load_questions

    if request.answered_task is None:
        check_harness()
        return None
    if request.answered_task == "ifeval":
        check_scorer()
    with show_status(console) as status:
        status("reading the questions")
        return load_questions(request.answered_task, request.data, request.max_samples)


def _is_plain(target: EvalTarget, request: BenchmarkRequest, console: Console) -> bool:
    """Whether to ask without a chat template: on request, where there is none, or as a run was trained."""
    if request.plain:
        return True
    if target.tokenizer.chat_template is None:
        reason = "has no chat template"
    elif target.trained_as_text:
        reason = "was trained on plain text"
    else:
        return False
    if request.task == "mt_bench" or request.system is not None:
        option = "the second turn of mt_bench" if request.task == "mt_bench" else "--system"
        raise UsageError(
            f"{target.name} {reason}, and {option} needs one.", remedy="Choose another task, or leave --system out."
        )
    console.note(f"{target.name} {reason}: the model continues the text of each question")
    return True


def _measure_answers(
    target: EvalTarget, request: BenchmarkRequest, questions: QuestionSet, plain: bool, folder: Path, console: Console
) -> dict[str, Any]:
    """Answer the questions with every variant, and score the answers or write them for a judge."""
    from orpo_cli.evaluation.benchmarks.ask import AskRequest, PromptStatistics, answer_questions, answer_record
    from orpo_cli.evaluation.benchmarks.ifeval import PACKAGES

    task = request.answered_task
    assert task is not None
    ask = AskRequest(task, questions.questions, request.sampling(task), request.system, plain, folder / "answers")
    statistics = PromptStatistics(target.tokenizer.bos_token_id)
    answers: dict[Variant, Answers] = {}
    with show_progress(console) as begin_count:
        for variant in target.variants:
            answers[variant] = answer_questions(
                target, variant, ask, statistics, begin_count=begin_count, note=console.note
            )
    scored = _score_ifeval(ask, answers, folder) if task == "ifeval" else _write_for_judge(target, ask, answers, folder)
    models = {
        variant: {**scored["models"].get(variant, {}), "answers": answer_record(each)}
        for variant, each in answers.items()
    }
    return {
        "questions": questions.as_record(),
        "prompts": prompts_record(target, ask, statistics),
        "decoding": decoding_record(target, ask),
        **scored,
        "models": models,
        "versions": versions_record(PACKAGES if task == "ifeval" else ()),
    }


def _score_ifeval(ask: AskRequest, answers: dict[Variant, Answers], folder: Path) -> dict[str, Any]:
    """The four accuracies of each variant and their change; each answer with its verdict goes to VARIANT.jsonl."""
    from orpo_cli.evaluation.benchmarks.figures import compare, summarize
    from orpo_cli.evaluation.benchmarks.ifeval import Verdict, accuracy_values, score_answers, verdict_lines

    verdicts: dict[Variant, list[Verdict]] = {}
    files: dict[str, str] = {}
    for variant, each in answers.items():
        texts = [turns[0].text for turns in each]
        verdicts[variant] = score_answers(ask.questions, texts)
        path = folder / f"{variant}.jsonl"
        atomic_write_text(path, verdict_lines(ask.questions, texts, verdicts[variant]))
        files[variant] = path.name
    values = {variant: accuracy_values(each) for variant, each in verdicts.items()}
    return {
        "models": {variant: summarize(each) for variant, each in values.items()},
        "change": compare(values["base"], values["tuned"]) if "base" in values else None,
        "files": files,
    }


def _write_for_judge(
    target: EvalTarget, ask: AskRequest, answers: dict[Variant, Answers], folder: Path
) -> dict[str, Any]:
    """Write the answers of each variant in the format of AlpacaEval or MT-Bench; they have no figures before a judge."""
    from orpo_cli.evaluation.benchmarks.judge_files import alpaca_eval_text, mt_bench_text

    files: dict[str, str] = {}
    for variant, each in answers.items():
        name = _judged_name(target, variant)
        if ask.task == "alpaca_eval":
            path = folder / f"{variant}.json"
            text = alpaca_eval_text(ask.questions, [turns[0].text for turns in each], name)
        else:
            path = folder / "model_answer" / f"{name}.jsonl"
            text = mt_bench_text(ask.questions, [[turn.text for turn in turns] for turns in each], name, time.time())
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, text)
        files[variant] = str(path.relative_to(folder))
    return {"models": {}, "change": None, "files": files}


def _judged_name(target: EvalTarget, variant: Variant) -> str:
    """The name of a variant in the results of a judge, and of its file: a run has the name of its recipe."""
    name = target.plan.name if target.plan is not None else Path(target.name).name
    return re.sub(r"[^\w.-]", "-", name) + ("-base" if variant == "base" else "")


def _measure_harness_task(
    target: EvalTarget, request: BenchmarkRequest, plain: bool, console: Console
) -> dict[str, Any]:
    """Measure every variant with lm-evaluation-harness."""
    from orpo_cli.evaluation.benchmarks.figures import compare, summarize
    from orpo_cli.evaluation.benchmarks.harness import HarnessRequest, HarnessResult, measure_task
    from orpo_cli.training.fingerprints import tokenizer_fingerprints

    harness = HarnessRequest(
        request.task.removeprefix(HARNESS), request.max_samples, request.include_path, request.system, plain
    )
    results: dict[Variant, HarnessResult] = {}
    for variant in target.variants:
        with show_status(console) as status, target.use_variant(variant) as model:
            status(f"measuring {harness.task}, {variant}")
            results[variant] = measure_task(model, target.tokenizer, harness)
    settings = next(iter(results.values())).settings
    return {
        **settings,
        "prompts": {**tokenizer_fingerprints(target.tokenizer), **settings["prompts"]},
        "models": {variant: {**summarize(each.values), "harness": each.figures} for variant, each in results.items()},
        "change": compare(results["base"].values, results["tuned"].values) if "base" in results else None,
        "versions": versions_record(("lm_eval",)),
    }
