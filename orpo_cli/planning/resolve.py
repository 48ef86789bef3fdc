"""Resolution of a recipe for a machine and a model: every ``auto`` is decided, every default is named, each with its reason.

Some values need the memory estimate, which needs the other values. ``draft_plan`` leaves them open.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from orpo_cli.errors import UsageError
from orpo_cli.machine import Device, Machine
from orpo_cli.nearest_path import near_path_remedy
from orpo_cli.planning.decisions import Decisions
from orpo_cli.planning.launch import decide_launch, decide_processes
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.planning.plan import (
    TOKEN_BUDGET,
    DatasetPlan,
    EngineDraft,
    ExportPlan,
    MergePlan,
    ModelPlan,
    Plan,
    PlanDraft,
    QuantizationPlan,
)
from orpo_cli.planning.training_args import TrainingArguments
from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.recipe.schema import TEMPLATE_SUFFIXES, ModelSection, Source

LAYERS_REPEATED = "lora.layer_replication lets layers share one attention"  # why steps are not packed
MAX_TOKENS = {"cpu": 2048, "cuda": 8192, "mps": 8192}  # of a micro-batch, where there is no memory estimate


def resolve(loaded: LoadedRecipe, machine: Machine, facts: ModelFacts | None = None) -> Plan:
    """The plan where there is no memory estimate."""
    return complete_by_default(draft_plan(loaded, machine, facts))


def draft_plan(loaded: LoadedRecipe, machine: Machine, facts: ModelFacts | None = None) -> PlanDraft:
    """Decide everything that needs no memory estimate. ``facts`` is None if the model's configuration cannot be read.

    Raises UsageError if the recipe requires packed steps and the model does not allow them, or names a file that cannot be read.
    """
    recipe = loaded.recipe
    decisions = Decisions(loaded)
    device = _device(decisions, machine)
    processes = decide_processes(decisions, machine, device)
    arguments = TrainingArguments(decisions, machine, facts, device, processes)
    training = arguments.decide()
    model = _model(decisions, machine, facts, device)
    draft = PlanDraft(
        name=loaded.name,
        output_dir=str(loaded.output_dir),
        tags=recipe.tags,
        device=device,
        model=model,
        quantization=_quantization(decisions, training, model),
        lora=recipe.lora,
        dataset=_dataset(decisions, training["max_length"]),
        training=training,
        engine=_engine(decisions, facts, device),
        launch=decide_launch(decisions, machine, processes, arguments.pairs_per_step),
        merge=MergePlan(**{**dict(recipe.merge), "dtype": _merge_dtype(decisions, model)}),
        export=ExportPlan(**{**dict(recipe.export), "dtype": _export_dtype(decisions, model)}),
        hub=recipe.hub,
        secrets=sorted(loaded.source_map.secrets),
        why={},
    )
    if recipe.output_dir is None:
        decisions.decide("output_dir", draft.output_dir, "runs/NAME in the current directory")
    for path in _leaves(draft.values(), decisions.why):
        if path not in draft.undecided():
            decisions.keep(path)
    return draft.model_copy(update={"why": decisions.why})


def complete_by_default(draft: PlanDraft) -> Plan:
    """The plan of ``draft`` with the usual values where the memory estimate would decide."""
    on_gpu = draft.device != "cpu"
    return draft.complete(
        gradient_checkpointing=(on_gpu, "memory before speed" if on_gpu else "speed before memory"),
        max_tokens_per_microbatch=(MAX_TOKENS[draft.device], f"usual on {draft.device}"),
    )


def _device(decisions: Decisions, machine: Machine) -> Device:
    if decisions.loaded.recipe.training.use_cpu:
        return decisions.decide("device", "cpu", "training.use_cpu")
    reason = {"cuda": machine.device_name, "mps": "Apple GPU", "cpu": "no GPU found"}[machine.device]
    return decisions.decide("device", machine.device, reason)


def _model(decisions: Decisions, machine: Machine, facts: ModelFacts | None, device: Device) -> ModelPlan:
    recipe = decisions.loaded.recipe
    changes: dict[str, Any] = {}
    if recipe.model.dtype == "auto":
        dtype, reason = "float32", f"training on {device}"
        if device == "cuda" and recipe.lora is None:
            reason = "all weights are trained: bfloat16 would round small updates away"
        elif device == "cuda":
            dtype = "bfloat16" if machine.bf16 else "float16"
            reason = f"frozen weights; the GPU {'computes' if machine.bf16 else 'does not compute'} bfloat16"
        changes["dtype"] = decisions.decide("model.dtype", dtype, reason)
    if recipe.model.attn_implementation == "auto":
        half = (changes.get("dtype") or recipe.model.dtype) != "float32"
        attention, reason = "sdpa", "torch's kernel, which every device supports"
        if facts is not None and not facts.supports_sdpa:
            attention, reason = "eager", f"{facts.model_type} has no sdpa attention in transformers"
        elif machine.flash_attention and device == "cuda" and half:
            attention, reason = "flash_attention_2", "flash_attn is installed and the GPU runs it"
        changes["attn_implementation"] = decisions.decide("model.attn_implementation", attention, reason)
    elif recipe.model.attn_implementation == "flash_attention_2" and not (machine.flash_attention and device == "cuda"):
        reason = "flash_attn is not installed, or the device cannot run it"
        changes["attn_implementation"] = decisions.decide("model.attn_implementation", "sdpa", reason)
    return ModelPlan(**{**dict(model_with_absolute_paths(decisions.loaded)), **changes})


def model_with_absolute_paths(loaded: LoadedRecipe) -> ModelSection:
    """The model section with local paths made absolute."""
    section = loaded.recipe.model
    changes = {}
    if local := loaded.local_path("model.model_name_or_path", section.model_name_or_path):
        changes["model_name_or_path"] = str(local)
    if section.chat_template.lower().endswith(TEMPLATE_SUFFIXES):
        if local := loaded.local_path("model.chat_template", section.chat_template):
            changes["chat_template"] = str(local)
        elif "{%" not in section.chat_template and "{{" not in section.chat_template:
            path = loaded.search_directories("model.chat_template")[0] / section.chat_template
            raise UsageError(
                f"model.chat_template: {path} does not exist.",
                remedy=near_path_remedy(
                    path,
                    "Give the path of a .jinja file.",
                    lambda found: found.suffix.lower() in TEMPLATE_SUFFIXES,
                ),
            )
    return section.model_copy(update=changes)


def _quantization(decisions: Decisions, training: dict[str, Any], model: ModelPlan) -> QuantizationPlan | None:
    section = decisions.loaded.recipe.quantization
    if section is None:
        return None
    dtype: str = section.bnb_4bit_compute_dtype
    if dtype == "auto":
        dtype = "bfloat16" if training["bf16"] else "float16" if training["fp16"] else model.dtype
        decisions.decide("quantization.bnb_4bit_compute_dtype", dtype, "the dtype that training computes in")
    return QuantizationPlan(**{**dict(section), "bnb_4bit_compute_dtype": dtype})


def _engine(decisions: Decisions, facts: ModelFacts | None, device: Device) -> EngineDraft:
    section = decisions.loaded.recipe.engine
    obstacle = facts.not_packable if facts is not None else None
    lora = decisions.loaded.recipe.lora
    if lora is not None and lora.layer_replication:
        obstacle = obstacle or LAYERS_REPEATED
    path: Any = section.fast_path
    if path == "required" and obstacle:
        raise UsageError(
            f"engine.fast_path is required, but {obstacle}.", remedy="Use auto, which takes trl's own path."
        )
    if path == "auto":
        reason = f"trl's own path: {obstacle}" if obstacle else "compared with trl's own path on the first pairs"
        path = decisions.decide("engine.fast_path", "off" if obstacle else "on", reason)
    tokens = None if section.max_tokens_per_microbatch == "auto" else section.max_tokens_per_microbatch
    if tokens is None and path == "off":
        reason = "no effect: trl's own path cuts by per_device_train_batch_size"
        tokens = decisions.decide(TOKEN_BUDGET, MAX_TOKENS[device], reason)
    return EngineDraft(fast_path=path, max_tokens_per_microbatch=tokens)


def _export_dtype(decisions: Decisions, model: ModelPlan) -> str:
    recipe = decisions.loaded.recipe
    if recipe.export.dtype != "auto":
        return recipe.export.dtype
    merged = recipe.lora is not None and recipe.merge.dtype != "auto"
    reason = "as the model to export: a merge with another dtype is exported with that one"
    return decisions.decide("export.dtype", recipe.merge.dtype if merged else model.dtype, reason)


def _merge_dtype(decisions: Decisions, model: ModelPlan) -> str:
    dtype = decisions.loaded.recipe.merge.dtype
    if dtype != "auto":
        return dtype
    return decisions.decide("merge.dtype", model.dtype, "the dtype of the base weights")


def _dataset(decisions: Decisions, max_length: int) -> DatasetPlan:
    section = decisions.loaded.recipe.dataset
    changes: dict[str, Any] = {"train": _sources(decisions, "dataset.train", section.train)}
    if isinstance(section.eval, list):
        changes["eval"] = _sources(decisions, "dataset.eval", section.eval)
    if section.max_prompt_length is None:
        half, reason = max(1, max_length // 2), "half of training.max_length; only for pairs above max_length"
        changes["max_prompt_length"] = decisions.decide("dataset.max_prompt_length", half, reason)
    return DatasetPlan(**{**dict(section), **changes})


def _sources(decisions: Decisions, path: str, sources: list[Source]) -> list[Source]:
    """The sources with local paths made absolute."""
    located = []
    for index, source in enumerate(sources):
        local = decisions.loaded.local_path(f"{path}[{index}].path", source.path)
        located.append(source if local is None else source.model_copy(update={"path": str(local)}))
    return located


def _leaves(values: dict[str, Any], decided: Collection[str], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and path not in decided:
            yield from _leaves(value, decided, f"{path}.")
        else:
            yield path
