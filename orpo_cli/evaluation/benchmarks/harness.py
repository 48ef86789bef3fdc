"""Tasks of lm-evaluation-harness: the package ``lm_eval`` measures a loaded model, with the tokenizer of the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import HubError, MachineError, UsageError
from orpo_cli.evaluation.benchmarks.ifeval import INSTALL
from orpo_cli.json_files import is_number

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_SIZE = 8


@dataclass(frozen=True)
class HarnessRequest:
    """Task of the harness, and how to ask. ``include_path``: a folder with further tasks."""

    task: str
    max_samples: int | None
    include_path: Path | None
    system: str | None
    plain: bool  # without the chat template


@dataclass(frozen=True)
class HarnessResult:
    """Measurement of one model.

    ``values``: of each question, by metric; ``figures``: of the harness; ``settings``: what decided them.
    """

    values: Mapping[str, list[float]]
    figures: dict[str, Any]
    settings: dict[str, Any]


def check_harness() -> None:
    """Raise MachineError where the harness is not installed. Called before a model is loaded."""
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise MachineError(
            f"lm_eval:NAME needs the package lm_eval, which cannot be imported: {error}.",
            remedy=f"Install it: {INSTALL}",
        ) from error


def measure_task(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, request: HarnessRequest
) -> HarnessResult:
    """Measure ``model`` on a task or a group of tasks.

    Raises UsageError for an unknown task, HubError where its data cannot be reached, MachineError for a missing package.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with _quiet(), _explained_errors(request.task):
        manager = TaskManager(include_path=None if request.include_path is None else str(request.include_path))
        if request.task not in manager.all_tasks:
            raise UsageError(
                f"lm_eval:{request.task}: lm-evaluation-harness has no such task.",
                remedy="`lm_eval ls tasks` lists them; a folder with further ones is given with --include-path.",
            )
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH_SIZE)
        found = simple_evaluate(
            model=lm,
            tasks=[request.task],
            limit=request.max_samples,
            system_instruction=request.system,
            apply_chat_template=not request.plain,
            task_manager=manager,
            bootstrap_iters=0,
        )
    contexts = [sample["arguments"][0][0] for each in found["samples"].values() for sample in each]
    return HarnessResult(
        _values(found["samples"], found["results"]), _figures(found["results"]), _settings(found, lm, request, contexts)
    )


def _values(
    samples: Mapping[str, list[dict[str, Any]]], results: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[float]]:
    """The value of each metric for each question.

    Metrics whose figure is not the mean of numbers are left out: word perplexities, and exp(-mean) of lambada.
    """
    values: dict[str, list[float]] = {}
    for task, of_task in samples.items():
        found: dict[tuple[str, str], list[float]] = {}
        for sample in of_task:
            for metric in sample["metrics"]:
                if isinstance(value := sample[metric], bool | int | float):
                    found.setdefault((metric, sample["filter"]), []).append(float(value))
        for (metric, name), each in found.items():
            figure = results.get(task, {}).get(f"{metric},{name}")
            if not is_number(figure) or not isclose(figure, fmean(each), rel_tol=1e-6, abs_tol=1e-9):
                continue
            parts = [*([task] if len(samples) > 1 else []), metric, *([name] if name != "none" else [])]
            values["/".join(parts)] = each
    return values


def _figures(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        task: {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        for task, metrics in results.items()
    }


def _settings(found: Mapping[str, Any], lm: Any, request: HarnessRequest, contexts: list[str]) -> dict[str, Any]:
    """What decided the figures, with the names of the other benchmarks."""
    counts = found["n-samples"].values()
    bos = lm.tokenizer.bos_token_id
    leading = [_leading(lm.tok_encode(context), bos) for context in contexts]
    return {
        "questions": {
            "source": ", ".join(str(config.get("dataset_path")) for config in found["configs"].values()),
            "asked": sum(each["effective"] for each in counts),
            "available": sum(each["original"] for each in counts),
        },
        "prompts": {
            "plain": request.plain,
            "system": request.system,
            "bos_token": lm.tokenizer.bos_token,
            "leading_bos_tokens": {"min": min(leading), "max": max(leading)},
            "first": contexts[0],
        },
        "harness": {
            "task_versions": dict(found["versions"]),
            "few_shot": dict(found["n-shot"]),
            "generation": {name: config.get("generation_kwargs") for name, config in found["configs"].items()},
        },
    }


def _leading(ids: list[int], bos: int | None) -> int:
    return next((index for index, token in enumerate(ids) if token != bos), len(ids))


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without the progress messages of the harness; its warnings go to the log."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _explained_errors(task: str) -> Iterator[None]:
    """Turn errors of the data and the packages of a task into OrpoErrors."""
    try:
        yield
    except ImportError as error:
        raise MachineError(f"lm_eval:{task}: {error}", remedy="Install the missing package.") from error
    except (ConnectionError, TimeoutError) as error:
        raise HubError(
            f"lm_eval:{task}: its data cannot be loaded: {str(error).strip().partition(chr(10))[0]}",
            remedy="Check the network, or load the data once on a machine with network into the cache (HF_HOME).",
        ) from error
