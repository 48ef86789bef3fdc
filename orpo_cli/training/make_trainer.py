"""Trainer of a plan: TRL's ORPOTrainer, with the packed step where plan and model allow it, and the plan's adapter."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import UsageError
from orpo_cli.model.added_tokens import trainable_token_indices
from orpo_cli.model.packing_support import packing_obstacle
from orpo_cli.planning.plan import Plan
from orpo_cli.recipe.schema import FsdpConfig
from orpo_cli.training.packed_trainer import PackedTrainer
from orpo_cli.training.padded_batch import TokenizedDataset
from orpo_cli.training.setting_errors import explain_setting_errors
from orpo_cli.training.trackers import tracker_names
from orpo_cli.training.trl_trainer import PairTrainer, orpo_config

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

# Other parts of orpo-cli do what these arguments say: with them in the Trainer, an error of the hub or of a tracker would end the
# run.
HANDLED_BY_ORPO = (
    "logging_dir", "report_to", "save_before", "watchdogs", "push_to_hub", "hub_strategy", "hub_always_push", "hub_revision",
)  # fmt: skip
LORA_PLUS = ("loraplus_lr_ratio", "loraplus_lr_embedding")  # keys of `lora` that configure the optimizer


@dataclass(frozen=True)
class TrainingInputs:
    """Model, tokenizer and tokenized pairs of a training run."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    train_dataset: Dataset
    eval_dataset: Dataset | None = None


def make_trainer(
    plan: Plan,
    checkpoints: Path,
    inputs: TrainingInputs,
    callbacks: list[TrainerCallback],
    note: Callable[[str], None] = warnings.warn,
) -> PairTrainer:
    """The trainer of ``plan``; it writes to the folder ``checkpoints``, and reports to ``note`` where it leaves the fast path.

    Raises UsageError for arguments that do not go together or where a required fast path is not possible, MachineError where
    a package or device is missing.
    """
    from transformers import PrinterCallback, ProgressCallback
    from transformers.integrations.integration_utils import get_reporting_integration_callbacks

    lora, lora_plus = _lora_config(plan, inputs)
    loss_defaults = {"loss_on_prompt": True, "nll_weight": 1.0}
    arguments = {name: plan.training.get(name, default) for name, default in loss_defaults.items()}
    arguments["lora_plus"] = lora_plus
    values = {name: value for name, value in plan.training.items() if name not in (*arguments, *HANDLED_BY_ORPO)}
    trainer_class = _trainer_class(plan, inputs.model, note)
    eval_dataset = None if inputs.eval_dataset is None else TokenizedDataset(inputs.eval_dataset)
    with explain_setting_errors("model, lora or training settings"):
        trainer = trainer_class(
            **arguments,
            fsdp=(plan.launch.fsdp_config or FsdpConfig()) if plan.launch.strategy == "fsdp" else None,
            deepspeed=plan.launch.deepspeed_config if plan.launch.strategy == "deepspeed" else None,
            note=note,
            pairs_per_step=plan.launch.pairs_per_step,
            eval_batch_pairs=plan.training.get("per_device_eval_batch_size"),
            save_training_args=not plan.secrets,
            model=inputs.model,
            args=orpo_config(checkpoints, values),
            train_dataset=TokenizedDataset(inputs.train_dataset),
            eval_dataset=eval_dataset,
            processing_class=inputs.tokenizer,
            peft_config=lora,
            callbacks=callbacks,
        )
    trainer.remove_callback(PrinterCallback)  # both print to standard output, where orpo-cli has a display
    trainer.remove_callback(ProgressCallback)
    for tracker in get_reporting_integration_callbacks(trainer.args.report_to):  # kubeflow's, which nobody asks for
        trainer.remove_callback(tracker)
    trainer.args.report_to = tracker_names(plan)  # trl logs the completions of `generate_during_eval` to them
    if lora is not None:
        trainer.model.get_base_model().config.use_cache = False
    return trainer


def _lora_config(plan: Plan, inputs: TrainingInputs) -> tuple[LoraConfig | None, dict[str, float]]:
    """peft's configuration of the adapter (None: full fine-tuning), and the arguments of the LoRA+ optimizer."""
    if plan.lora is None:
        return None, {}
    from peft import LoraConfig

    values: dict[str, Any] = {name: value for name, value in plan.lora.model_dump().items() if value is not None}
    lora_plus = {name: values.pop(name) for name in LORA_PLUS if name in values}
    if added := plan.model.add_special_tokens:
        requested = values.get("trainable_token_indices")
        values["trainable_token_indices"] = trainable_token_indices(inputs.model, inputs.tokenizer, added, requested)
    with explain_setting_errors("lora"):
        return LoraConfig(task_type="CAUSAL_LM", **values), lora_plus


def _trainer_class(plan: Plan, model: PreTrainedModel, note: Callable[[str], None]) -> Callable[..., PairTrainer]:
    """PackedTrainer where the plan has packed steps and the loaded model supports them, otherwise PairTrainer.

    The model differs from the plan only where the plan did not know its configuration; the reason goes to ``note``.
    """
    if plan.engine.fast_path == "off":
        return PairTrainer
    dropout_disabled = plan.training.get("disable_dropout", True)
    obstacle = packing_obstacle(model, plan.training.get("max_length"), dropout_disabled=dropout_disabled)
    if obstacle is None:
        return partial(PackedTrainer, engine=plan.engine)
    if plan.engine.fast_path == "required":
        raise UsageError(
            f"engine.fast_path is required, but {obstacle}.", remedy="Use auto, which takes trl's own path."
        )
    note(f"trl's own path computes the steps: {obstacle}")
    return PairTrainer
