"""Model and backend of `orpo generate`: transformers loads the model; vLLM and llama.cpp load it themselves, later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

from orpo_cli.errors import UsageError
from orpo_cli.report.console import Console
from orpo_cli.report.progress import show_status

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from orpo_cli.evaluation.answer_backend import AnswerBackend
    from orpo_cli.evaluation.eval_target import EvalTarget
    from orpo_cli.rundir import RunDir

BackendName = Literal["transformers", "vllm", "llama-cpp"]


def open_with_backend(
    model: str, backend: BackendName, chat_template: str | None, console: Console
) -> tuple[EvalTarget, AnswerBackend | None]:
    """The evaluation target and its backend (None: transformers). With another backend the target has no weights."""
    from orpo_cli.evaluation.eval_target import open_eval_target

    with show_status(console) as status:
        status("loading the model")
        if backend == "llama-cpp":
            return _open_llama_cpp(model, chat_template)
        if backend == "vllm":
            return _open_vllm(model, chat_template, console)
        return open_eval_target(model, chat_template=chat_template, note=console.note), None


def _open_llama_cpp(model: str, chat_template: str | None) -> tuple[EvalTarget, AnswerBackend]:
    from orpo_cli.evaluation.llama_cpp_backend import LlamaCppBackend, gguf_file
    from orpo_cli.model.tokenizer import resolve_chat_template

    backend = LlamaCppBackend(gguf_file(model))
    tokenizer = backend.load_tokenizer()
    if chat_template is not None:
        tokenizer.chat_template = resolve_chat_template(chat_template)
    return _without_weights(model, tokenizer), backend


def _open_vllm(model: str, chat_template: str | None, console: Console) -> tuple[EvalTarget, AnswerBackend]:
    from orpo_cli.evaluation.eval_target import check_is_model, find_run, refuse_chat_template
    from orpo_cli.evaluation.vllm_backend import VllmBackend, check_vllm_installed
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.model.tokenizer import load_saved_tokenizer, load_tokenizer
    from orpo_cli.recipe.schema import ModelSection

    check_vllm_installed()
    run = find_run(model)
    if run is None:
        check_is_model(model)
        section = ModelSection(model_name_or_path=model, chat_template=chat_template or "tokenizer")
        source = ModelSource(section)
        tokenizer = load_tokenizer(source, console.note)
        return _without_weights(model, tokenizer), VllmBackend(source, None, tokenizer)
    refuse_chat_template(model, chat_template)
    plan, result = run.read_plan(), run.result()
    tokenizer = load_saved_tokenizer(result, trust_remote_code=plan.model.trust_remote_code)
    target = _without_weights(model, tokenizer, run)
    if result == run.model:
        return target, VllmBackend(ModelSource(plan.model.stored_in(str(result))), None, tokenizer)
    return target, VllmBackend(ModelSource(plan.model), result, tokenizer)


def refuse_vllm_base(backend: BackendName, compare: bool, run: RunDir | None) -> None:
    """Raise UsageError where vLLM would need two models at once: the base of a run that trained all weights."""
    if backend == "vllm" and compare and run is not None and run.result() == run.model:
        raise UsageError(
            "--backend vllm compares runs with an adapter only: this run trained all weights.",
            remedy="Answer with the run and with its base model in two commands.",
        )


def _without_weights(name: str, tokenizer: PreTrainedTokenizerBase, run: RunDir | None = None) -> EvalTarget:
    from orpo_cli.evaluation.eval_target import EvalTarget

    return EvalTarget(name, cast(Any, None), tokenizer, run, None if run is None else run.read_plan())
