"""Resolution of a recipe for a machine and a model: every ``auto`` is decided, every default is named, each with its reason.

Two values need the memory estimate, which needs the other values. ``draft_plan`` leaves them open.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orpo_cli.errors import UsageError
from orpo_cli.machine import Machine
from orpo_cli.plan.model_facts import ModelFacts, defaults_for_size
from orpo_cli.plan.plan import (
    DatasetPlan,
    Device,
    EngineDraft,
    ExportPlan,
    LaunchPlan,
    MergePlan,
    ModelPlan,
    Plan,
    PlanDraft,
    QuantizationPlan,
    Why,
)
from orpo_cli.recipe import eval_save_defaults
from orpo_cli.recipe.eval_save_defaults import SCHEDULES_WITHOUT_WARMUP
from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.recipe.schema import ModelSection, Source

REASONS = {
    "recipe": "as the recipe says",
    "override": "set on the command line",
    "environment": "as an environment variable says",
    "default": "default",
}
LAYERS_REPEATED = "lora.layer_replication lets layers share one attention"  # why steps are not packed
MAX_TOKENS_ON_CPU, MAX_TOKENS_ON_GPU = 2048, 8192  # of a micro-batch, where there is no memory estimate
NEEDS_CUDA = ("paged_", "_8bit", "_4bit", "bnb")


class _Decisions:
    """Reasons of the values, collected while they are decided."""

    def __init__(self, loaded: LoadedRecipe) -> None:
        self.loaded = loaded
        self.why: dict[str, Why] = {}

    def decide(self, path: str, value: Any, reason: str) -> Any:
        self.why[path] = Why(origin="decided", reason=reason)
        return value

    def keep(self, path: str, reason: str | None = None) -> None:
        """Record the origin of a value that was not decided here; ``reason`` replaces the usual one."""
        if path not in self.why:
            origin = self.loaded.origin(path)
            self.why[path] = Why(origin=origin, reason=reason or REASONS[origin])


def resolve(loaded: LoadedRecipe, machine: Machine, facts: ModelFacts | None = None) -> Plan:
    """The plan where there is no memory estimate."""
    return complete_by_default(draft_plan(loaded, machine, facts))


def draft_plan(loaded: LoadedRecipe, machine: Machine, facts: ModelFacts | None = None) -> PlanDraft:
    """Decide everything that needs no memory estimate. ``facts`` is None if the model's configuration cannot be read.

    Raises UsageError if the recipe requires packed steps and the model does not allow them.
    """
    recipe = loaded.recipe
    decisions = _Decisions(loaded)
    device = _device(decisions, machine)
    training = _Training(decisions, machine, facts, device).values()
    model = _model(decisions, machine, facts, device)
    one_process = "this version trains in one process"
    draft = PlanDraft(
        name=loaded.name,
        output_dir=str(Path(recipe.output_dir or Path("runs") / loaded.name).expanduser().absolute()),
        device=device,
        model=model,
        quantization=_quantization(decisions, training, model),
        lora=recipe.lora,
        dataset=_dataset(decisions, training["max_length"]),
        training=training,
        engine=_engine(decisions, facts, device),
        launch=LaunchPlan(
            num_processes=decisions.decide("launch.num_processes", 1, one_process),
            strategy=decisions.decide("launch.strategy", "single", one_process),
        ),
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
    usual = {
        "training.gradient_checkpointing": "memory before speed" if on_gpu else "speed before memory",
        "engine.max_tokens_per_microbatch": f"usual on {draft.device}",
    }
    return draft.complete(
        max_tokens_per_microbatch=MAX_TOKENS_ON_GPU if on_gpu else MAX_TOKENS_ON_CPU,
        gradient_checkpointing=on_gpu,
        why={path: Why(origin="decided", reason=reason) for path, reason in usual.items() if path in draft.undecided()},
    )


def _device(decisions: _Decisions, machine: Machine) -> Device:
    if decisions.loaded.recipe.training.use_cpu:
        return decisions.decide("device", "cpu", "training.use_cpu")  # type: ignore[no-any-return]
    reason = {"cuda": machine.device_name, "mps": "Apple GPU", "cpu": "no GPU found"}[machine.device]
    return decisions.decide("device", machine.device, reason)  # type: ignore[no-any-return]


def _model(decisions: _Decisions, machine: Machine, facts: ModelFacts | None, device: Device) -> ModelPlan:
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
    if section.chat_template.endswith(".jinja"):
        if local := loaded.local_path("model.chat_template", section.chat_template):
            changes["chat_template"] = str(local)
    return section.model_copy(update=changes)


def _quantization(decisions: _Decisions, training: dict[str, Any], model: ModelPlan) -> QuantizationPlan | None:
    section = decisions.loaded.recipe.quantization
    if section is None:
        return None
    dtype: str = section.bnb_4bit_compute_dtype
    if dtype == "auto":
        dtype = "bfloat16" if training["bf16"] else "float16" if training["fp16"] else model.dtype
        decisions.decide("quantization.bnb_4bit_compute_dtype", dtype, "the dtype that training computes in")
    return QuantizationPlan(**{**dict(section), "bnb_4bit_compute_dtype": dtype})


def _engine(decisions: _Decisions, facts: ModelFacts | None, device: Device) -> EngineDraft:
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
        tokens = decisions.decide(
            "engine.max_tokens_per_microbatch",
            MAX_TOKENS_ON_CPU if device == "cpu" else MAX_TOKENS_ON_GPU,
            "no effect: trl's own path cuts by per_device_train_batch_size",
        )
    return EngineDraft(fast_path=path, max_tokens_per_microbatch=tokens)


def _export_dtype(decisions: _Decisions, model: ModelPlan) -> str:
    recipe = decisions.loaded.recipe
    if recipe.export.dtype != "auto":
        return recipe.export.dtype
    merged = recipe.lora is not None and recipe.merge.dtype != "auto"
    reason = "as the model to export: a merge with another dtype is exported with that one"
    return decisions.decide("export.dtype", recipe.merge.dtype if merged else model.dtype, reason)  # type: ignore[no-any-return]


def _merge_dtype(decisions: _Decisions, model: ModelPlan) -> str:
    dtype = decisions.loaded.recipe.merge.dtype
    if dtype != "auto":
        return dtype
    return decisions.decide("merge.dtype", model.dtype, "the dtype of the base weights")  # type: ignore[no-any-return]


def _dataset(decisions: _Decisions, max_length: int) -> DatasetPlan:
    section = decisions.loaded.recipe.dataset
    changes: dict[str, Any] = {"train": _sources(decisions, "dataset.train", section.train)}
    if isinstance(section.eval, list):
        changes["eval"] = _sources(decisions, "dataset.eval", section.eval)
    if section.max_prompt_length is None:
        changes["max_prompt_length"] = decisions.decide(
            "dataset.max_prompt_length", max(1, max_length // 2), "half of training.max_length"
        )
    return DatasetPlan(**{**dict(section), **changes})


def _sources(decisions: _Decisions, path: str, sources: list[Source]) -> list[Source]:
    """The sources with local paths made absolute."""
    located = []
    for index, source in enumerate(sources):
        local = decisions.loaded.local_path(f"{path}[{index}].path", source.path)
        located.append(source if local is None else source.model_copy(update={"path": str(local)}))
    return located


class _Training:
    """The keyword arguments of trl's ORPOConfig."""

    def __init__(self, decisions: _Decisions, machine: Machine, facts: ModelFacts | None, device: Device) -> None:
        self.decisions, self.machine, self.facts, self.device = decisions, machine, facts, device
        self.recipe = decisions.loaded.recipe
        self.result: dict[str, Any] = self.recipe.training.model_dump(exclude_none=True)

    def values(self) -> dict[str, Any]:
        """The recipe's values, and defaults for the model and the machine."""
        self._by_size()
        self._schedule()
        self._evaluation()
        self._precision()
        self._optimizer()
        self._dropout()
        self._fixed()
        return self.result

    def default(self, name: str, value: Any, reason: str) -> None:
        """Set an argument that the recipe does not set."""
        if name not in self.result:
            self.result[name] = self.decisions.decide(f"training.{name}", value, reason)

    def replace(self, name: str, value: Any, reason: str) -> None:
        """Set an argument to what this machine or this tool needs."""
        self.result[name] = self.decisions.decide(f"training.{name}", value, reason)

    def _by_size(self) -> None:
        row, size = defaults_for_size(self.facts.parameters if self.facts else None)
        lora = self.recipe.lora is not None
        rate = row.lora_learning_rate if lora else row.full_learning_rate
        self.default("learning_rate", rate, f"{'LoRA' if lora else 'full weights'}, {size}")
        self.default("loss_on_prompt", True, "as trl and the authors' released code")
        self.default("beta", row.beta, f"the paper's lambda for {size}")
        length = 2048
        reason = "the paper's length for UltraFeedback"
        if self.facts and self.facts.max_position_embeddings and self.facts.max_position_embeddings < length:
            length, reason = self.facts.max_position_embeddings, "the longest sequence the model has positions for"
        self.default("max_length", length, reason)

    def _schedule(self) -> None:
        self.default("per_device_train_batch_size", 4, "with accumulation, 32 pairs a step")
        batch = self.result["per_device_train_batch_size"]
        if self.result.get("optim", "").endswith("_layerwise"):
            self.default("gradient_accumulation_steps", 1, "a layer-wise optimizer steps in every backward pass")
        self.default(
            "gradient_accumulation_steps", max(1, 32 // batch), f"{max(1, 32 // batch)} × {batch}: 32 pairs a step"
        )
        steps = self.result.get("max_steps", -1)
        if steps > 0 and "num_train_epochs" in self.result:
            self.decisions.keep("training.num_train_epochs", f"without effect: max_steps = {steps} ends the run")
        elif steps <= 0:
            epochs = 3.0 if self.recipe.lora is None else 2.0
            self.default("num_train_epochs", epochs, "full weights" if self.recipe.lora is None else "LoRA")
        self.default("lr_scheduler_type", "cosine", "as in the paper")
        if self.result["lr_scheduler_type"] not in SCHEDULES_WITHOUT_WARMUP:
            self.default("warmup_steps", 0.1, "a tenth of all steps")
        self.default("logging_steps", 1, "every step is worth a line")
        self.default("seed", 42, "default")
        self.default("report_to", "none", "nothing is sent to another service by default")

    def _evaluation(self) -> None:
        timing = {f"{kind}_{what}" for kind in ("eval", "save") for what in ("strategy", "steps")}
        written = (timing | {"load_best_model_at_end"}) & self.result.keys()
        has_eval = self.recipe.dataset.eval is not None
        self.default("save_strategy", *eval_save_defaults.save_strategy(self.recipe))
        self.default("eval_strategy", *eval_save_defaults.eval_strategy(self.recipe))
        if self.result["eval_strategy"] == "steps":
            self.default("eval_steps", *eval_save_defaults.eval_steps(self.recipe))
        if self.result["save_strategy"] == "steps":
            self.default("save_steps", *eval_save_defaults.save_steps(self.recipe))
        if self.result["save_strategy"] == "best":
            self.default("metric_for_best_model", "loss", "the checkpoint with the lowest eval loss is kept")
        if has_eval and not written:
            self.default(
                "load_best_model_at_end", True, "the checkpoint with the lowest eval loss is kept, as in the paper"
            )
        if has_eval:
            self.default(
                "per_device_eval_batch_size",
                self.result["per_device_train_batch_size"],
                "as per_device_train_batch_size",
            )

    def _precision(self) -> None:
        half = self.device == "cuda"
        if not self.result.get("fp16"):
            reason = "the GPU computes bfloat16" if half and self.machine.bf16 else f"not on {self.machine.device_name}"
            self.default("bf16", half and self.machine.bf16, reason)
        self.default(
            "fp16", half and not self.result.get("bf16"), "bf16 is used" if self.result.get("bf16") else self.device
        )
        self.result.setdefault("bf16", False)
        if self.result.get("tf32") and not (half and self.machine.bf16):  # both came with Ampere
            self.replace("tf32", None, f"{self.machine.device_name} does not compute TF32")
        if "activation_checkpointing" not in self.result:  # the same setting by its newer name
            self.result.setdefault("gradient_checkpointing", None)  # the memory estimate decides it
        if self.device == "cpu":
            if not self.result.get("use_cpu"):
                self.replace("use_cpu", True, "no GPU found")
            self.default("dataloader_pin_memory", False, "pinned memory is of use with a GPU only")

    def _optimizer(self) -> None:
        self.default("optim", "adamw_torch_fused" if self.device == "cuda" else "adamw_torch", f"on {self.device}")
        optimizer = self.result["optim"]
        if self.device != "cuda" and any(part in optimizer for part in NEEDS_CUDA):
            self.replace("optim", "adamw_torch", f"{optimizer} is made for CUDA GPUs")

    def _dropout(self) -> None:
        lora = self.recipe.lora
        if lora is not None and lora.lora_dropout > 0:
            self.default(
                "disable_dropout", False, f"trl's default would set lora_dropout = {lora.lora_dropout} to zero"
            )

    def _fixed(self) -> None:
        """Arguments that a recipe cannot set: its rules refuse them."""
        self.replace(
            "logging_nan_inf_filter", False, "a loss that is not finite stops the run; the library would log it as 0.0"
        )
        self.replace("remove_unused_columns", False, "orpo names the columns")
        self.replace("disable_tqdm", True, "orpo shows the progress")
        if "logging_dir" in self.result:
            self.result["logging_dir"] = str(Path(self.result["logging_dir"]).expanduser().absolute())
        if "ddp_backend" in self.result:  # with it, the library expects a process group
            self.replace("ddp_backend", None, "there is one process")


def _leaves(values: dict[str, Any], decided: dict[str, Why], prefix: str = "") -> list[str]:
    paths: list[str] = []
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and path not in decided:
            paths += _leaves(value, decided, f"{path}.")
        else:
            paths.append(path)
    return paths
