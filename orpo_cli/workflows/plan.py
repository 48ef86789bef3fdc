"""Plan workflow: recipe to plan, for the commands that need a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orpo_cli.errors import DataError, HubError, MachineError, Problem, RecipeError, UsageError, explain_hint
from orpo_cli.estimate.memory import EstimateInputs
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.planning.plan import CHECKPOINTING, TOKEN_BUDGET, ModelPlan, Plan
from orpo_cli.planning.size_defaults import defaults_for_size
from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.recipe.placeholders import load_complete_recipe
from orpo_cli.recipe.schema import ModelSection
from orpo_cli.report.console import Console
from orpo_cli.report.progress import show_status

if TYPE_CHECKING:
    from orpo_cli.machine import Machine
    from orpo_cli.model.model_source import ModelSource

MAX_GPU_GB = 100_000


def load_recipe_reporting(
    source: str, overrides: Sequence[str] | None, console: Console, *, strict: bool
) -> LoadedRecipe:
    """Load a recipe; its warnings go to standard error."""
    loaded = load_complete_recipe(source, overrides or (), strict=strict)
    console.problems(loaded.warnings)
    return loaded


class PlanResult(NamedTuple):
    """A plan, its base model, its warnings, and the inputs of its memory estimate (None where the model is not known)."""

    plan: Plan
    source: ModelSource[ModelPlan]
    warnings: tuple[Problem, ...]
    estimate_inputs: EstimateInputs | None


def build_plan(
    loaded: LoadedRecipe, console: Console, *, to_train: bool, strict: bool, gpu_memory: float | None = None
) -> PlanResult:
    """The plan of a loaded recipe on this machine; its warnings go to standard error.

    ``to_train``: a model that cannot be read and a requirement that is not met are errors. ``strict``: so is every warning.
    ``gpu_memory``: plan for a machine with GPUs of so many GB instead.
    A terminal shows what the seconds are for.
    """
    with show_status(console) as status:
        refused = () if to_train else _check_data(loaded, console, strict=strict)
        result = _build_plan(loaded, console, status, to_train=to_train, strict=strict, gpu_memory=gpu_memory)
        return result._replace(warnings=(*refused, *result.warnings))


def _check_data(loaded: LoadedRecipe, console: Console, *, strict: bool) -> tuple[Problem, ...]:
    """Warn of local data that training would refuse: a missing file, a format that is not known. ``strict``: an error."""
    from orpo_cli.workflows.estimate import data_refused

    try:
        check_local_data(loaded)
    except DataError as error:
        if strict:
            raise
        refused = data_refused(error)
        console.warn(f"{refused.message} {error.remedy or ''}".rstrip())
        return (refused,)
    return ()


def check_local_data(loaded: LoadedRecipe) -> None:
    """Raise DataError where a local data file of the recipe is missing, or where its first rows are not preference data."""
    from orpo_cli.data.first_rows import check_first_rows

    dataset = loaded.recipe.dataset
    for part in ("train", "eval"):
        sources = getattr(dataset, part)
        for index, source in enumerate(sources if isinstance(sources, list) else ()):
            local = loaded.local_path(f"dataset.{part}[{index}].path", source.path)
            check_first_rows(source if local is None else source.model_copy(update={"path": str(local)}))


def _build_plan(
    loaded: LoadedRecipe,
    console: Console,
    status: Callable[[str], None],
    *,
    to_train: bool,
    strict: bool,
    gpu_memory: float | None,
) -> PlanResult:
    status("loading the libraries")
    from orpo_cli.estimate.fit_to_memory import fit_to_memory
    from orpo_cli.machine import probe
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.planning.checks import plan_problems
    from orpo_cli.planning.requirements import missing_requirements
    from orpo_cli.planning.resolve import draft_plan, model_with_absolute_paths
    from orpo_cli.workflows.estimate import collect_estimate_inputs

    machine = probe(Path(loaded.recipe.output_dir or "."))
    if not to_train:
        machine = _planned_machine(machine, loaded, gpu_memory)
    status("reading the configuration of the model")
    source = ModelSource(model_with_absolute_paths(loaded))
    facts = _read_model_facts(source, loaded, console, to_train=to_train)
    draft = draft_plan(loaded, machine, facts)
    problems = plan_problems(draft, loaded, facts)
    if any(problem.severity == "error" for problem in problems):
        raise RecipeError(problems)
    inputs = None
    if facts is not None:
        status("measuring the lengths of the pairs")
        inputs = collect_estimate_inputs(draft, source.with_section(draft.model), machine, facts)
        status("estimating the memory of a step")
    plan = fit_to_memory(draft, inputs)
    missing = [loaded.source_map.locate_problem(problem) for problem in missing_requirements(plan, machine)]
    if missing and (to_train or strict):
        error = MachineError("\n".join(problem.text() for problem in missing), remedy=explain_hint(missing))
        error.problems = tuple(missing)
        raise error
    truncated = _truncation_warnings(loaded, inputs)
    warnings = (*problems, *(replace(each, severity="warning") for each in missing), *truncated)
    if warnings and strict:
        raise RecipeError(warnings)
    console.problems(warnings)
    return PlanResult(plan, source.with_section(plan.model), warnings, inputs)


def _truncation_warnings(loaded: LoadedRecipe, inputs: EstimateInputs | None) -> list[Problem]:
    """Whether many train pairs are truncated, which a value of the recipe changes. Other facts about the pairs are notes."""
    found = () if inputs is None else inputs.lengths.warnings
    truncated = (each for each in found if (each.code, each.path) == ("pairs-truncated", "dataset.train"))
    return [loaded.source_map.locate_problem(each) for each in truncated]


def report_plan(result: PlanResult, console: Console, *, done: int = 0) -> dict[str, Any] | None:
    """Print the short view of a plan before its training, and write every decided value to the log. Returns the estimate.

    ``done``: the steps that a resumed run has behind it. Memory and time are shown where the plan was fitted to the memory: estimating them again takes time.
    """
    from orpo_cli.report.estimate_view import estimate_document
    from orpo_cli.report.plan_summary import Screen, plan_summary
    from orpo_cli.report.plan_view import plan_lines

    plan, inputs = result.plan, result.estimate_inputs
    fitted = any(plan.why[path].origin == "decided" for path in (CHECKPOINTING, TOKEN_BUDGET) if path in plan.why)
    estimate = estimate_document(plan, inputs, compare=False) if inputs is not None and fitted else None
    terminal = console.shows_progress
    screen = Screen(
        width=console.err.width if terminal else None,
        every_value=f"every value with its reason: {Path(plan.output_dir) / 'plan.json'}",
        has_data_notes=False,
        has_bar=terminal,
        has_unicode=console.err.encoding.startswith("utf"),
    )
    for line in plan_summary(plan, inputs, estimate, None, screen, done=done):
        console.note(line)
    for path, value, origin, reason in plan_lines(plan.to_document()):
        if origin == "decided":
            console.print_line(f"  {path} = {value}  ({reason})", hidden=True)
    return estimate


def estimate_record(estimate: Mapping[str, Any]) -> dict[str, Any]:
    """The estimate in run.json, which the report compares with what was measured."""
    return {
        "memory_gb": round(estimate["memory_bytes"]["total"] / 1e9, 3),
        "seconds_per_step": estimate["step"]["seconds"],
        "evaluation_seconds": estimate["training"]["evaluation_seconds"],
    }


def _planned_machine(machine: Machine, loaded: LoadedRecipe, gpu_memory: float | None) -> Machine:
    """This machine, or assumed GPUs of ``gpu_memory`` GB, or where the recipe has more processes than this machine has GPUs."""
    from orpo_cli.machine import assume_gpus

    launch, gpus = loaded.recipe.launch, machine.device_count if machine.device == "cuda" else 0
    if gpu_memory is not None:
        if not 1 <= gpu_memory <= MAX_GPU_GB:
            raise UsageError(
                f"--gpu-memory {gpu_memory:g}: not the memory of a GPU.", remedy="Give the GB of one GPU, such as 24."
            )
        if loaded.recipe.training.use_cpu:
            raise UsageError(
                "--gpu-memory does nothing: the recipe sets training.use_cpu.", remedy="Remove one of both."
            )
        count = 1 if launch.num_processes == "auto" else max(1, launch.num_processes // launch.num_machines)
        return assume_gpus(machine, count, round(gpu_memory * 1e9))
    if launch.num_processes == "auto" or launch.num_processes == 1 or loaded.recipe.training.use_cpu:
        return machine
    count = max(1, launch.num_processes // launch.num_machines)
    return machine if count <= gpus else assume_gpus(machine, count)


def _read_model_facts(
    source: ModelSource[ModelSection], loaded: LoadedRecipe, console: Console, *, to_train: bool
) -> ModelFacts | None:
    """Facts of the model; where the hub cannot be reached, those of a configuration in this package, or None."""
    from orpo_cli.model.model_facts import known_facts, model_facts

    training, lora = loaded.recipe.training, loaded.recipe.lora
    dropout = training.disable_dropout is False or (lora is not None and lora.lora_dropout > 0)
    try:
        return model_facts(source, training.max_length, dropout_disabled=not dropout)
    except HubError as error:
        if to_train:
            raise
        facts = known_facts(source.section, training.max_length, dropout_disabled=not dropout)
        if facts is None:
            _, size = defaults_for_size(None, source.section.model_name_or_path)
        else:
            size = f"{facts.parameters / 1e9:.3g}B parameters, which orpo-cli knows it has"
        console.warn(f"{error.message} Values that depend on the model's size are those of {size}.")
        return facts
