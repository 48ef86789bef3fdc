"""Benchmark records: the parts of a result file that say what decided its figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from orpo_cli.redaction import redact_record

if TYPE_CHECKING:
    from orpo_cli.evaluation.benchmarks.ask import AskRequest, PromptStatistics
    from orpo_cli.evaluation.eval_target import EvalTarget


def prompts_record(target: EvalTarget, request: AskRequest, statistics: PromptStatistics) -> dict[str, Any]:
    """How the questions became tokens: digests of tokenizer and chat template, BOS tokens, lengths, the first prompt."""
    from orpo_cli.training.fingerprints import tokenizer_fingerprints

    return {
        **tokenizer_fingerprints(target.tokenizer),
        "plain": request.plain,
        "system": request.system,
        "bos_token": target.tokenizer.bos_token,
        **statistics.as_record(),
        "first": target.tokenizer.decode(statistics.first),
    }


def decoding_record(target: EvalTarget, request: AskRequest) -> dict[str, Any]:
    """How tokens were chosen, and which ones end an answer."""
    from orpo_cli.evaluation.benchmarks.ask import sampling_of
    from orpo_cli.evaluation.generation import stop_token_ids
    from orpo_cli.evaluation.prompts import PromptBuilder

    sampling = request.sampling
    temperatures = {
        question.row["category"]: sampling_of(request, question).temperature
        for question in request.questions
        if request.task == "mt_bench"
    }
    builder = PromptBuilder(target.tokenizer, plain=request.plain)
    stops = stop_token_ids(target.model, target.tokenizer, builder.end_token_ids)
    is_sampled = bool(temperatures) or sampling.temperature > 0
    return {
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": temperatures or sampling.temperature,
        "top_p": sampling.top_p if is_sampled else None,
        "seed": sampling.seed if is_sampled else None,
        "repetition_penalty": 1.0,
        "stop_tokens": target.tokenizer.convert_ids_to_tokens(stops),
    }


def model_record(target: EvalTarget) -> dict[str, Any]:
    """The model: its base and revision, the adapter, dtype, quantization and device, and the steps of the run."""
    from orpo_cli.merging.merge_record import adapter_digests

    config = target.model.config
    record: dict[str, Any] = {
        "name": target.name,
        "revision": getattr(config, "_commit_hash", None),
        "dtype": str(target.model.dtype).removeprefix("torch."),
        "device": str(target.model.device),
    }
    if target.rundir is None or target.plan is None:
        return record
    run, adapter = target.rundir.read_run(), target.rundir.adapter
    quantization = target.plan.quantization
    record |= redact_record(
        {
            "base": target.plan.model.model_name_or_path,
            "step": run.get("steps"),
            "revision": run.get("model", {}).get("revision"),
            "quantization": None if quantization is None else quantization.model_dump(mode="json"),
            "adapter_sha256": adapter_digests(adapter) if adapter.is_dir() else None,
            "weights": run.get("result", {}),
        }
    )
    return record


def versions_record(packages: Iterable[str]) -> dict[str, str | None]:
    """Versions of orpo-cli, Python, the libraries, and further ``packages``."""
    from orpo_cli.training.provenance import installed_version, installed_versions

    return {**installed_versions(), **{name: installed_version(name) for name in packages}}
