"""Inputs of the memory and throughput estimates: pair lengths, and traces of the model's activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import DataError, Problem
from orpo_cli.estimate.memory import Activations, Computation, EstimateInputs, Trace, rough_activations
from orpo_cli.estimate.pair_lengths import PairLengths, PairSize, worst_case_lengths
from orpo_cli.library_imports import import_libraries
from orpo_cli.machine import Machine
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.planning.plan import DatasetPlan, Plan, PlanDraft
from orpo_cli.recipe.schema import EvalSplit, ModelSection
from orpo_cli.workflows.measured_lengths import Preparation, cached_lengths

if TYPE_CHECKING:
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.training.memory_trace import MemoryTracer

MAX_DATA_BYTES = 4_000_000  # of all data files together; of larger files, the first pairs are read for a plan
MAX_SAMPLED_BYTES = 200_000_000  # larger files are not opened, since the digest of their content would take seconds
SAMPLED_PAIRS = 100
COUNTED_BYTES = 256 << 20  # of a file; its further rows are taken to be as long


def collect_estimate_inputs(
    plan: PlanDraft, source: ModelSource[ModelSection], machine: Machine, facts: ModelFacts
) -> EstimateInputs:
    """Inputs for ``plan``, whose model has ``facts``."""
    here = plan.launch.num_processes // plan.launch.num_machines
    if plan.device != "cuda" and here > 1:  # they share the main memory
        machine = replace(machine, available_bytes=(machine.available_bytes or machine.ram_bytes) // here)
    return EstimateInputs(machine, facts, pair_lengths(plan, source), _cached_trace(facts))


def pair_lengths(plan: PlanDraft, source: ModelSource[ModelSection]) -> PairLengths:
    """Lengths of the pairs in small local files; for other sources the longest pairs that the plan allows.

    Of larger local files, the first pairs are read for the notes on them.
    """
    files = [Path(source.path) for source in plan.dataset.train]
    size = sum(file.stat().st_size for file in files) if all(file.is_file() for file in files) else None
    if size is None or size > MAX_SAMPLED_BYTES:
        return worst_case_lengths(plan)
    is_sample = size > MAX_DATA_BYTES
    dataset, pairs_needed = (
        (_first_pairs(plan.dataset), SAMPLED_PAIRS) if is_sample else (plan.dataset, plan.total_pairs())
    )
    try:
        lengths = cached_lengths(Preparation(dataset, source, plan.training["max_length"], pairs_needed))
    except DataError as error:
        if is_sample:  # the further rows may be usable
            return worst_case_lengths(plan)
        return replace(worst_case_lengths(plan), warnings=(data_refused(error),))
    if lengths is None:  # training reports the error
        return worst_case_lengths(plan)
    if is_sample:
        first = "among the first pairs: "
        return replace(
            worst_case_lengths(plan),
            notes=tuple(f"{first}{note}" for note in lengths.notes),
            warnings=tuple(replace(each, message=f"{first}{each.message}") for each in lengths.warnings),
        )
    return lengths


def data_refused(error: DataError) -> Problem:
    """The warning of a plan about data that training will refuse."""
    message = f"{error.message.rstrip('.')}. `orpo train` will refuse it."
    return Problem("data-refused", message, "dataset", remedy=error.remedy, severity="warning")


def _first_pairs(dataset: DatasetPlan) -> DatasetPlan:
    """The section for the first pairs of large files, which are read from their start as streams."""
    train = [each.model_copy(update={"streaming": True, "max_samples": None}) for each in dataset.train]
    return dataset.model_copy(update={"train": train, "eval": None})


def count_rows(plan: Plan) -> int | None:
    """Rows to train on where the sources are JSON lines in local files: about the number of pairs; None for other sources.

    Without held-out rows, and with the repetitions of ``weight``. The rows of a large file are estimated from its start.
    """
    sources = plan.dataset.train
    files = [Path(source.path) for source in sources]
    if not all(file.suffix == ".jsonl" and file.is_file() for file in files):
        return None
    if any(source.split != "train" for source in sources):  # a slice
        return None
    counts = [
        min(_count_lines(file), source.max_samples or math.inf) for file, source in zip(files, sources, strict=True)
    ]
    kept = 1 - _held_out_share(plan.dataset, sum(counts))
    return round(kept * sum(count * source.weight for count, source in zip(counts, sources, strict=True)))


def _count_lines(path: Path) -> float:
    """Lines of a file, estimated from its first ``COUNTED_BYTES``."""
    with path.open("rb") as file:
        blocks = islice(iter(lambda: file.read(1 << 20), b""), COUNTED_BYTES >> 20)
        lines = sum(block.count(b"\n") for block in blocks)
        return lines * max(1.0, path.stat().st_size / max(1, file.tell()))


def _held_out_share(dataset: DatasetPlan, rows: float) -> float:
    """The part of ``rows`` that ``dataset.eval`` splits off."""
    if not isinstance(dataset.eval, EvalSplit) or not rows:
        return 0.0
    size = dataset.eval.test_size
    return size if isinstance(size, float) else min(1.0, size / rows)


def _cached_trace(facts: ModelFacts) -> Trace:
    """Traces of the model, each computed once; a rough estimate where the model's code does not run without weights."""
    from orpo_cli.training.trace_cache import cached_trace

    tracers: dict[str, MemoryTracer] = {}
    traces: dict[tuple[str, tuple[PairSize, ...]], Activations] = {}
    failed: dict[str, str] = {}

    def trace(how: Computation, pairs: Sequence[PairSize]) -> Activations:
        name, sizes = repr(how), tuple(pairs)

        def run() -> Activations:
            import_libraries("orpo_cli.training.memory_trace")
            from orpo_cli.training.memory_trace import MemoryTracer

            if name not in tracers:
                tracers[name] = MemoryTracer(facts.config, how)
            return tracers[name](sizes)

        if name not in failed:
            try:
                if (name, sizes) not in traces:
                    traces[name, sizes] = cached_trace(facts.config_values, how, sizes, run)
                return traces[name, sizes]
            except Exception as error:  # model code may fail in any way on tensors without content
                failed[name] = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        return rough_activations(facts, how, pairs, failed[name])

    return trace
