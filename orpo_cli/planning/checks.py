"""Checks of a plan: errors and unusual values that show only with the facts of the machine and the model.

As with the rules of a recipe, each check is a function that yields Problems, and the code of a Problem is the name of a page in
docs/troubleshooting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orpo_cli.errors import Problem
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.planning.plan import PlanDraft
from orpo_cli.planning.size_defaults import defaults_for_size
from orpo_cli.recipe.deepspeed_config import deepspeed_problems
from orpo_cli.recipe.did_you_mean import closest_name
from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.recipe.rules.distributed import launch_settings_unused
from orpo_cli.recipe.rules.model import REVISION_UNUSED, revision_of_local_model

UNUSUAL_FACTOR = 10  # from the default; the sources of the defaults stay within it
OTHER_RATE_OPTIMIZERS = ("sgd", "lion", "adagrad", "rmsprop", "lomo")  # parts of names; their learning rates differ
# Values that a plan has in another form: absolute paths, the content of a file, and the step shared by the processes.
OTHER_FORM = (
    "output_dir",
    "model.model_name_or_path",
    "launch.deepspeed_config",
    "training.gradient_accumulation_steps",
)
USUAL_RATES = {
    "full weights": "the paper has 8e-6, its scripts 5e-6, and its authors advise up to 2e-5",
    "LoRA": "the paper's authors advise 5e-5 to 5e-4, and the usual recipes have 1e-5 to 2e-4",
}


def plan_problems(plan: PlanDraft, loaded: LoadedRecipe, facts: ModelFacts | None) -> list[Problem]:
    """Every problem of ``plan``, with the file and line of its cause. No check depends on the memory estimate."""
    found = (
        *_prompt_fills_length(plan),
        *_revision_of_a_folder(plan, loaded),
        *_learning_rate(plan, loaded, facts),
        *_target_modules(plan, facts),
        *_length_beyond_positions(plan, loaded, facts),
        *_launch_settings_of_one_process(plan, loaded),
        *_deepspeed_file(plan, loaded),
        *_replaced_values(plan, loaded),
    )
    return [loaded.source_map.locate_problem(problem) for problem in found]


def _prompt_fills_length(plan: PlanDraft) -> Iterator[Problem]:
    """The recipe has this rule, too; here one of the two lengths may have been decided."""
    longest, longest_prompt = plan.training["max_length"], plan.dataset.max_prompt_length
    if longest_prompt >= longest:
        yield Problem(
            "prompt-fills-length",
            f"is {longest_prompt}, which leaves no tokens for a completion in training.max_length = {longest}.",
            "dataset.max_prompt_length",
            remedy="Make it smaller than training.max_length, or raise that.",
        )


def _revision_of_a_folder(plan: PlanDraft, loaded: LoadedRecipe) -> Iterator[Problem]:
    """The recipe has this rule, too; here the name is known to be a folder."""
    on_disk = Path(plan.model.model_name_or_path).is_absolute()
    if on_disk and plan.model.model_revision != "main" and not list(revision_of_local_model(loaded.recipe)):
        yield Problem("revision-unused", REVISION_UNUSED, "model.model_revision", remedy="Remove it.")


def _learning_rate(plan: PlanDraft, loaded: LoadedRecipe, facts: ModelFacts | None) -> Iterator[Problem]:
    """Ten times the default for method and size diverges or forgets; a tenth of it learns nothing."""
    rate, optimizer = plan.training["learning_rate"], str(plan.training["optim"])
    differs = any(each in optimizer for each in OTHER_RATE_OPTIMIZERS)
    if differs or loaded.origin_kind("training.learning_rate") == "default":
        return
    row, size = defaults_for_size(facts.parameters if facts else None, loaded.recipe.model.model_name_or_path)
    method, usual = ("full weights", row.full_learning_rate) if plan.lora is None else ("LoRA", row.lora_learning_rate)
    times = max(rate / usual, usual / rate)
    if times <= UNUSUAL_FACTOR * 1.001:
        return
    yield Problem(
        "unusual-learning-rate",
        f"is {rate:g}, {times:.3g} times {'more' if rate > usual else 'less'} than the {usual:g} that suits {method} and {size}: "
        f"{USUAL_RATES[method]}.",
        "training.learning_rate",
        remedy="Remove it to take the one that suits.",
        severity="warning",
    )


def _target_modules(plan: PlanDraft, facts: ModelFacts | None) -> Iterator[Problem]:
    """PEFT adapts the layers that a list of names matches, and says nothing of a name that matches none beside others."""
    targets = None if plan.lora is None else plan.lora.target_modules
    if facts is None or not facts.linear_layers or not isinstance(targets, list):
        return
    layers = [name for name, _, _ in facts.linear_layers]
    names = sorted({name.rpartition(".")[2] for name in layers})
    for target in targets:
        if any(name == target or name.endswith(f".{target}") for name in layers):
            continue
        if close := closest_name(target, names):  # other names may be those of embeddings or of the head
            yield Problem(
                "invalid-value",
                f"the model has no layer {target}; its linear layers are {', '.join(names)}.",
                "lora.target_modules",
                remedy=f"Did you mean {close}?",
            )


def _length_beyond_positions(plan: PlanDraft, loaded: LoadedRecipe, facts: ModelFacts | None) -> Iterator[Problem]:
    """Learned positions end, which is an error. Rotary positions continue beyond what the model was trained on."""
    longest = plan.training["max_length"]
    if facts is None or facts.max_position_embeddings is None or longest <= facts.max_position_embeddings:
        return
    what = "has no position after" if facts.learned_positions else "was never trained beyond"
    yield Problem(
        "length-beyond-positions",
        f"is {longest}, and the model ({facts.model_type}) {what} token {facts.max_position_embeddings}.",
        "training.max_length",
        remedy=f"Set it to at most {facts.max_position_embeddings}.",
        severity="error" if facts.learned_positions else "warning",
    )


def _launch_settings_of_one_process(plan: PlanDraft, loaded: LoadedRecipe) -> Iterator[Problem]:
    """The recipe has this rule, too; here auto has been decided."""
    if plan.launch.strategy == "single":
        reported = {problem.path for problem in launch_settings_unused(loaded.recipe)}
        launch = loaded.recipe.launch.model_copy(update={"strategy": "single"})
        single = loaded.recipe.model_copy(update={"launch": launch})
        yield from (problem for problem in launch_settings_unused(single) if problem.path not in reported)


def _deepspeed_file(plan: PlanDraft, loaded: LoadedRecipe) -> Iterator[Problem]:
    """The recipe has these rules, too; here the content of the file is known."""
    file = loaded.recipe.launch.deepspeed_config
    if isinstance(file, str) and plan.launch.deepspeed_config is not None:
        yield from deepspeed_problems(
            plan.launch.deepspeed_config,
            quantized=plan.quantization is not None,
            loads_best_model=plan.lora is None and bool(plan.training.get("load_best_model_at_end")),
            file=file,
        )


def _replaced_values(plan: PlanDraft, loaded: LoadedRecipe) -> Iterator[Problem]:
    """Values of the recipe that this machine cannot use, and that were replaced."""
    written, planned = loaded.recipe.model_dump(), plan.values()
    for path, why in plan.why.items():
        if why.origin != "decided" or path in OTHER_FORM or loaded.source_map.find_node(path) is None:
            continue
        wanted, got = _at(written, path), _at(planned, path)
        if wanted not in (None, "auto", got):
            yield Problem(
                "value-replaced",
                f"is planned as {'not given' if got is None else got} instead of {wanted}: {why.reason}.",
                path,
                severity="warning",
            )


def _at(values: Mapping[str, Any], path: str) -> Any:
    here: Any = values
    for part in path.split("."):
        here = here.get(part) if isinstance(here, Mapping) else None
    return here
