"""Inputs of the memory and throughput estimates: pair lengths, and traces of the model's activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import OrpoError
from orpo_cli.estimate.memory import Activations, Computation, EstimateInputs, Trace, rough_activations
from orpo_cli.estimate.pair_lengths import PairLengths, PairSize, worst_case_lengths
from orpo_cli.machine import Machine
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.planning.plan import Plan, PlanDraft
from orpo_cli.recipe.schema import DatasetSection, ModelSection

if TYPE_CHECKING:
    from orpo_cli.data.prepare import PairTables
    from orpo_cli.model.model_source import ModelSource

MAX_DATA_BYTES = 4_000_000  # of all data files together; of larger files, the first pairs are read for a plan
MAX_SAMPLED_BYTES = 200_000_000  # larger files are not opened, since the digest of their content would take seconds
SAMPLED_PAIRS = 100


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
    prepared = _first_pairs(plan, source) if is_sample else _prepare(plan.dataset, plan, source, plan.total_pairs())
    if prepared is None:  # training reports errors in the data
        return worst_case_lengths(plan)
    notes = tuple(prepared.report.train_notes())
    if is_sample:
        return replace(worst_case_lengths(plan), notes=tuple(f"among the first pairs: {note}" for note in notes))
    columns = (prepared.train.token_counts(part).tolist() for part in ("prompt", "chosen", "rejected"))
    sizes = tuple(PairSize(*each) for each in zip(*columns, strict=True))
    return PairLengths(sizes, measured=True, notes=notes)


def _first_pairs(plan: PlanDraft, source: ModelSource[ModelSection]) -> PairTables | None:
    """The first pairs of large files, which are read from their start as streams."""
    train = [each.model_copy(update={"streaming": True, "max_samples": None}) for each in plan.dataset.train]
    return _prepare(plan.dataset.model_copy(update={"train": train, "eval": None}), plan, source, SAMPLED_PAIRS)


def _prepare(
    dataset: DatasetSection, plan: PlanDraft, source: ModelSource[ModelSection], pairs_needed: int | None
) -> PairTables | None:
    from orpo_cli.data.prepare import prepare_tables
    from orpo_cli.model.tokenizer import load_tokenizer

    try:
        return prepare_tables(
            dataset,
            load_tokenizer(source),
            max_length=plan.training["max_length"],
            max_prompt_length=plan.dataset.max_prompt_length,
            note=lambda _: None,
            pairs_needed=pairs_needed,
        )
    except OrpoError:
        return None


def count_rows(plan: Plan) -> int | None:
    """Rows of the training data where they are JSON lines in local files: about the number of pairs; None for other sources."""
    files = [Path(source.path) for source in plan.dataset.train]
    if not all(file.suffix == ".jsonl" and file.is_file() for file in files):
        return None
    total = 0
    for path in files:
        with path.open("rb") as file:
            total += sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    return total


def _cached_trace(facts: ModelFacts) -> Trace:
    """Traces of the model, each computed once; a rough estimate where the model's code does not run without weights."""
    from orpo_cli.training.memory_trace import MemoryTracer
    from orpo_cli.training.trace_cache import cached_trace

    tracers: dict[str, MemoryTracer] = {}
    traces: dict[tuple[str, tuple[PairSize, ...]], Activations] = {}
    failed: dict[str, str] = {}

    def trace(how: Computation, pairs: Sequence[PairSize]) -> Activations:
        name, sizes = repr(how), tuple(pairs)

        def run() -> Activations:
            if name not in tracers:
                tracers[name] = MemoryTracer(facts.config, how)
            return tracers[name](sizes)

        if name not in failed:
            try:
                if (name, sizes) not in traces:
                    traces[name, sizes] = cached_trace(facts.config, how, sizes, run)
                return traces[name, sizes]
            except Exception as error:  # model code may fail in any way on tensors without content
                failed[name] = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        return rough_activations(facts, how, pairs, failed[name])

    return trace
