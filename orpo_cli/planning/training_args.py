"""Training arguments of a plan: the recipe's, and defaults by model size, device and schedule."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from orpo_cli.machine import Device, Machine
from orpo_cli.planning.decisions import Decisions
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.planning.size_defaults import defaults_for_size
from orpo_cli.recipe import eval_save_defaults
from orpo_cli.recipe.eval_save_defaults import SCHEDULES_WITHOUT_WARMUP

NEEDS_CUDA = ("paged_", "_8bit", "_4bit", "bnb")


class TrainingArguments:
    """The keyword arguments of trl's ORPOConfig."""

    def __init__(
        self, decisions: Decisions, machine: Machine, facts: ModelFacts | None, device: Device, processes: int
    ) -> None:
        self.decisions, self.machine, self.facts, self.device = decisions, machine, facts, device
        self.processes = processes
        self.recipe = decisions.loaded.recipe
        self.pairs_per_step = 0  # of all processes; known once the schedule is decided
        self.result: dict[str, Any] = self.recipe.training.model_dump(exclude_none=True)

    def decide(self) -> dict[str, Any]:
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
        row, size = defaults_for_size(
            self.facts.parameters if self.facts else None, self.recipe.model.model_name_or_path
        )
        lora = self.recipe.lora is not None
        rate = row.lora_learning_rate if lora else row.full_learning_rate
        self.default("learning_rate", rate, f"{'LoRA' if lora else 'full weights'}, {size}")
        self.default("loss_on_prompt", True, "as trl and the authors' released code")
        self.default("nll_weight", 1.0, "as in the paper, Eq. 6")
        self.default("beta", row.beta, f"the paper's lambda for {size}")
        length = 2048
        reason = "the paper's length for UltraFeedback"
        if self.facts and self.facts.max_position_embeddings and self.facts.max_position_embeddings < length:
            length, reason = self.facts.max_position_embeddings, "the longest sequence the model has positions for"
        self.default("max_length", length, reason)

    def _schedule(self) -> None:
        self.default("per_device_train_batch_size", 4, "with accumulation, 32 pairs a step")
        self._step()
        steps = self.result.get("max_steps", -1)
        if steps > 0 and "num_train_epochs" in self.result:
            self.decisions.keep("training.num_train_epochs", f"without effect: max_steps = {steps} ends the run")
        elif steps <= 0:
            epochs, method = (3.0, "full weights") if self.recipe.lora is None else (2.0, "LoRA")
            self.default("num_train_epochs", epochs, method)
        self.default("lr_scheduler_type", "cosine", "as in the paper")
        if self.result["lr_scheduler_type"] not in SCHEDULES_WITHOUT_WARMUP:
            self.default("warmup_steps", 0.1, "a tenth of all steps")
        self.default("logging_steps", 1, "every step is worth a line")
        self.default("seed", 42, "default")
        self.default("report_to", "none", "nothing is sent to another service by default")

    def _step(self) -> None:
        """Pairs of a step. A written number of processes multiplies them; with auto, the step does not depend on the machine."""
        batch, processes = self.result["per_device_train_batch_size"], self.processes
        if self.result.get("optim", "").endswith("_layerwise"):
            self.default("gradient_accumulation_steps", 1, "a layer-wise optimizer steps in every backward pass")
        name = "gradient_accumulation_steps"
        written = self.result.get(name)
        if written is not None and self.recipe.launch.num_processes != "auto":
            self.pairs_per_step = batch * written * processes
            return
        accumulated = written or max(1, 32 // batch)
        self.pairs_per_step = batch * accumulated
        if processes == 1:
            self.default(name, accumulated, f"{accumulated} × {batch}: 32 pairs a step")
            return
        shared = math.ceil(self.pairs_per_step / (batch * processes))
        reason = f"{batch} × {accumulated} = {self.pairs_per_step} pairs a step, shared by {processes} processes"
        if written != shared:
            self.replace(name, shared, reason)

    def _evaluation(self) -> None:
        timing = {f"{kind}_{what}" for kind in ("eval", "save") for what in ("strategy", "steps")}
        written = (timing | {"load_best_model_at_end"}) & self.result.keys()
        self.default("save_strategy", *eval_save_defaults.save_strategy(self.recipe))
        self.default("eval_strategy", *eval_save_defaults.eval_strategy(self.recipe))
        if self.result["eval_strategy"] == "steps":
            self.default("eval_steps", *eval_save_defaults.eval_steps(self.recipe))
        if self.result["save_strategy"] == "steps":
            self.default("save_steps", *eval_save_defaults.save_steps(self.recipe))
        if self.result["save_strategy"] == "best":
            self.default("metric_for_best_model", "loss", "the checkpoint with the lowest eval loss is kept")
        if self.recipe.dataset.eval is not None:
            if not written:
                kept = "the checkpoint with the lowest eval loss is kept, as in the paper"
                self.default("load_best_model_at_end", True, kept)
            if self.result["eval_strategy"] != "no":
                self.default("eval_on_start", True, "the accuracy of the base, to compare with")

    def _precision(self) -> None:
        half = self.device == "cuda"
        if not self.result.get("fp16"):
            reason = "the GPU computes bfloat16" if half and self.machine.bf16 else f"not on {self.machine.device_name}"
            self.default("bf16", half and self.machine.bf16, reason)
        bf16 = self.result.setdefault("bf16", False)
        self.default("fp16", half and not bf16, "bf16 is used" if bf16 else self.device)
        if self.result.get("tf32") and not (half and self.machine.bf16):  # both came with Ampere
            self.replace("tf32", None, f"{self.machine.device_name} does not compute TF32")
        fsdp = self.recipe.launch.fsdp_config
        if fsdp is not None and fsdp.activation_checkpointing:
            self.default("gradient_checkpointing", True, "launch.fsdp_config.activation_checkpointing")
        if "activation_checkpointing" not in self.result:  # the same setting by its newer name
            self.result.setdefault("gradient_checkpointing", None)  # the memory estimate decides it
        if self.device == "cpu":
            if not self.result.get("use_cpu"):
                self.replace("use_cpu", True, "no GPU found")
            self.default("dataloader_pin_memory", False, "pinned memory is of use with a GPU only")
            for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
                options = self.result.get(name)
                if isinstance(options, dict) and options.get("offload"):
                    rest = {key: value for key, value in options.items() if key != "offload"}
                    self.replace(name, rest or None, "activations are in main memory already")

    def _optimizer(self) -> None:
        self.default("optim", "adamw_torch_fused" if self.device == "cuda" else "adamw_torch", f"on {self.device}")
        optimizer = self.result["optim"]
        if self.device != "cuda" and any(part in optimizer for part in NEEDS_CUDA):
            self.replace("optim", "adamw_torch", f"{optimizer} is made for CUDA GPUs")

    def _dropout(self) -> None:
        lora = self.recipe.lora
        if lora is not None and lora.lora_dropout > 0:
            reason = f"trl's default would set lora_dropout = {lora.lora_dropout} to zero"
            self.default("disable_dropout", False, reason)

    def _fixed(self) -> None:
        """Arguments that a recipe cannot set: its rules refuse them."""
        not_finite = "a loss that is not finite stops the run; the library would log it as 0.0"
        self.replace("logging_nan_inf_filter", False, not_finite)
        self.replace("remove_unused_columns", False, "orpo names the columns")
        self.replace("disable_tqdm", True, "orpo shows the progress")
        if "logging_dir" in self.result:
            self.result["logging_dir"] = str(Path(self.result["logging_dir"]).expanduser().absolute())
        if "ddp_backend" in self.result and self.processes == 1:  # with it, the library expects a process group
            self.replace("ddp_backend", None, "there is one process")
