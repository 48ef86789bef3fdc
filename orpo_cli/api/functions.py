"""Functions of the Python interface for recipes and for what was trained. Each does what the command of this name does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.api.dataset_messages import naming_datasets
from orpo_cli.api.in_memory import save_dataset
from orpo_cli.api.quiet import console_of_call
from orpo_cli.errors import UsageError
from orpo_cli.rundir import RunDir

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from orpo_cli.evaluation.eval_target import EvalTarget
    from orpo_cli.evaluation.prompts import Prompt, PromptBuilder
    from orpo_cli.exporting.export import ExportResult
    from orpo_cli.hub.check import PushCheck
    from orpo_cli.hub.push import PushResult
    from orpo_cli.merging.merge import MergeResult
    from orpo_cli.report.console import Console

Message = Mapping[str, str]  # {"role": "user", "content": "…"}


@dataclass(frozen=True)
class Answer:
    """Answer to a prompt. ``base``: that of the base model, with ``compare``; ``finished``: whether it ended within the limit.

    ``prompt`` is the last turn, and ``messages`` the whole conversation; None where the model got a plain text.
    """

    prompt: str
    text: str
    finished: bool
    base: str | None = None
    messages: list[dict[str, str]] | None = None


def evaluate(
    model: str | Path | PreTrainedModel,
    data: str | Path | Dataset | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_samples: int | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    recompute: bool = False,
    verbose: bool = False,
) -> dict[str, Any]:
    """Measure how often a model prefers the chosen completion, and by how much: the document of ``orpo eval --json``.

    ``model``: a run, whose base and tuned model are compared and whose evaluation.json is written, or a model: its name, folder or
    object (with ``tokenizer``). ``data``: preference pairs (a path, a hub id or a dataset); default: the held-out pairs of the run.
    ``max_length``: of a pair in tokens, for a model that is not a run. ``recompute``: score the base also where its scores of these
    pairs are in the cache. Raises UsageError, DataError, HubError, MachineError.
    """
    with console_of_call(verbose) as console, _in_eval_mode(model):
        from orpo_cli.evaluation import evaluate as evaluation
        from orpo_cli.evaluation.held_out_pairs import load_held_out_pairs
        from orpo_cli.training.packed_scoring import make_scorer

        saved = {} if data is None or isinstance(data, str | Path) else {"": save_dataset(data, "data")}
        source = saved[""].path if saved else data
        target = _open_target(model, tokenizer, console)
        with naming_datasets(saved):
            pairs = load_held_out_pairs(
                target,
                data=None if source is None else fspath(source),
                max_samples=max_samples,
                max_length=max_length,
                note=console.note,
            )
        run = target.rundir
        scorer = make_scorer(target.plan, run.read_run() if run else {})
        document = evaluation.evaluate(target, pairs, batch_size=batch_size, scorer=scorer, recompute=recompute)
        if run is not None:
            evaluation.record_evaluation(run, document)
    return document


def generate(
    model: str | Path | PreTrainedModel,
    prompts: str | Sequence[str | Sequence[Message]] | None = None,
    *,
    count: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    compare: bool = False,
    system: str | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
    verbose: bool = False,
) -> list[Answer]:
    """Answer prompts, each a text or a conversation that ends with a message of the user or of a tool, in the order given.

    ``model``: a run, or a model: its name, folder or object (with ``tokenizer``). ``compare``: also the base model of a run. The
    prompts have the tokens of the training. Without ``prompts``: ``count`` (4) prompts that the run held out; with ``compare`` their answers
    are written to samples.json, which the report and the model card show. Temperature 0 takes the most likely token. Raises UsageError,
    HubError, MachineError.
    """
    if prompts is None:
        _check_sampling(max_new_tokens, temperature, top_p, seed)
        sampling_values = max_new_tokens, temperature, top_p, seed
        return _answer_held_out(model, count, sampling_values, compare=compare, system=system, verbose=verbose)
    if count is not None:
        raise UsageError("count does nothing with prompts: every prompt is answered.", remedy="Leave count out.")
    with console_of_call(verbose) as console, _in_eval_mode(model):
        from orpo_cli.evaluation.answers import AnswerOptions, answer_prompts
        from orpo_cli.evaluation.generation import SamplingParams
        from orpo_cli.evaluation.prompts import PromptBuilder

        target = _open_target(model, tokenizer, console)
        if compare and "base" not in target.variants:
            raise UsageError(
                f"compare: {target.name} is not a run, so there is no base model to compare with.",
                remedy="Give a run directory.",
            )
        plain = target.tokenizer.chat_template is None or target.trained_as_text
        builder = PromptBuilder(target.tokenizer, plain=plain)
        given = [prompts] if isinstance(prompts, str) else prompts
        built = [_build_prompt(builder, prompt, system, f"prompts[{index}]") for index, prompt in enumerate(given)]
        _check_sampling(max_new_tokens, temperature, top_p, seed)
        sampling = SamplingParams(max_new_tokens, temperature, top_p, seed).with_seed()
        variants = target.variants if compare else target.variants[-1:]
        options = AnswerOptions(sampling, variants, builder.end_token_ids)
        answers = answer_prompts(target, built, options, note=console.note)
    tuned = answers[variants[-1]]
    bases = [each.text for each in answers["base"]] if compare else [None] * len(built)
    return [
        Answer(prompt.text, found.text, found.finished, base, prompt.messages)
        for prompt, found, base in zip(built, tuned, bases, strict=True)
    ]


def _answer_held_out(
    model: str | Path | PreTrainedModel,
    count: int | None,
    sampling: tuple[int, float, float, int | None],
    *,
    compare: bool,
    system: str | None,
    verbose: bool,
) -> list[Answer]:
    """Answers to prompts that a run held out, as `orpo generate RUN` gives them."""
    if not isinstance(model, str | Path):
        raise UsageError("prompts: a model object has no held-out prompts.", remedy="Give prompts.")
    with console_of_call(verbose) as console:
        from orpo_cli.evaluation.generation import SamplingParams
        from orpo_cli.workflows.generate import GenerateRequest, generate_answers, record_samples

        request = GenerateRequest([], count=count, compare=compare, system=system)
        document = generate_answers(fspath(model), request, SamplingParams(*sampling).with_seed(), console)
        record_samples(fspath(model), request, document, console)
    answers, variant = document["answers"], document["models"][-1]
    bases = [row["base"]["text"] if compare else None for row in answers]
    return [
        Answer(row["prompt"], row[variant]["text"], row[variant]["finished"], base, row["messages"])
        for row, base in zip(answers, bases, strict=True)
    ]


def merge(
    target: str | Path, output: str | Path | None = None, *, verbose: bool = False, **options: Any
) -> MergeResult:
    """Merge the adapter of a run, a checkpoint or an adapter folder into its base, and verify the result.

    ``output``: default is the ``merged`` folder of the run. ``options``: ``base`` (the base model, where the adapter does not name it),
    ``dtype`` (of the merged weights), ``max_shard_size`` (``"5GB"``), ``into`` (``"trained"`` or ``"original"``: weights of a base that training
    quantized), ``adapters`` and ``weights`` (further adapters, and a factor for each adapter), ``memory`` (to use at most, ``"8GB"``),
    ``held_out_pairs`` (to compare, 32; fewer are faster) and ``overwrite`` (replace another merge). Raises UsageError, MachineError,
    HubError, RunError where the result is wrong.
    """
    with console_of_call(verbose) as console:
        from orpo_cli.merging.merge import merge as merge_adapters
        from orpo_cli.merging.merge_target import MergeRequest

        request = _request(MergeRequest, target=Path(target), output=_path(output), **options)
        return merge_adapters(request, note=console.note)


def export(target: str | Path, *formats: str, verbose: bool = False, **options: Any) -> list[ExportResult]:
    """Write a trained model as safetensors, GGUF or a bitsandbytes checkpoint, and verify each.

    ``formats``: default are those of the recipe. ``options``: ``output`` (the folder), ``dtype`` (of the weights), ``max_shard_size``
    (``"5GB"``), ``gguf_types`` (``["q8_0"]``) and ``overwrite`` (replace another export). Raises UsageError, MachineError, HubError, RunError.
    """
    with console_of_call(verbose) as console:
        from orpo_cli.exporting.export import export as export_model
        from orpo_cli.exporting.export_request import ExportRequest

        output = _path(options.pop("output", None))
        request = _request(ExportRequest, target=Path(target), output=output, formats=list(formats) or None, **options)
        return export_model(request, note=console.note)


def push(run: str | Path, repo_id: str | None = None, *, verbose: bool = False, **options: Any) -> PushResult:
    """Upload parts of a run to the hub, with a model card. A new repository is private.

    ``repo_id``: default is hub.repo_id of the recipe. ``options``: ``parts`` (what to push, such as ``["adapter", "merged"]``), ``include`` and
    ``exclude`` (patterns of paths), ``samples`` (answers in the card), ``private``, ``revision`` (a branch), ``create_pr``, ``tag``, ``commit_message``,
    ``accept_base_license``, ``force`` (replace files of others, move a tag) and ``dry_run``. Raises UsageError, HubError.
    """
    from orpo_cli.hub.push import PushRequest
    from orpo_cli.hub.push import push as push_run

    with console_of_call(verbose) as console:
        return push_run(RunDir.open(run), _request(PushRequest, repo_id=repo_id, **options), console.note)


def check_push(run: str | Path, repo_id: str | None = None, **options: Any) -> PushCheck:
    """Ask the hub whether it would accept the push of a run, and send nothing. The arguments are those of ``push``."""
    from orpo_cli.hub.check import check_run
    from orpo_cli.hub.push import PushRequest

    with console_of_call(verbose=False) as console:
        return check_run(RunDir.open(run), _request(PushRequest, repo_id=repo_id, **options), console.note)


def _open_target(
    model: str | Path | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, console: Console
) -> EvalTarget:
    from orpo_cli.evaluation.eval_target import EvalTarget, open_eval_target
    from orpo_cli.workflows.remote_code import warn_about_remote_code

    if isinstance(model, str | Path):
        if tokenizer is not None:
            raise UsageError(
                f"tokenizer: {model} has its own.", remedy="Leave the tokenizer out, or give the model object."
            )
        warn_about_remote_code(model, console)
        return open_eval_target(fspath(model), chat_template=None, note=console.note)
    if tokenizer is None:
        raise UsageError("a model object needs its tokenizer.", remedy="Give it too: tokenizer=….")
    return EvalTarget(model.config._name_or_path or type(model).__name__, model, tokenizer)


def _build_prompt(builder: PromptBuilder, prompt: str | Sequence[Message], system: str | None, where: str) -> Prompt:
    from orpo_cli.data.messages import read_messages
    from orpo_cli.data.pair import RowRejected
    from orpo_cli.data.roles import ROLES

    if isinstance(prompt, str):
        return builder.from_text(prompt, system)
    if not prompt or isinstance(prompt, Mapping):
        raise UsageError(
            "prompts: each is a text or a conversation, which is a list of messages.",
            remedy='One conversation is a list in a list: [[{"role": "user", "content": "…"}]].',
        )
    if system is not None:
        raise UsageError(
            "system: a conversation has its own messages.", remedy='Give it a first message of the role "system".'
        )
    try:
        return builder.from_messages(read_messages(list(prompt), where, "user"))
    except RowRejected as error:
        remedy = f"A message has role and content, which is a text. The roles, as in training: {', '.join(ROLES)}."
        raise UsageError(f"{error.detail}.", remedy=remedy) from error
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", remedy=error.remedy) from error


def _check_sampling(max_new_tokens: int, temperature: float, top_p: float, seed: int | None) -> None:
    """Raise UsageError for values that are not allowed, and for those that do nothing."""
    if max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise UsageError(
            f"max_new_tokens={max_new_tokens}, temperature={temperature}, top_p={top_p}: not allowed.",
            remedy="max_new_tokens is 1 or more, temperature 0 or more, top_p above 0 and at most 1.",
        )
    if temperature == 0 and (top_p != 1 or seed is not None):
        raise UsageError(
            "top_p and seed do nothing at temperature 0: the most likely token is taken.",
            remedy="Give a temperature, such as 0.7.",
        )


@contextmanager
def _in_eval_mode(model: str | Path | PreTrainedModel) -> Iterator[None]:
    """Context in which a model object computes without dropout; afterwards each of its modules is in its mode of before."""
    training = [] if isinstance(model, str | Path) else [each for each in model.modules() if each.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _request(kind: Any, **values: Any) -> Any:
    """A request dataclass. Raises UsageError for an option that it does not have."""
    known = kind.__dataclass_fields__
    unknown = next((name for name in values if name not in known), None)
    if unknown is not None:
        raise UsageError(f"{unknown}: no such option.", remedy=f"The options are {', '.join(known)}.")
    return kind(**values)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
